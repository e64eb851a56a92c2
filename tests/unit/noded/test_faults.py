"""What goes wrong around a server: no record can be written, it cannot be watched, it is stopped before it exists."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
from noded_process import NodedProcess
from waiting import eventually

from jupyterhub_agentfarm.errors import GpuBusy, LaunchFailed
from jupyterhub_agentfarm.models import LaunchSpec, ServerStatus
from jupyterhub_agentfarm.noded import launcher as launcher_module
from jupyterhub_agentfarm.noded import procfs
from jupyterhub_agentfarm.noded.cgroups import Cgroups
from jupyterhub_agentfarm.noded.directories import ServerDirectories
from jupyterhub_agentfarm.noded.gpus import GpuCollector
from jupyterhub_agentfarm.noded.grace import Grace
from jupyterhub_agentfarm.noded.isolation.isolator import Isolator
from jupyterhub_agentfarm.noded.launcher import Launcher
from jupyterhub_agentfarm.noded.server import Server
from jupyterhub_agentfarm.noded.simulated import SimulatedGpus
from jupyterhub_agentfarm.noded.store import Record, Store
from jupyterhub_agentfarm.noded.sweeping import settle
from jupyterhub_agentfarm.noded.telemetry import Sampler
from jupyterhub_agentfarm.noded.warm.zygotes import WarmOptions, Zygotes
from jupyterhub_agentfarm.protocol import StopResult

GONE = StopResult(gone=True, gpus_free=True)


class FullStore(Store):
    """A store that, while `full`, cannot write down a server that has a process."""

    full = False

    def save(self, record: Record) -> None:
        """Write a record, or not."""
        if self.full and record.status.pid:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().save(record)


class SlowSampler(Sampler):
    """Devices that answer when they may, and GPUs that are left when they may be."""

    def __init__(self, simulated: SimulatedGpus) -> None:
        super().__init__(GpuCollector(5), simulated, ())
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        self.left = True

    async def known_gpus(self) -> set[str]:
        """Return the UUIDs of all GPUs, as soon as that may be."""
        self.asked.set()
        await self.may_answer.wait()
        return await super().known_gpus()

    async def free_of(self, pids: Iterable[int], uuids: Iterable[str]) -> bool:
        """Return whether none of the processes is on the GPUs."""
        return self.left and await super().free_of(pids, uuids)


class Farm:
    """A launcher in this process, with one simulated GPU."""

    def __init__(self, folder: Path) -> None:
        simulated = SimulatedGpus(1, str(folder))
        self.store, self.devices, self.published = FullStore(folder), SlowSampler(simulated), list[ServerStatus]()
        self.launcher = Launcher(
            self.store,
            Isolator(Cgroups(enabled=False)),
            ServerDirectories(folder / "run"),
            Zygotes(WarmOptions(enabled=False), folder / "warm"),
            self.devices,
            self.published.append,
        )
        self._gpus = simulated.uuids
        #: No other test's, and no other run's, server has it in its name.
        self._prefix = f"t{os.getpid()}-"

    def lease(self, name: str) -> str:
        """Return the lease of that name."""
        return self._prefix + name

    def spec(self, name: str, *, epoch: int = 1, command: tuple[str, ...] = ("/bin/sleep", "1000")) -> LaunchSpec:
        """Return a request for the GPU."""
        return LaunchSpec(self.lease(name), epoch, command, {}, self._gpus, "127.0.0.1", "/")

    def processes(self, name: str) -> list[int]:
        """Return the living processes of a lease."""
        found = procfs.scan().values()
        return [p.pid for p in found if not p.zombie and procfs.lease_of(p.pid) == self.lease(name)]

    async def close(self) -> None:
        """End what runs."""
        self.store.full, self.devices.left = False, True
        self.devices.may_answer.set()
        for server in self.launcher.servers():
            await self.launcher.stop(server.status.lease, 0)
        await self.launcher.close()
        for pid in [pid for name in "ab" for pid in self.processes(name)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def farm(tmp_path: Path) -> AsyncIterator[Farm]:
    """A launcher; nothing of its servers is left afterwards."""
    made = Farm(tmp_path)
    yield made
    await made.close()


# ---- records that cannot be written ------------------------------------------------------------------------------


def block(noded: NodedProcess, lease: str) -> None:
    """Let every attempt to write the record of a lease fail, as a full disk does."""
    (noded.state_dir / "servers" / f"{lease}.new").mkdir()


async def test_an_exit_that_cannot_be_written_down_is_told(noded: NodedProcess) -> None:
    """Without room for the record the end of a server is an event all the same, and its GPU is free again."""
    gpu = (await noded.call("telemetry"))["gpus"][-1]["uuid"]
    status = await noded.launch("a", gpus=[gpu])
    block(noded, "a")
    os.kill(status["pid"], signal.SIGUSR1)
    assert noded.client
    (ended,) = await eventually(lambda: noded.client.exits, "the end is reported")
    assert ended["exit"]["signal"] == signal.SIGUSR1
    assert (await noded.launch("b", gpus=[gpu]))["state"] == "running"


async def test_an_exit_that_cannot_be_written_down_is_settled(farm: Farm) -> None:
    """Without room for the record what a server left behind is killed all the same."""
    leaves_one = ("/bin/sh", "-c", "setsid sleep 1000 & exec sleep 1000")
    status = await farm.launcher.launch(farm.spec("a", command=leaves_one))
    await eventually(lambda: len(farm.processes("a")) == 2, "the server and its child run")
    farm.store.full = True
    os.kill(status.pid, signal.SIGKILL)
    await eventually(lambda: not farm.processes("a"), "the child is killed")
    assert [ended.lease for ended in farm.published] == [status.lease]


async def test_noded_starts_where_no_record_can_be_written(noded: NodedProcess) -> None:
    """Without room for records noded takes over its servers, watches them and stops them."""
    before = await noded.launch("a")
    await noded.end(signal.SIGKILL)
    block(noded, "a")
    await noded.start()
    assert (await noded.call("servers"))["servers"] == [before]
    assert await noded.call("stop", {"lease": "a"}) == {"gone": True, "gpus_free": True}
    assert not procfs.alive(before["pid"], before["pid_start_ticks"])


# ---- a process that noded cannot look after ------------------------------------------------------------------------


def no_room(farm: Farm, _: pytest.MonkeyPatch) -> None:
    """Leave no room for the record of a process."""
    farm.store.full = True


def no_room_at_all(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no room even for the record that is written before there is a process."""

    def save(_: Record) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(farm.store, "save", save)


