"""The farm for faults itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from faults.farm import FaultFarm, fault_farm


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run a farm of two nodes."""
    async with fault_farm(2) as running:
        yield running


async def test_real_and_stand_in_servers_run(farm: FaultFarm) -> None:
    """Both kinds of server start, are routed, are one process each on a node, and are gone after the stop."""
    await farm.add_users("ada", "tiny1")
    await farm.hub.start_server("tiny1", {"gpus": 1})
    await farm.hub.start_server("ada", {"gpus": 1})
    assert await farm.settled("ada", "tiny1") == {"ada": "running", "tiny1": "running"}
    assert "gpu0" in (await farm.get("tiny1", "who"))[1]
    assert (await farm.get("ada", "api"))[0] == 200
    await farm.empty()
    assert await farm.settled("ada", "tiny1") == {"ada": "nothing", "tiny1": "nothing"}
