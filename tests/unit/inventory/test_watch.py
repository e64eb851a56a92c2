"""Watches: order, bounds, and the end of iteration."""

from __future__ import annotations

import asyncio

from jupyterhub_agentfarm.inventory.watch import (
    MAX_BEHIND,
    Event,
    EventsMissed,
    NodeReady,
    NodeRemoved,
    TelemetryArrived,
    Watch,
)


async def drained(watch: Watch) -> list[Event]:
    """Close a watch and return what it still had."""
    watch.close()
    return [event async for event in watch]


async def test_events_come_in_order_and_the_end_ends_the_iteration() -> None:
    """Events are read in order; what was queued before the close is still read."""
    watchers: set[Watch] = set()
    with Watch(watchers) as watch:
        reading = asyncio.create_task(anext(watch))
        await asyncio.sleep(0)
        watch.put(NodeReady("n1", ()))
        watch.put(NodeRemoved("n1"))
        assert await reading == NodeReady("n1", ())
    assert [event async for event in watch] == [NodeRemoved("n1")]
    assert not watchers


async def test_a_report_that_was_not_read_is_not_queued_twice() -> None:
    """Telemetry of one node is queued once until it is read."""
    watch = Watch(set())
    for name in ("n1", "n2", "n1", "n1"):
        watch.put(TelemetryArrived(name))
    assert await drained(watch) == [TelemetryArrived("n1"), TelemetryArrived("n2")]


async def test_a_watch_that_falls_behind_is_told_so() -> None:
    """A full queue is replaced by one EventsMissed; what comes after is delivered again."""
    watch = Watch(set())
    for index in range(MAX_BEHIND + 1):
        watch.put(NodeRemoved(f"n{index}"))
    watch.put(NodeRemoved("after"))
    assert await drained(watch) == [EventsMissed(), NodeRemoved("after")]


async def test_closing_wakes_a_reader() -> None:
    """A reader that waits ends when the watch is closed."""
    watch = Watch(set())
    reading = asyncio.create_task(drained_to_end(watch))
    await asyncio.sleep(0)
    watch.close()
    async with asyncio.timeout(5):
        assert await reading == []


async def drained_to_end(watch: Watch) -> list[Event]:
    """Read until the end."""
    return [event async for event in watch]
