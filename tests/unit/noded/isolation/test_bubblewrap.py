"""The sandbox: what a server in it sees, and that it starts, stops and ends as any other."""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from noded_process import NodedError, NodedProcess, running_noded
from waiting import eventually

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.isolation import Isolation
from jupyterhub_agentfarm.models import LaunchSpec
from jupyterhub_agentfarm.noded import cgroups, procfs
from jupyterhub_agentfarm.noded.directories import RUN
from jupyterhub_agentfarm.noded.isolation import accounts, bubblewrap, homes
from jupyterhub_agentfarm.noded.isolation.bubblewrap import Bubblewrap
from jupyterhub_agentfarm.noded.isolation.isolator import Isolator
from jupyterhub_agentfarm.noded.isolation.layers import Account, Launch

from .conftest import PYTHON, Pair
from .test_accounts import LOOKS_AT_ANOTHER, as_account, lines
from .test_limits import HOG, MIB, needs_version1

pytestmark = pytest.mark.bwrap

#: Places of the machine that everybody may write to.
SHARED = (Path("/tmp"), Path("/var/tmp"))
SHOWS = """
import os, socket
print(sorted(os.listdir("/home")), os.listdir("/tmp"), os.listdir(os.environ["AGENTFARM_SERVER_DIR"] + "/.."))
print(sorted(int(name) for name in os.listdir("/proc") if name.isdigit()))
print(sorted(name for name in os.listdir("/dev") if name.startswith("nvidia") or name == "kmsg"))
open(os.path.expanduser("~/kept"), "w").write("by the server")
for folder in ("/tmp", "/var/tmp"):
    open(folder + "/af-own", "w").close()
try:
    open("/usr/intruder", "w")
except OSError as exc:
    print(exc.strerror)
print(open(os.environ["AGENTFARM_SERVER_DIR"] + "/key").read())
print("ready", flush=True)
socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"])).accept()
"""
ENDS_WELL = """
import os, signal, socket, sys
def end(*_):
    print("asked to end", flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True:
    socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"])).accept()
"""


def sandboxed(owner: str, program: str = ENDS_WELL, *arguments: str) -> dict[str, Any]:
    """Return the fields of a launch in the sandbox, as the owner's account."""
    return as_account(owner, program, *arguments, sandbox="bubblewrap")


def home_of(name: str) -> Path:
    """Return the home of an account."""
    return Path(pwd.getpwnam(name).pw_dir)


def left_in_shared() -> list[Path]:
    """Return where the server's file in a shared place came through to the machine."""
    return [folder for folder in SHARED if (folder / "af-own").exists()]


def contents(path: Path) -> bytes:
    """Return what a file holds."""
    return path.read_bytes()


# ---- through noded -------------------------------------------------------------------------------------------------


async def test_a_server_sees_its_own_things_only(pair: Pair) -> None:
    """Of homes, /tmp, processes, GPUs and server directories there is what is its own; the system is read-only."""
    async with running_noded() as noded:
        await noded.launch("b", **sandboxed(pair.bob))
        await noded.launch("a", **sandboxed(pair.ada, SHOWS))
        folders, processes, devices, refused, key, _ = await lines(noded, "a")
    assert folders == f"['{pair.ada}'] [] ['a']"
    assert processes == "[1, 2]"
    assert devices == "[]"
    assert refused == "Read-only file system"
    assert key == f"key of {pair.ada}"
    assert contents(home_of(pair.ada) / "kept") == b"by the server"
    assert left_in_shared() == []


async def test_a_server_gets_nothing_of_another_account(pair: Pair) -> None:
    """Home, environment with the token, server directory and process of another user's server are not even there."""
    async with running_noded() as noded:
        bob = await noded.launch("b", **sandboxed(pair.bob))
        looks = (LOOKS_AT_ANOTHER, str(home_of(pair.bob)), str(bob["pid"]), noded.server_dir("b"))
        await noded.launch("a", **sandboxed(pair.ada, *looks))
        seen = await lines(noded, "a")
        assert seen[:3] == ["home absent", "environment absent", "directory absent"]
        assert seen[3:5] == ["listing got ['a']", "signal absent"]


async def test_the_token_is_on_no_command_line(pair: Pair) -> None:
    """The environment reaches the server by inheritance: bwrap's arguments, which all can read, do not have it."""
    async with running_noded() as noded:
        status = await noded.launch("a", **sandboxed(pair.ada))
        await lines(noded, "a")
        inside = bubblewrap.inner(status["pid"])
        family = [status["pid"], *procfs.children(status["pid"]), inside]
        assert len(set(family)) == 3
        for pid in family:
            assert b"token-of" not in contents(Path(f"/proc/{pid}/cmdline"))
        assert f"TOKEN=token-of-{pair.ada}".encode() in contents(Path(f"/proc/{inside}/environ"))


