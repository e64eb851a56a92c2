"""Processes of lost servers on a real noded: what is one, and what is never touched."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from noded_process import NodedProcess, running_noded
from waiting import eventually

from jupyterhub_agentfarm.noded import cgroups, procfs
from jupyterhub_agentfarm.noded.orphans import NODED_VARIABLE, Orphans, believed_mark, noded_mark

#: Not a short name as other tests use: noded ends whatever of its account names the lease of a server that ended.
LOST, OWN = uuid.uuid4().hex, uuid.uuid4().hex

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@contextmanager
def process(program: str = SLEEP, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with these variables until the block ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | environment, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        yield child
    finally:
        child.kill()
        child.communicate()


@asynccontextmanager
async def noded(grace_seconds: float) -> AsyncIterator[tuple[NodedProcess, dict[str, str]]]:
    """Run a noded; with it comes the environment of a process that it started and has no record of."""
    async with running_noded(arguments=[f"--orphan-grace={grace_seconds}"]) as daemon:
        yield daemon, {procfs.MARKER: LOST, NODED_VARIABLE: noded_mark(daemon.state_dir)}


async def listed(daemon: NodedProcess, *held: str) -> list[dict[str, Any]]:
    """Return the orphans; the controller has the leases `held`."""
    orphans: list[dict[str, Any]] = (await daemon.call("orphans", {"held": list(held)}))["orphans"]
    return orphans


async def ended(child: subprocess.Popen[bytes]) -> None:
    """Wait until the process has ended."""
    await eventually(lambda: child.poll() is not None, "the orphan is ended")


async def test_an_orphan_is_listed_and_ended_after_the_grace() -> None:
    """It is named with pid, lease and age; after the grace it gets SIGTERM, and SIGKILL when that is of no use."""
    async with noded(0.3) as (daemon, lost):
        with process(**lost) as meek, process(STUBBORN, **lost) as stubborn:
            found = await listed(daemon)
            assert {orphan["pid"] for orphan in found} == {meek.pid, stubborn.pid}
            assert {orphan["lease"] for orphan in found} == {LOST}
            assert all(0 <= orphan["seen_at"] - orphan["started_at"] < 30 for orphan in found)
            await asyncio.gather(ended(meek), ended(stubborn))
            assert (meek.returncode, stubborn.returncode) == (-15, -9)
            await eventually(lambda: _none(daemon), "the list is empty")


async def _none(daemon: NodedProcess) -> bool:
    return await listed(daemon) == []


async def test_nothing_is_ended_before_the_controller_has_spoken() -> None:
    """While no controller asks, and while one says that it has the lease, the process lives."""
    async with noded(0.05) as (daemon, lost):
        with process(**lost) as child:
            await eventually(lambda: "there is no record of its lease" in daemon.log, "noded has seen it")
            assert len(await listed(daemon, LOST)) == 1
            with pytest.raises(subprocess.TimeoutExpired):
                await asyncio.to_thread(child.wait, 1)
            await listed(daemon, "another")
            await ended(child)


@pytest.mark.parametrize("missing", [procfs.MARKER, NODED_VARIABLE])
async def test_other_processes_are_never_touched(missing: str) -> None:
    """A process that names no lease, or a server of another noded of the same account, is no orphan."""
    async with noded(0.05) as (daemon, lost):
        other = lost | {missing: ""} if missing == procfs.MARKER else lost | {missing: "another noded"}
        with process(**other) as bystander, process(**lost) as orphan:
            assert [each["pid"] for each in await listed(daemon)] == [orphan.pid]
            await ended(orphan)
            assert bystander.poll() is None


async def test_a_server_on_record_is_no_orphan() -> None:
    """Servers that run, their kernels, and those that a new noded adopts are not listed."""
    program = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
    async with running_noded(arguments=["--orphan-grace=0.05"]) as daemon:
        status = await daemon.launch(OWN, program + SLEEP)
        await eventually(lambda: len(procfs.children(status["pid"])) == 1, "it has a kernel")
        assert await listed(daemon) == []
        await daemon.end()
        await daemon.start()
        assert await listed(daemon) == []
        (again,) = (await daemon.call("servers"))["servers"]
        assert (again["pid"], again["state"]) == (status["pid"], "running")


async def test_a_server_whose_record_is_lost_is_an_orphan() -> None:
    """A noded that finds a record damaged does not know the server; its process is found all the same."""
    async with noded(0.05) as (daemon, _):
        status = await daemon.launch(OWN)
        await daemon.end()
        (daemon.state_dir / "servers" / f"{OWN}.json").write_text("{")
        await daemon.start()
        assert [orphan["pid"] for orphan in await listed(daemon)] == [status["pid"]]
        await eventually(lambda: not procfs.alive(status["pid"], status["pid_start_ticks"]), "the lost server is ended")


async def test_a_reused_pid_is_not_signalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the process is another one at the moment of the signal, nothing is sent."""
    mark = "of a test"
    with process(**{procfs.MARKER: LOST, NODED_VARIABLE: mark}) as child:
        orphans = Orphans(mark, lambda: (), 0)
        (found,) = await orphans.listed(())
        monkeypatch.setattr(procfs, "read", lambda pid: None)
        orphans._end_old()
        monkeypatch.undo()
        assert procfs.alive(found.pid, found.pid_start_ticks)
        assert child.poll() is None
        orphans._end_old()
        await ended(child)


@pytest.mark.skipif(os.geteuid() != 0, reason="accounts: only root can start a process as another account")
@pytest.mark.parametrize(
    ("folder", "believed"),
    [("agentfarm/{lease}", True), ("agentfarm-{lease}.scope", True), ("agentfarm/{lease}0", False), ("", False)],
)
def test_another_accounts_process_is_believed_by_its_cgroup(folder: str, believed: bool) -> None:
    """What it says of itself counts in the cgroup, or systemd's scope, of that very lease, and nowhere else."""
    found = cgroups.hierarchies()
    tree = next((found[name] for name in ("v2", "pids") if name in found and os.access(found[name], os.W_OK)), None)
    if tree is None:
        pytest.skip("cgroups: none can be made here")
    lease = uuid.uuid4().hex
    place = tree / folder.format(lease=lease)
    child = subprocess.Popen(["sleep", "60"], env={procfs.MARKER: lease, NODED_VARIABLE: "mark"}, user=65534)
    try:
        if folder:
            place.mkdir(parents=True)
            (place / "cgroup.procs").write_text(str(child.pid), "ascii")
        assert believed_mark(child.pid) == ((lease, "mark") if believed else None)
    finally:
        child.kill()
        child.wait()
        if folder:
            place.rmdir()
