"""How warm starts go together with the layers that keep servers apart: accounts, systemd's scopes, sandboxes."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from systemd_manager import SystemdManager, systemd_manager, why_not
from waiting import eventually
from warm_farm import Served, WarmFarm, warm_farm

from jupyterhub_agentfarm.noded import procfs

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

needs_systemd = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make accounts and switch to them")


# ---- systemd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def manager() -> Iterator[SystemdManager]:
    """A systemd of the test's own."""
    with systemd_manager() as made:
        yield made


@needs_systemd
async def test_a_forked_server_is_in_a_scope_with_its_limits(manager: SystemdManager, tmp_path: Path) -> None:
    """A real systemd puts it there before anything of it runs, with the limits that systemd-run gives a cold one."""
    async with warm_farm(tmp_path, prefix=manager.enter) as farm:
        limits = {"memory_bytes": 2**30, "processes": 500, "cpus": 1.5}
        cold = await farm.start("quokka-cold", limits=limits)
        assert not cold.warm, farm.noded.log
        await farm.until_warm()
        warm = await farm.start("quokka-warm", limits=limits)
        assert warm.warm, farm.noded.log
        for served in (cold, warm):
            assert f"/agentfarm-{served.lease}.scope\n".encode() in served.proc("cgroup")
            assert str(served.status["cgroup"]).endswith(f"/agentfarm-{served.lease}.scope")
        told = [_properties(manager, served.lease) for served in (cold, warm)]
        assert b"MemoryMax=1073741824" in told[0]
        assert told[1] == told[0]
        await farm.stop(warm)


def _properties(manager: SystemdManager, lease: str) -> bytes:
    wanted = "MemoryMax,MemorySwapMax,CPUQuotaPerSecUSec,TasksMax,CollectMode,Slice"
    command = [*manager.enter, "systemctl", "show", "--property", wanted, f"agentfarm-{lease}.scope"]
    return subprocess.run(command, check=True, capture_output=True, timeout=20).stdout


# ---- accounts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def python() -> Iterator[str]:
    """A Python that every account can execute, with what servers need; it belongs to root."""
    system = shutil.which("python3", path="/usr/bin:/bin")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    if system is None or _version(system) != sys.version_info[:2] or not _readable(packages):
        pytest.skip("accounts: no Python of this version, and these packages, that other accounts can read")
    folder = Path("/opt") / f"agentfarm-{secrets.token_hex(4)}"
    try:
        subprocess.run([system, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
        inside = next((folder / "lib").glob("python3*/site-packages"))
        (inside / "all.pth").write_text(f"{packages}\nimport site; site.addsitedir({packages!r})\n")
        yield str(folder / "bin" / "python")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _version(program: str) -> tuple[int, ...]:
    code = "import sys; print(*sys.version_info[:2])"
    return tuple(map(int, subprocess.run([program, "-c", code], check=True, capture_output=True).stdout.split()))


def _readable(path: str) -> bool:
    return all(folder.stat().st_mode & 0o5 == 0o5 for folder in (Path(path), *Path(path).parents))


@pytest.fixture
def account() -> Iterator[str]:
    """The name of an account whose home is closed to others."""
    name = f"af{secrets.token_hex(3)}-ada"
    options = ["--create-home", "--key", "HOME_MODE=0700", "--shell", "/bin/bash"]
    subprocess.run(["/usr/sbin/useradd", *options, name], check=True, timeout=30)
    try:
        yield name
    finally:
        subprocess.run(["/usr/sbin/userdel", "--remove", name], capture_output=True, check=False, timeout=30)


@needs_root
async def test_a_forked_server_is_its_account_for_good(python: str, account: str, tmp_path: Path) -> None:
    """Ids, groups, capabilities, umask, home and files are those of a cold one, and no way leads back to root."""
    found = pwd.getpwnam(account)
    async with warm_farm(tmp_path) as farm:
        seen = []
        for _ in range(2):
            served = await start_as(farm, python, account)
            status = dict(line.split(":\t", 1) for line in served.proc("status").decode().splitlines() if ":\t" in line)
            names = ("Uid", "Gid", "Groups", "Umask", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
            seen.append({name: status[name] for name in names})
            # A process that is closed to its own account could not be debugged by its user (leak 5).
            read = _read_as(found.pw_uid, found.pw_gid, f"/proc/{served.pid}/environ")
            assert f"HOME={found.pw_dir}\0".encode() in read
            assert b"/nonexistent" not in read
            info = Path(served.status["cgroup"] or "/")
            assert info.name == served.lease or not served.status["cgroup"]
            await farm.stop(served)
            if not seen[1:]:
                await farm.until_warm()
        assert served.warm, farm.noded.log
        assert seen[1] == seen[0]
        assert seen[1]["Uid"].split() == [str(found.pw_uid)] * 4
        assert int(seen[1]["CapEff"], 16) == int(seen[1]["CapPrm"], 16) == 0
        await eventually(lambda: not _of_account(found.pw_uid), "the account's processes are gone, zombies as well")


def _read_as(uid: int, gid: int, path: str) -> bytes:
    command = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "cat", path]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).stdout


async def start_as(farm: WarmFarm, python: str, account: str) -> Served:
    """Start a server as an account."""
    variables = {name: value for name, value in farm.environment(account, Path("/")).items() if name != "HOME"}
    spec = {"command": [python, "-m", "jupyterhub_agentfarm.server"], "cwd": None}
    return await farm.start(account, **spec, environment=variables, isolation={"account": "{username}"})


def _of_account(uid: int) -> list[tuple[int, int]]:
    found = []
    for process in procfs.scan().values():
        with contextlib.suppress(FileNotFoundError):  # it ended a moment ago
            if Path(f"/proc/{process.pid}").stat().st_uid == uid:
                found.append((process.pid, process.start_ticks))
    return found


@needs_root
async def test_root_does_not_import_what_others_may_change(python: str, account: str, tmp_path: Path) -> None:
    """With one file that is not root's, servers start cold, and the doctor's sentence says which file it is."""
    theirs = next(Path(python).parents[1].glob("lib/python3*/site-packages")) / "theirs.py"
    theirs.write_text("")
    os.chown(theirs, pwd.getpwnam(account).pw_uid, -1)
    async with warm_farm(tmp_path) as farm:
        for _ in range(2):
            served = await start_as(farm, python, account)
            assert not served.warm
            await farm.stop(served, 0)

            async def told() -> bool:
                return str(theirs) in (await farm.warm_starts())["why"]

            await eventually(told, "noded says why", timeout=60)
        assert (await farm.counts())[1]["unfit"] == 1