def no_pidfd(_: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no file descriptor to watch a process with."""

    def watch(*_: object) -> bool:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Server, "watch", watch)


def no_cgroup(_: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail before there is a process."""

    def make(*_: object) -> tuple[str, ...]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Cgroups, "make", make)


@pytest.mark.parametrize("fault", [no_room, no_room_at_all, no_pidfd, no_cgroup])
async def test_a_process_that_cannot_be_looked_after_does_not_go_on(
    farm: Farm, fault: Callable[[Farm, pytest.MonkeyPatch], None]
) -> None:
    """What fails around the start is a failed launch: the process is killed and reaped, and its GPU is free."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault(farm, monkeypatch)
        with pytest.raises(LaunchFailed, match=r"cannot look after|cannot be prepared|cannot write"):
            await farm.launcher.launch(farm.spec("a"))
    assert farm.processes("a") == []
    assert farm.launcher.servers() == []
    farm.store.full = False
    assert (await farm.launcher.launch(farm.spec("b"))).state == "running"


async def test_a_failed_launch_keeps_its_gpu_until_it_has_left_it(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a failed launch's processes are on the GPU no other server gets it; a stop of the lease frees it."""
    monkeypatch.setattr(launcher_module, "settle", functools.partial(settle, seconds=0.2))
    farm.store.full, farm.devices.left = True, False
    with pytest.raises(LaunchFailed):
        await farm.launcher.launch(farm.spec("a"))
    farm.store.full = False
    with pytest.raises(GpuBusy):
        await farm.launcher.launch(farm.spec("b"))
    farm.devices.left = True
    assert await farm.launcher.stop(farm.lease("a"), 0) == GONE
    assert (await farm.launcher.launch(farm.spec("b"))).state == "running"


# ---- stopped before it exists --------------------------------------------------------------------------------------


async def pending(farm: Farm, *, again: bool) -> asyncio.Task[ServerStatus]:
    """Return a launch that waits for the devices: the lease's first one, or one after its server ended."""
    if again:
        await farm.launcher.launch(farm.spec("a"))
        assert await farm.launcher.stop(farm.lease("a"), 0) == GONE
    farm.devices.asked.clear()
    farm.devices.may_answer.clear()
    launch = asyncio.create_task(farm.launcher.launch(farm.spec("a", epoch=2)))
    async with asyncio.timeout(10):
        await farm.devices.asked.wait()
    return launch


@pytest.mark.parametrize("again", [False, True])
async def test_a_stop_does_not_vouch_for_a_launch_under_way(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """While a launch may still claim the GPU, its stop says that it is not gone; the launch then starts nothing."""
    launch = await pending(farm, again=again)
    monkeypatch.setattr(launcher_module, "SETTLE_SECONDS", 0.05)
    assert await farm.launcher.stop(farm.lease("a"), 0) == StopResult(gone=False, gpus_free=False)
    monkeypatch.undo()
    farm.devices.may_answer.set()
    with pytest.raises(LaunchFailed, match="was stopped before"):
        await launch
    assert farm.processes("a") == []
    assert await farm.launcher.stop(farm.lease("a"), 0) == GONE


@pytest.mark.parametrize("again", [False, True])
async def test_a_stop_calls_off_a_launch_under_way(farm: Farm, *, again: bool) -> None:
    """A stop waits for the launch that it calls off; then nothing of it is there."""
    launch = await pending(farm, again=again)
    stop = asyncio.create_task(farm.launcher.stop(farm.lease("a"), 0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    farm.devices.may_answer.set()
    assert await stop == GONE
    with pytest.raises(LaunchFailed, match="was stopped before"):
        await launch
    assert farm.processes("a") == []
    assert (await farm.launcher.launch(farm.spec("b"))).state == "running"


async def test_a_grace_that_is_just_over_can_be_shortened() -> None:
    """A shorter grace that comes in the moment the longer one expires does no harm."""
    grace = Grace(0)
    waiting = asyncio.create_task(grace.wait(asyncio.Event()))
    async with asyncio.timeout(10):
        while grace._timeout is None or not grace._timeout.expired():
            assert not waiting.done(), "the moment was missed"
            await asyncio.sleep(0)
        grace.shorten(0)
        await waiting
