"""Broadcast: the latest of everything, nothing twice, and an end for who is too slow."""

from __future__ import annotations

import pytest

from jupyterhub_agentfarm.controller.events import MAX_BEHIND, Broadcast


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