async def test_a_stop_reaches_the_server_itself(pair: Pair) -> None:
    """TERM goes to the server, not to bwrap around it: it ends by itself, in its own time, with its own status."""
    async with running_noded() as noded:
        status = await noded.launch("a", **sandboxed(pair.ada))
        await lines(noded, "a")
        assert await noded.call("stop", {"lease": "a", "grace_seconds": 10}) == {"gone": True, "gpus_free": True}
        assert (await noded.call("logs", {"lease": "a"}))["text"].endswith("asked to end\n")
        (exit_,) = [found["exit"] for found in (await noded.call("servers"))["servers"]]
        assert (exit_["cause"], exit_["code"]) == ("stopped", 5)
        assert not procfs.alive(status["pid"], status["pid_start_ticks"])


async def test_servers_outlive_noded_and_are_adopted(pair: Pair) -> None:
    """After noded was killed the sandbox goes on; the next noded knows it, and ends all of it."""
    async with running_noded(arguments=["--NodedApp.cgroup=off"]) as noded:
        status = await noded.launch("a", **sandboxed(pair.ada))
        await lines(noded, "a")
        inside = bubblewrap.inner(status["pid"])
        await noded.end(signal.SIGKILL)
        await noded.start()
        (found,) = (await noded.call("servers"))["servers"]
        assert (found["pid"], found["state"]) == (status["pid"], "running")
        assert (await noded.call("stop", {"lease": "a"}))["gone"]
        assert (await noded.call("logs", {"lease": "a"}))["text"].endswith("asked to end\n")
        assert procfs.read(inside) is None


async def test_without_bwrap_around_it_the_rest_is_ended(pair: Pair) -> None:
    """When only bwrap's outer process is killed, what is inside does not stay."""
    async with running_noded(arguments=["--NodedApp.cgroup=off"]) as noded:
        status = await noded.launch("a", **sandboxed(pair.ada))
        await lines(noded, "a")
        inside = bubblewrap.inner(status["pid"])
        os.kill(status["pid"], signal.SIGKILL)
        assert noded.client
        await eventually(lambda: noded.client.exits, "the end is seen")
        await eventually(lambda: procfs.read(inside) is None, "nothing is left inside")


@pytest.mark.parametrize(
    ("program", "cause", "number"),
    [
        ("import os; os.kill(os.getpid(), 9)", "signal", 9),
        # More than 128, and no signal's.
        ("raise SystemExit(200)", "exited", None),
        pytest.param(HOG, "oom", 9, marks=needs_version1),
    ],
)
async def test_how_the_server_ended_is_known(pair: Pair, program: str, cause: str, number: int | None) -> None:
    """A signal, a status and the memory limit inside the sandbox are told as without one."""
    async with running_noded() as noded:
        limits = {"memory_bytes": 64 * MIB} if cause == "oom" else {}
        await noded.launch("a", **sandboxed(pair.ada, program), limits=limits)
        assert noded.client
        (ended,) = await eventually(lambda: noded.client.exits, "the server ends")
    assert (ended["exit"]["cause"], ended["exit"]["signal"]) == (cause, number)
    assert ended["exit"]["code"] == (200 if cause == "exited" else None)


@pytest.mark.skipif(os.geteuid() != 0, reason="bwrap: needs root, to refuse it")
async def test_root_is_refused(noded: NodedProcess) -> None:
    """A root that a sandbox would hold only in appearance is refused with the option to set."""
    with pytest.raises(NodedError, match=r"set isolation\.account as well") as failure:
        await noded.launch("a", owner="ada", isolation={"sandbox": "bubblewrap"})
    assert failure.value.reason == "launch_failed"


# ---- the wrapping itself -------------------------------------------------------------------------------------------


