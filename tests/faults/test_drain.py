"""Acceptance test 20, first half: cordon, drain with a deadline, and a node that is removed while it is in use.

The second half, faults at random for as long as one likes, is test_soak.py.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from faults import starts
from faults.farm import FaultFarm, fault_farm
from waiting import eventually

from jupyterhub_agentfarm.errors import ConflictError

DEADLINE_SECONDS = 3.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run two nodes; a third one is not known to the Hub yet."""
    async with fault_farm(3, hold=["gpu03"]) as running:
        await running.add_users(*(f"tiny{i}" for i in range(12)))
        yield running


async def test_cordon_drain_remove(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#20: nothing new after a cordon; the drain is over in time; a node in use cannot be removed, then it can."""
    admin = farm.hub.farm
    await admin.add_node(farm.node("gpu03").spec)
    await farm.ready("gpu03")
    await starts.start(farm, "tiny0", {"node": "gpu03"})

    await admin.cordon("gpu03", "acceptance test 20")
    users = [f"tiny{i}" for i in range(1, 7)]
    await starts.start_all(farm, users)
    after_cordon = sum(server.node == "gpu03" for server in farm.servers()) - 1

    with pytest.raises(ConflictError, match="drain it first"):
        await admin.remove_node("gpu03")
    begun = time.monotonic()
    await admin.drain("gpu03", "acceptance test 20", DEADLINE_SECONDS)
    assert await farm.lease_of("tiny0") is not None, "the deadline is not over yet"
    await eventually(lambda: not any(server.node == "gpu03" for server in farm.servers()), "gpu03 is empty", 20, 0.05)
    late = time.monotonic() - begun - DEADLINE_SECONDS
    assert await farm.settled("tiny0") == {"tiny0": "nothing"}
    await _removed(farm)
    kept = [
        figure(20, "servers placed after the cordon", after_cordon, "", 0, "exactly"),
        figure(20, "drained after its deadline", late, "s", 3),
    ]
    assert [node["name"] for node in await admin.nodes()] == ["gpu01", "gpu02"]
    await farm.empty()
    assert all(kept)


async def _removed(farm: FaultFarm) -> None:
    async def gone() -> bool:
        try:
            await farm.hub.farm.remove_node("gpu03")
        except ConflictError:  # its lease is being released
            return False
        return True

    await eventually(gone, "gpu03 can be removed", 10)
