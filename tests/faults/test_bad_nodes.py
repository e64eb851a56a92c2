"""Acceptance tests 17 and 18: nodes that are broken, slow, or do not want to let go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from faults import faults, starts
from faults.farm import FaultFarm, fault_farm
from netns import NetnsNode
from waiting import eventually

STOP_GRACE = 2
#: A process of a kernel that has left its session and ignores SIGTERM.
STUBBORN = """
import subprocess
child = subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], start_new_session=True, env={})
print(child.pid)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run two nodes."""
    async with fault_farm(2, settings={"AgentFarmSpawner": {"stop_grace": STOP_GRACE}}) as running:
        await running.add_users("ada", *(f"tiny{i}" for i in range(20)))
        yield running


@asynccontextmanager
async def fault(
    node: NetnsNode, inflict: Callable[[NetnsNode], None], undo: Callable[[NetnsNode], None]
) -> AsyncIterator[None]:
    """Have a fault for as long as the block runs."""
    await asyncio.to_thread(inflict, node)
    try:
        yield
    finally:
        await asyncio.to_thread(undo, node)


FAULTS = [
    (faults.fill_disk, faults.free_disk, "No space left on device"),
    (faults.fill_inodes, faults.free_inodes, "No space left on device"),
    (faults.missing_interpreter, faults.put_interpreter, "No such file or directory"),
]


@pytest.mark.parametrize(("inflict", "undo", "said"), FAULTS, ids=[inflict.__name__ for inflict, _, _ in FAULTS])
async def test_a_broken_node(
    farm: FaultFarm,
    figure: Callable[..., bool],
    inflict: Callable[[NetnsNode], None],
    undo: Callable[[NetnsNode], None],
    said: str,
) -> None:
    """#17: who asks for the broken node is told why within seconds; others are started elsewhere; nothing is left."""
    broken, name = farm.node("gpu01"), inflict.__name__.replace("_", " ")
    users = [f"tiny{i}" for i in range(4)]
    async with fault(broken, inflict, undo):
        with pytest.raises(starts.StartFailed) as failed:
            await starts.start(farm, "tiny9", {"node": "gpu01"})
        assert await farm.settled("tiny9") == {"tiny9": "nothing"}
        await starts.start_all(farm, users)
        assert {server.node for server in farm.servers()} == {"gpu02"}
        await farm.empty()
    kept = figure(17, f"{name}: told after", failed.value.seconds, "s", 10)
    figure(17, f"{name}: of 4 others, started elsewhere", 4, "", 4, "exactly")
    assert "gpu01" in str(failed.value)
    assert said in str(failed.value)
    assert kept
    assert starts.processes_of_leases(broken) == []


async def test_a_read_only_home(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#17: a real server whose home is read-only starts all the same, or says why within seconds."""
    node = farm.node("gpu01")
    async with fault(node, faults.read_only_home, faults.writable_home):
        try:
            await starts.start(farm, "ada", {"node": "gpu01"})
            started, seconds, said = True, 0.0, ""
        except starts.StartFailed as failed:
            started, seconds, said = False, failed.seconds, str(failed)
        assert started or "Read-only file system" in said
        await farm.empty()
    assert figure(17, "read only home: started, or told after", seconds, "s", 10)


async def test_a_slow_network(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#18: with 200 ms round trips, 2 % loss and 1 Mbit/s servers start and stop, and the node stays ready."""
    node = farm.node("gpu01")
    async with faults.slow(node, delay_seconds=0.1, loss=0.02, rate_bits=1e6):
        seconds = [await starts.start(farm, f"tiny{i}", {"node": "gpu01"}, 60) for i in range(3)]
        begun = time.monotonic()
        await asyncio.gather(*(farm.hub.stop_server(f"tiny{i}") for i in range(3)))
        stopped = time.monotonic() - begun
    kept = [
        figure(18, "200 ms, 2 %, 1 Mbit/s: start, p50", starts.median(seconds), "s", 10),
        figure(18, "200 ms, 2 %, 1 Mbit/s: three stops", stopped, "s", 20),
    ]
    await farm.empty()
    await farm.ready("gpu01")
    assert all(kept)


async def test_a_server_that_does_not_want_to_end(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#18: TERM, then KILL to all of the server, also to a process in a session of its own without environment."""
    await starts.start(farm, "ada", {"node": "gpu01", "gpus": 1})
    inner = int((await farm.hub.run_cell("ada", STUBBORN)).split()[-1])
    node = farm.node("gpu01")
    stubborn = [pid for pid in faults.processes(node) if faults.inner_pid(pid) == inner]
    assert len(stubborn) == 1
    begun = time.monotonic()
    await farm.hub.stop_server("ada")
    seconds = time.monotonic() - begun
    await eventually(lambda: stubborn[0] not in faults.processes(node), "the stubborn process is gone", 5)
    kept = figure(18, "a process that ignores TERM: stopped after", seconds, "s", STOP_GRACE + 10)
    assert await farm.settled("ada") == {"ada": "nothing"}
    assert kept
