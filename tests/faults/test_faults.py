"""Each fault does what it says, and its counterpart undoes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from faults import faults
from faults.farm import FaultFarm, fault_farm
from netns import NetnsNode
from waiting import eventually


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run a farm of one node that has a server."""
    async with fault_farm(1) as running:
        await running.add_users("tiny1")
        yield running


def connects(node: NetnsNode, timeout: float = 0.5) -> float | None:
    """Return the seconds that a TCP connection to sshd took; None: there was none."""
    begun = time.monotonic()
    try:
        with socket.create_connection((node.address, 22), timeout):
            return time.monotonic() - begun
    except OSError:
        return None


async def test_what_was_taken_away_is_there_again(farm: FaultFarm) -> None:
    """After each fault and its counterpart the node is ready, the server the same process, the fault seen between."""
    (node,), hub = farm.nodes, farm.hub
    await hub.start_server("tiny1")
    (before,) = farm.servers()
    for fault, undo, cannot in (
        (faults.kill_sshd, faults.start_sshd, lambda: connects(node) is None),
        (faults.drop, faults.undrop, lambda: connects(node) is None),
        (faults.partition, faults.heal, lambda: connects(node) is None),
        (faults.freeze, faults.thaw, lambda: _is_stopped(before.pid)),
        (faults.kill_noded, lambda _: None, lambda: True),
        (faults.fill_disk, faults.free_disk, lambda: not _can_write(node)),
        (faults.fill_inodes, faults.free_inodes, lambda: not _can_write(node)),
        (faults.read_only_home, faults.writable_home, lambda: not _can_write(node)),
    ):
        await eventually(
            lambda: faults.noded_pid(node) is not None, "noded runs", 30
        )  # the fault before may have ended it
        await asyncio.to_thread(fault, node)
        try:
            await eventually(lambda cannot=cannot: asyncio.to_thread(cannot), f"done: {fault.__name__}", 5)
        finally:
            await asyncio.to_thread(undo, node)
        await eventually(lambda: connects(node) is not None and _can_write(node), f"undone: {fault.__name__}", 10)
    await farm.ready()
    assert farm.servers() == [before]
    await farm.empty()


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _can_write(node: NetnsNode) -> bool:
    target = f"of={node.directory / 'disk' / 'home' / secrets.token_hex(4)}"
    command = node.inside("dd", "if=/dev/zero", target, "bs=1000", "count=100")
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


async def test_a_bad_cable_is_slow_and_loses(farm: FaultFarm) -> None:
    """With 100 ms each way a connection takes 0.2 s, with every frame lost there is none; then it is as before."""
    (node,) = farm.nodes
    async with faults.slow(node, delay_seconds=0.1):
        seconds = await asyncio.to_thread(connects, node, 3)
        assert seconds is not None
        assert 0.2 <= seconds < 0.6
    async with faults.slow(node, loss=1):
        assert await asyncio.to_thread(connects, node) is None
    await farm.ready()
    assert (await asyncio.to_thread(connects, node) or 1) < 0.1


async def test_power_and_identity(farm: FaultFarm) -> None:
    """A node that was off has another boot id and no process; a process id can be given to somebody else."""
    (node,) = farm.nodes
    boot = await asyncio.to_thread(node.execute, "cat", "/proc/sys/kernel/random/boot_id")
    await asyncio.to_thread(faults.power_off, node)
    assert await asyncio.to_thread(connects, node) is None
    await asyncio.to_thread(faults.power_on, node)
    assert await asyncio.to_thread(node.execute, "cat", "/proc/sys/kernel/random/boot_id") != boot
    await farm.ready()
    taken = await asyncio.to_thread(faults.reuse_pid, node, 20_000, 65534)
    assert (faults.inner_pid(taken), psutil.Process(taken).uids().real) == (20_000, 65534)
    os.kill(taken, signal.SIGKILL)


async def test_stranger_and_wrong_key(farm: FaultFarm) -> None:
    """A thief answers on its port; a wrong host key is refused and the right one accepted again."""
    await farm.ready()  # the test before this one may have killed the controller
    (node,) = farm.nodes
    with faults.port_thief(node, 23_456):
        await eventually(lambda: _answers(node, 23_456), "the thief answers")
    await asyncio.to_thread(faults.wrong_host_key, node)

    async def refused() -> bool:
        return "host key" in (await farm.hub.farm.node(node.name))["detail"]

    try:
        await eventually(refused, "the node is refused for its host key", 20)
    finally:
        await asyncio.to_thread(faults.right_host_key, node)
    await farm.ready()


def _answers(node: NetnsNode, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((node.address, port), 1) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"200" in sock.recv(100)
    return False


async def test_a_clock_that_jumped(farm: FaultFarm) -> None:
    """The clock of noded can be an hour ahead, and back."""
    (node,) = farm.nodes
    for seconds in (3600, 0):
        faults.clock_jump(farm.points, node, seconds)

        async def off(seconds: float = seconds) -> bool:
            return abs((await farm.hub.farm.node(node.name))["clock_skew_seconds"] + seconds) < 5

        await eventually(off, f"the controller sees the clock {seconds} s ahead", 15)


@pytest.mark.parametrize("process", ["hub", "controller", "noded"])
async def test_a_process_can_be_killed_at_a_point(farm: FaultFarm, process: str) -> None:
    """The process that comes to an armed point is killed there; the next start is not held."""
    point = {"hub": "hub.granted", "controller": "controller.launch_sending", "noded": "noded.record_written"}[process]
    farm.points.arm(point, "tiny1", "kill")
    with contextlib.suppress(Exception):
        await farm.hub.request_server("tiny1")
    await farm.points.reached(point, "tiny1")
    if process == "hub":
        assert farm.hub.process is not None
        await asyncio.wait_for(farm.hub.process.wait(), 10)
        assert farm.hub.process.returncode == -signal.SIGKILL
        await farm.hub.start()
    await farm.settled("tiny1", timeout=60)
    await farm.ready()
    await farm.empty()
    await farm.hub.start_server("tiny1")
    await farm.empty()