def run(
    account: Account, launch: Launch, wrapping: Bubblewrap, meanwhile: Callable[[], None] = lambda: None
) -> list[str]:
    """Wrap a launch, do something else, run it as an account and return its lines."""
    wrapped = wrapping.wrap(launch)
    meanwhile()
    done = subprocess.run(
        wrapped.argv,
        env=dict(wrapped.environment),
        cwd=wrapped.cwd,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def launch_of(account: Account, directory: Path, program: str, owner: str = "ada", **minors: int) -> Launch:
    """Return a launch of a program in the sandbox."""
    spec = LaunchSpec("a", 1, (PYTHON, "-c", program), {}, (), "127.0.0.1", "/", owner=owner)
    return Launch(spec, account, {"HOME": account.home, "XDG_RUNTIME_DIR": "/x"}, directory, account.home, minors)


@pytest.fixture
def ada(pair: Pair) -> Account:
    """The account of the first user."""
    spec = LaunchSpec("a", 1, ("x",), {}, (), "h", "/", owner=pair.ada, isolation=Isolation(account="{username}"))
    return accounts.account_for(spec)


@pytest.fixture
def directory(ada: Account) -> Path:
    """A server directory of the account; its place is open to accounts, as that of a noded that is root is."""
    folder = Path(ada.home) / "server"
    folder.mkdir(exist_ok=True)
    os.chown(folder, ada.uid, ada.gid)
    return folder


def test_only_the_leased_gpus_are_there(ada: Account, directory: Path, tmp_path: Path) -> None:
    """/dev has the leased GPU and the control devices, which can be opened, and no other; without a lease neither."""
    for name in ("nvidia3", "nvidia5", "nvidiactl", "nvidia-uvm"):
        # These open on every machine; in the sandbox they are called as the real ones.
        os.mknod(tmp_path / name, stat.S_IFCHR, os.makedev(1, 3))
        (tmp_path / name).chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and len(folder.parts) > 2:
            folder.chmod(0o755)
    program = (
        "import os; names = sorted(n for n in os.listdir('/dev') if n.startswith('nvidia'));"
        " print(*names); [os.close(os.open('/dev/' + n, os.O_RDWR)) for n in names]"
    )
    wrapping = Bubblewrap(devices=tmp_path)
    leased = launch_of(ada, directory, program, **{"GPU-b": 5})
    assert run(ada, leased, wrapping) == ["nvidia-uvm nvidia5 nvidiactl"]
    assert run(ada, launch_of(ada, directory, program), wrapping) == [""]


def test_another_noded_ends_meanwhile(ada: Account, directory: Path) -> None:
    """Its servers' directories are covered, and a sandbox comes up although they go while it is made."""
    program = f"import os; print(os.path.isdir({str(RUN)!r}) and os.listdir({str(RUN)!r}))"
    RUN.mkdir(mode=0o711, exist_ok=True)
    its = Path(tempfile.mkdtemp(dir=RUN))
    assert run(ada, launch_of(ada, directory, program), Bubblewrap()) == ["[]"]
    assert run(ada, launch_of(ada, directory, program), Bubblewrap(), its.rmdir) == ["[]"]


def test_owners_that_share_an_account_have_homes_of_their_own(
    ada: Account, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On noded's own account each owner's home shows at the usual place, lasts, and hides the account's real home."""
    shared = Account(ada.name, ada.uid, ada.gid, ada.home, ada.shell, ada.groups, own=True)
    monkeypatch.setattr(os, "geteuid", lambda: ada.uid)
    state = Path(ada.home) / "state"
    state.mkdir(exist_ok=True)
    program = (
        "import os; print(sorted(os.listdir(os.environ['HOME']))); print(os.environ.get('XDG_RUNTIME_DIR'));"
        " open(os.path.expanduser('~/mine'), 'w')"
    )
    wrapping, seen = Bubblewrap((state,)), []
    for owner in ("ada", "../bob", "ada"):
        launch = launch_of(shared, directory, program, owner)
        wrapping.wrap(launch)
        folders = Path(ada.home) / homes.HOMES
        for folder in (folders, *folders.iterdir()):
            os.chown(folder, ada.uid, ada.gid)
        seen.append(run(shared, launch, wrapping))
    # The server's directory is in the home here, and with it what it is in.
    assert seen == [["['server']", "None"], ["['server']", "None"], ["['mine', 'server']", "None"]]
    assert sorted(folder.name for folder in folders.iterdir()) == ["%2E%2E%2Fbob", "ada"]
    with pytest.raises(LaunchFailed, match="can have no home"):
        wrapping.wrap(launch_of(shared, directory, program, ""))


def test_engines_are_out_of_reach(
    ada: Account, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine's socket, which makes whoever reaches it root, is not there."""
    place = Path(f"/run/af-{os.getpid()}.sock")
    monkeypatch.setattr(bubblewrap, "_ENGINE_SOCKETS", (place, tmp_path / "none"))
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(place))
        try:
            program = f"import os, stat; print(stat.S_ISSOCK(os.stat({str(place)!r}).st_mode))"
            assert run(ada, launch_of(ada, directory, program), Bubblewrap()) == ["False"]
        finally:
            place.unlink()


def test_a_missing_or_broken_bwrap_is_no_sandbox(tmp_path: Path) -> None:
    """What keeps it from working is a sentence among what is missing, and a launch that wants it is refused."""
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho bwrap: No permissions to create new namespace >&2; exit 1\n")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and len(folder.parts) > 2:
            folder.chmod(0o755)
    broken.chmod(0o755)
    isolator = Isolator(cgroups.Cgroups(enabled=False), {"bubblewrap": Bubblewrap(program=str(broken))})
    assert isolator.enforcement().sandboxes == ("none",)
    assert any("No permissions to create new namespace" in sentence for sentence in isolator.enforcement().missing)
    spec = LaunchSpec("a", 1, ("x",), {}, (), "h", "/", owner="ada", isolation=Isolation(sandbox="bubblewrap"))
    with pytest.raises(LaunchFailed, match="No permissions to create new namespace"):
        isolator.confine(spec, accounts.own_account(), {}, tmp_path, None)


def test_a_gpu_whose_device_node_nobody_knows_is_refused(tmp_path: Path) -> None:
    """A sandbox that cannot tell the leased GPU's node from the others' gives none of them: the launch fails."""
    isolator = Isolator(cgroups.Cgroups(enabled=False), {"bubblewrap": Bubblewrap()})
    spec = LaunchSpec("a", 1, ("x",), {}, ("GPU-1",), "h", "/", owner="ada", isolation=Isolation(sandbox="bubblewrap"))
    with pytest.raises(LaunchFailed, match="NVML does not say which device node GPU-1 has"):
        isolator.confine(spec, accounts.own_account(), {}, tmp_path, None)


def test_a_python_environment_among_homes_is_shown(tmp_path: Path) -> None:
    """The folder of a covered environment, and of the Python it is made of, are bound back; other folders are not."""
    (tmp_path / "homes/farm/venv/bin").mkdir(parents=True)
    (tmp_path / "homes/farm/venv/pyvenv.cfg").touch()
    (tmp_path / "homes/eve/python/lib/python3.11").mkdir(parents=True)
    (tmp_path / "homes/eve/python/bin").mkdir()
    (tmp_path / "homes/eve/python/bin/python3.11").touch()
    program = tmp_path / "homes/farm/venv/bin/python"
    program.symlink_to(tmp_path / "homes/eve/python/bin/python3.11")
    home, covered = tmp_path / "homes/ada", [tmp_path / "homes"]
    shown = bubblewrap._program_folders(str(program), home, covered)
    assert shown == [tmp_path / "homes/farm/venv", tmp_path / "homes/eve/python"]
    assert bubblewrap._program_folders("python3", home, covered) == []
    assert bubblewrap._program_folders(str(tmp_path / "homes/ada/x"), home, covered) == []
    assert bubblewrap._program_folders("/usr/bin/python3", home, covered) == []


def test_nodeds_state_beside_the_program_stays_hidden(
    ada: Account, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of ~/.local/bin brings ~/.local into the sandbox, and not noded's socket in ~/.local/state."""
    shared = Account(ada.name, ada.uid, ada.gid, ada.home, ada.shell, ada.groups, own=True)
    monkeypatch.setattr(os, "geteuid", lambda: ada.uid)
    local, state = Path(ada.home) / ".local", Path(ada.home) / ".local/state/agentfarm"
    for folder in (local / "bin", local / "lib/python3.11", state):
        folder.mkdir(parents=True)
    (state / "noded.sock").touch()
    (local / "bin/show").write_text("#!/bin/sh\nls ~/.local/lib ~/.local/state/agentfarm\n")
    (local / "bin/show").chmod(0o755)
    launch = launch_of(shared, directory, "", "carol")
    launch = dataclasses.replace(launch, spec=dataclasses.replace(launch.spec, command=(str(local / "bin/show"),)))
    wrapping = Bubblewrap((state / "run", state))
    wrapping.wrap(launch)  # makes the home, which is root's here
    own = Path(ada.home) / homes.HOMES / "carol"
    for folder in (own.parent, own):
        os.chown(folder, ada.uid, ada.gid)
    try:
        seen = run(shared, launch, wrapping)
    finally:
        for folder in (own, local):
            shutil.rmtree(folder)
    assert "python3.11" in seen
    assert "noded.sock" not in seen
