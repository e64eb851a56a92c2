"""Which account a server gets, and that it is really that account."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from noded_process import NodedError, NodedProcess, running_noded
from waiting import eventually

from jupyterhub_agentfarm.errors import AgentFarmError, LaunchFailed
from jupyterhub_agentfarm.isolation import Isolation
from jupyterhub_agentfarm.models import LaunchSpec
from jupyterhub_agentfarm.noded import procfs
from jupyterhub_agentfarm.noded.directories import ServerDirectories
from jupyterhub_agentfarm.noded.isolation import accounts
from jupyterhub_agentfarm.noded.notices import put_notice
from jupyterhub_agentfarm.protocol import NOTICE_FILE, Notice

from .conftest import PYTHON, Pair, remove_account

BY_NAME = Isolation(account="{username}")
SAYS_WHO_IT_IS = """
import os, socket
print(os.getresuid(), os.getresgid(), os.getgroups(), oct(os.umask(0)), os.getcwd())
print(*(os.environ.get(name, "-") for name in ("HOME", "USER", "LOGNAME", "SHELL", "XDG_RUNTIME_DIR", "TOKEN")))
print(open(os.environ["AGENTFARM_SERVER_DIR"] + "/key").read())
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")])
print("ready", flush=True)
socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"])).accept()
"""
LOOKS_AT_ANOTHER = """
import os, socket, sys
def denied(function):
    try:
        return f"got {function()!r}"
    except PermissionError:
        return "denied"
    except (FileNotFoundError, ProcessLookupError):
        return "absent"
home, pid, directory = sys.argv[1:]
print("home", denied(lambda: os.listdir(home)))
print("environment", denied(lambda: open(f"/proc/{pid}/environ").read()))
print("directory", denied(lambda: open(f"{directory}/key").read()))
print("listing", denied(lambda: os.listdir(os.path.dirname(directory))))
print("signal", denied(lambda: os.kill(int(pid), 0)))
print("ready", flush=True)
socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"])).accept()
"""
WAITS = "import os, socket; socket.socket(fileno=int(os.environ['AGENTFARM_SOCKET_FD'])).accept()"


def spec(owner: str, isolation: Isolation = BY_NAME) -> LaunchSpec:
    """Return a launch for an owner."""
    return LaunchSpec("a", 1, ("/bin/true",), {}, (), "127.0.0.1", "/", owner=owner, isolation=isolation)


def as_account(owner: str, program: str = WAITS, *arguments: str, **more: object) -> dict[str, object]:
    """Return the fields of a launch that runs as the owner's account."""
    return {
        "command": [PYTHON, "-c", program, *arguments],
        "owner": owner,
        "isolation": {"account": "{username}"} | more,  # type: ignore[operator]
        "files": {"key": f"key of {owner}"},
        "environment": {"TOKEN": f"token-of-{owner}"},
    }


def facts(path: str) -> tuple[int, int] | None:
    """Return the owner and the mode of a file; None when there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return found.st_uid, found.st_mode & 0o777


async def lines(noded: NodedProcess, lease: str) -> list[str]:
    """Return what a server wrote, once it is ready."""
    found: list[str] = []

    async def ready() -> bool:
        found[:] = (await noded.call("logs", {"lease": lease}))["text"].splitlines()
        return found[-1:] == ["ready"]

    try:
        await eventually(ready, f"{lease} is ready", timeout=30)
    except AssertionError as exc:
        exc.add_note(f"It wrote {found}")
        raise
    return found


# ---- the mapping ---------------------------------------------------------------------------------------------------


@given(st.text(max_size=40))
def test_whatever_the_hub_user_is_called_only_a_plain_name_comes_out(owner: str) -> None:
    """A name that passes is letters, digits and inner punctuation: no option, no path, no id, no second field."""
    for template in ("{username}", "hub-{username}"):
        try:
            name = accounts.local_name(template, owner)
        except LaunchFailed as exc:
            refused = exc.message
            assert "can name no account" in refused
        else:
            assert name == template.replace("{username}", owner)
            assert owner
            assert name.isascii()
            assert not set(name) & set("/:\\ \t\n\0,*?'\"$`;&|<>()[]{}")
            assert name[0] not in ".-@"
            assert not name.isdigit()


@pytest.mark.parametrize(
    "owner", ["", "root/../x", "-rf", "a b", "x\n", "0", "1000", "{username}", "a:b", "é", "a" * 65]
)
def test_names_that_no_account_has_are_refused(owner: str) -> None:
    """What could mean something else than an account to some program is refused before any is asked."""
    with pytest.raises(LaunchFailed, match=r"isolation\.account makes"):
        accounts.local_name("{username}", owner)


@pytest.mark.skipif(os.geteuid() == 0, reason="accounts: root may switch")
def test_without_root_no_other_account() -> None:
    """A noded that is not root refuses accounts, and says what it needs."""
    with pytest.raises(LaunchFailed, match="runs as root"):
        accounts.account_for(spec(pwd.getpwuid(os.getuid()).pw_name))


def test_root_and_accounts_of_the_system_are_refused(pair: Pair) -> None:
    """Neither root nor an account below UID_MIN nor nobody runs a server, whoever is called so in the Hub."""
    for owner in ("root", "daemon", "www-data", "nobody"):
        assert pwd.getpwnam(owner)
        with pytest.raises(LaunchFailed, match="an account of the system"):
            accounts.account_for(spec(owner))
    assert accounts.account_for(spec(pair.ada)).uid >= 1000


@pytest.mark.parametrize("group", ["sudo", "docker"])
def test_members_of_mighty_groups_are_refused(pair: Pair, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who signs up under the name of a node's admin does not become that admin."""
    ids = {name: number for number, name in enumerate(("users", group), 70_000)}
    names = {number: grp.struct_group((name, "x", number, [])) for name, number in ids.items()}
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, *ids.values()])
    monkeypatch.setattr(grp, "getgrgid", lambda gid: names.get(gid) or grp.struct_group(("own", "x", gid, [])))
    spec = LaunchSpec("a", 1, ("x",), {}, (), "h", "/", owner=pair.ada, isolation=BY_NAME)
    with pytest.raises(LaunchFailed, match=rf"a member of {group}; choose a template as 'hub-\{{username\}}'"):
        accounts.account_for(spec)


