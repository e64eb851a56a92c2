"""Broadcast of changes to those who follow: each gets the latest of everything that changed, nothing twice.

A follower that is slow does not collect a backlog: what waits for it is one entry for each node and lease that
changed since it last looked. One that still falls too far behind is ended, and starts anew with a snapshot.
"""

from __future__ import annotations

import asyncio
from typing import Any

#: Things that changed and that a follower has not taken yet, before it is ended.
MAX_BEHIND = 20_000

Key = tuple[str, str]


class Follower:
    """One subscription: ``async for (event, name), value in follower``; close it when done."""

    def __init__(self, followers: set[Follower]) -> None:
        self._followers = followers
        self._pending: dict[Key, Any] = {}
        self._arrived = asyncio.Event()
        self._closed = False
        followers.add(self)

    def put(self, key: Key, value: Any) -> None:
        """Queue a change, in place of an older one of the same thing; never waits."""
        self._pending.pop(key, None)
        self._pending[key] = value
        if len(self._pending) > MAX_BEHIND:
            self.close()
        self._arrived.set()

    def close(self) -> None:
        """End the subscription; may be called again."""
        self._closed = True
        self._followers.discard(self)
        self._arrived.set()

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> tuple[Key, Any]:
        while not self._pending or self._closed:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        key = next(iter(self._pending))
        return key, self._pending.pop(key)


class Broadcast:
    """Tells every follower."""

    def __init__(self) -> None:
        self._followers: set[Follower] = set()

    def follow(self) -> Follower:
        """Return a subscription to everything from now on."""
        return Follower(self._followers)

    def tell(self, event: str, name: str = "", value: Any = None) -> None:
        """Tell that the thing `name` changed."""
        for follower in list(self._followers):
            follower.put((event, name), value)

    def close(self) -> None:
        """End every subscription."""
        for follower in list(self._followers):
            follower.close()
