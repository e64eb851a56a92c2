"""The benchmark's view of the farm."""

from __future__ import annotations

import pytest
from benchmark_world import World, make_view
from waiting import eventually

from jupyterhub_agentfarm.benchmark.counters import BenchmarkCounters
from jupyterhub_agentfarm.benchmark.exposition import Exposition
from jupyterhub_agentfarm.controller.farm_watch import FarmWatch


async def test_an_event_that_cannot_be_understood_is_no_end(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """After a bad event the farm is not known until it was told anew; then changes arrive again."""
    farm = FarmWatch(world, Exposition("0", BenchmarkCounters(), suites=list), retry_delay=0.05)
    farm.start()
    try:
        await farm.ready()
        for queue in world._streams:
            queue.put_nowait(("node", {"neither": "name nor state"}))
        await eventually(lambda: not farm._known.is_set(), "the watch knows that it knows nothing")
        await farm.ready()
        await eventually(lambda: world._streams, "the watch follows again")
        world.put(make_view("new"))
        await eventually(lambda: "new" in farm.nodes, "changes arrive again")
    finally:
        await farm.close()
    assert "cannot be understood" in caplog.text