def test_an_account_that_is_missing_is_named_with_what_to_do(pair: Pair) -> None:
    """Without create_accounts nothing is made: the sentence names the account and the option."""
    with pytest.raises(LaunchFailed, match=f"names {pair.ada}-x, which this node has not; make it, or set create_acc"):
        accounts.account_for(spec(f"{pair.ada}-x"))


def test_an_account_is_made_once_with_a_locked_password_and_a_private_home(pair: Pair) -> None:
    """create_accounts makes it with home 0700 and no password; the next launch finds it."""
    name = f"af{secrets.token_hex(4)}"
    create = Isolation(account="{username}", create_accounts=True)
    try:
        made = accounts.account_for(spec(name, create))
        assert accounts.account_for(spec(name, create)) == made
        assert Path(made.home).stat().st_mode & 0o777 == 0o700
        assert Path(made.home).stat().st_uid == made.uid >= accounts.uid_min()
        shadow = next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith(f"{name}:"))
        assert shadow.split(":")[1].startswith("!")
    finally:
        remove_account(name)
    with pytest.raises(LaunchFailed, match="by hand"):
        accounts.account_for(spec(f"{pair.ada}.Capital", create))


def test_login_defs_say_where_ordinary_accounts_begin(tmp_path: Path) -> None:
    """UID_MIN is read; without the file it is 1000; a 0 there lets root in no more than any other number."""
    (tmp_path / "login.defs").write_text("# UID_MIN 5\nUID_MIN\t\t 2000\n")
    assert accounts.uid_min(tmp_path / "login.defs") == 2000
    assert accounts.uid_min(tmp_path / "missing") == 1000
    (tmp_path / "login.defs").write_text("UID_MIN 0\n")
    assert accounts.uid_min(tmp_path / "login.defs") == 1


# ---- real servers --------------------------------------------------------------------------------------------------


async def test_a_server_is_its_owners_account_in_every_way(pair: Pair) -> None:
    """Ids, groups, umask, home, environment, capabilities and the server's own directory are the account's."""
    account = pwd.getpwnam(pair.ada)
    async with running_noded(env={"XDG_RUNTIME_DIR": "/run/user/0"}) as noded:
        status = await noded.launch("a", **as_account(pair.ada, SAYS_WHO_IT_IS))
        ids, names, files, capabilities, _ = await lines(noded, "a")
        assert facts(noded.server_dir("a")) == (account.pw_uid, 0o700)
        assert facts(noded.server_dir("a") + "/key") == (account.pw_uid, 0o600)
        assert facts(f"{noded.state_dir}/servers/a.log") == (0, 0o600)
        assert procfs.mark_of(status["pid"])[:2] == ("a", account.pw_uid)
        assert await noded.call("stop", {"lease": "a"}) == {"gone": True, "gpus_free": True}
        assert facts(noded.server_dir("a")) is None
    uid, gid = account.pw_uid, account.pw_gid
    assert ids == f"({uid}, {uid}, {uid}) ({gid}, {gid}, {gid}) [{gid}] 0o77 {account.pw_dir}"
    assert names == f"{account.pw_dir} {pair.ada} {pair.ada} /bin/bash - token-of-{pair.ada}"
    assert files == f"key of {pair.ada}"
    assert int(capabilities, 16) == 0


