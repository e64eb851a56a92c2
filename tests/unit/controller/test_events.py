"""Broadcast: the latest of everything, nothing twice, and an end for who is too slow."""

from __future__ import annotations

import asyncio

import pytest

from jupyterhub_agentfarm.controller.events import MAX_BEHIND, Broadcast
from jupyterhub_agentfarm.controller.tasks import Tasks


async def test_latest_only() -> None:
    """What changed twice before it was taken is told once, with its latest value, in the order of the changes."""
    broadcast = Broadcast()
    follower = broadcast.follow()
    for value in (1, 2):
        broadcast.tell("lease", "x", value)
        broadcast.tell("node", "a")
    assert [await anext(follower), await anext(follower)] == [(("lease", "x"), 2), (("node", "a"), None)]
    broadcast.close()
    with pytest.raises(StopAsyncIteration):
        await anext(follower)


async def test_too_slow() -> None:
    """A follower that is too far behind is ended; others go on."""
    broadcast = Broadcast()
    slow = broadcast.follow()
    for number in range(MAX_BEHIND + 1):
        broadcast.tell("lease", str(number))
    with pytest.raises(StopAsyncIteration):
        await anext(slow)
    other = broadcast.follow()
    broadcast.tell("queue")
    assert (await anext(other))[0] == ("queue", "")


async def test_tasks_are_owned(caplog: pytest.LogCaptureFixture) -> None:
    """One task of each name runs, a fault is logged, and closing ends all."""
    tasks, begun = Tasks(), []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.Event().wait()

    async def fail() -> None:
        raise ValueError("boom")

    tasks.start("a", work(1))
    tasks.start("a", work(2))
    tasks.start("b", fail())
    await asyncio.sleep(0)
    tasks.start("a", work(3), replace=True)
    await asyncio.sleep(0)
    assert begun == [1, 3]
    await tasks.aclose()
    await tasks.aclose()
    assert "b failed" in caplog.text
    assert len(asyncio.all_tasks()) == 1