async def test_a_server_gets_nothing_of_another_account(pair: Pair) -> None:
    """Home, environment with the token, and server directory of another user's server are closed, as is its process."""
    async with running_noded() as noded:
        bob = await noded.launch("b", **as_account(pair.bob))
        home = pwd.getpwnam(pair.bob).pw_dir
        # The same program looks at its own account's things: they are open, so that "denied" means something.
        await noded.launch("a2", **as_account(pair.ada))
        own = await noded.launch("a3", **as_account(pair.ada))
        looks = (LOOKS_AT_ANOTHER, pwd.getpwnam(pair.ada).pw_dir, str(own["pid"]), noded.server_dir("a3"))
        await noded.launch("c", **as_account(pair.ada, *looks))
        seen = await lines(noded, "c")
        await noded.launch("a", **as_account(pair.ada, LOOKS_AT_ANOTHER, home, str(bob["pid"]), noded.server_dir("b")))
        denied = await lines(noded, "a")
    assert denied[:-1] == [f"{what} denied" for what in ("home", "environment", "directory", "listing", "signal")]
    assert [line.split()[:2] for line in seen[:-1]] == [
        ["home", "got"],
        ["environment", "got"],
        ["directory", "got"],
        ["listing", "denied"],
        ["signal", "got"],
    ]


def test_folders_nested_without_end_keep_nothing_from_being_given_back(tmp_path: Path) -> None:
    """A server that nests folders deeper than Python follows cannot make the end of itself fail."""
    directories = ServerDirectories(tmp_path / "run")
    folder = os.open(directories.create("a", {}), os.O_RDONLY)
    for _ in range(2 * sys.getrecursionlimit()):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    try:
        directories.remove("a")
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "run")], check=True, timeout=30)


def test_a_server_that_is_in_the_way_of_its_notice_leaves_nothing_behind(tmp_path: Path) -> None:
    """Where the server put a folder of that name, the notice is refused with a sentence, and no part of it stays."""
    directories = ServerDirectories(tmp_path / "run")
    folder = directories.create("a", {})
    (folder / NOTICE_FILE).mkdir()
    with pytest.raises(AgentFarmError, match="does not take a notice"):
        put_notice(directories, "a", Notice("n1 is drained", 1.0))
    assert [path.name for path in folder.iterdir()] == [NOTICE_FILE]


def test_the_way_to_the_directories_is_open_whatever_nodeds_umask(tmp_path: Path) -> None:
    """Accounts get through to their own directory also where noded was started with the umask 077."""
    before = os.umask(0o077)
    try:
        ServerDirectories(tmp_path / "run").create("a", {"key": "x"}, (os.getuid(), os.getgid()))
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("run", "run/a", "run/a/key")] == [0o711, 0o700, 0o600]


async def test_another_accounts_servers_are_found_stopped_and_adopted(pair: Pair) -> None:
    """What leaves tree, session and cgroup-less parents still ends with its server, also after noded was killed."""
    daemon = f"import subprocess; subprocess.Popen(['/bin/sleep', '1000'], start_new_session=True)\n{WAITS}"
    async with running_noded(arguments=["--NodedApp.cgroup=off"]) as noded:
        status = await noded.launch("a", **as_account(pair.ada, daemon))
        marked = ("a", pair.uid(pair.ada))

        def family() -> list[int]:
            return [
                pid
                for pid, found in procfs.scan().items()
                if (procfs.mark_of(pid) or ())[:2] == marked and not found.zombie
            ]

        await eventually(lambda: len(family()) == 2, "server and daemon run")
        await noded.end(signal.SIGKILL)
        await noded.start()
        (found,) = (await noded.call("servers"))["servers"]
        assert (found["pid"], found["state"]) == (status["pid"], "running")
        assert (await noded.call("stop", {"lease": "a"}))["gone"]
        assert family() == []


async def test_a_process_that_only_claims_a_lease_is_not_the_servers(pair: Pair) -> None:
    """Another account's process with the lease in its environment is neither counted nor killed."""
    claims = "import os, subprocess; subprocess.Popen(['/bin/sleep', '1000'], env={'AGENTFARM_LEASE_ID': 'b'})\n"
    async with running_noded() as noded:
        await noded.launch("a", **as_account(pair.ada, f"{claims}{WAITS}"))
        await noded.launch("b", **as_account(pair.bob))
        claimed = ("b", pair.uid(pair.ada))

        def claiming() -> list[int]:
            return [pid for pid in procfs.scan() if (procfs.mark_of(pid) or ())[:2] == claimed]

        await eventually(claiming, "the claim is made")
        assert (await noded.call("stop", {"lease": "b"}))["gone"]
        assert claiming()


async def test_a_home_that_cannot_be_entered_is_said_so(pair: Pair) -> None:
    """A missing working directory and one that the account may not enter are two sentences; nothing is left running."""
    async with running_noded() as noded:
        with pytest.raises(NodedError, match="directory /nowhere does not exist on this node"):
            await noded.launch("a", **as_account(pair.ada), cwd="/nowhere")
        home = pwd.getpwnam(pair.bob).pw_dir
        with pytest.raises(NodedError, match=f"{home} cannot be entered for the account {pair.ada}: Permission denied"):
            await noded.launch("a", **as_account(pair.ada), cwd=home)
        assert (await noded.call("servers"))["servers"] == []
        assert facts(noded.server_dir("a")) is None
