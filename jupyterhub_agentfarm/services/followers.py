"""One who tells, many who follow: what happens to a run or a task goes to every open page and command line."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import Any

#: Events that wait for a slow follower; after that it is cut off and asks again.
QUEUE_LIMIT = 1000

Event = tuple[str, Any]


class Followers:
    """The followers of each thing, by its id."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, set[asyncio.Queue[Event | None]]] = defaultdict(set)

    def tell(self, topic: str, event: str, data: Any) -> None:
        """Give an event to all who follow `topic`."""
        for queue in list(self._queues.get(topic, ())):
            if queue.full():
                self._cut(topic, queue)
            else:
                queue.put_nowait((event, data))

    def finish(self, topic: str) -> None:
        """End the following of `topic`: there will be no more events."""
        for queue in list(self._queues.get(topic, ())):
            if queue.full():
                self._cut(topic, queue)
            else:
                queue.put_nowait(None)

    def _cut(self, topic: str, queue: asyncio.Queue[Event | None]) -> None:
        """Let a follower that does not keep up end: it connects again and gets the newest state."""
        self._queues[topic].discard(queue)
        queue.get_nowait()
        queue.put_nowait(None)

    def follow(self, topic: str) -> Following:
        """Return what will happen from now on."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_LIMIT)
        self._queues[topic].add(queue)
        return Following(self, topic, queue)

    def leave(self, topic: str, queue: asyncio.Queue[Event | None]) -> None:
        """Stop giving events to `queue`."""
        with contextlib.suppress(KeyError):
            self._queues[topic].discard(queue)
            if not self._queues[topic]:
                del self._queues[topic]


class Following:
    """One follower; made before the newest state is read, so that nothing is missed between the two."""

    def __init__(self, followers: Followers, topic: str, queue: asyncio.Queue[Event | None]) -> None:
        self._followers, self._topic, self._queue = followers, topic, queue

    async def events(self, first: list[Event], *, ended: bool = False) -> AsyncGenerator[Event, None]:
        """Give the events of `first`, then, unless it has `ended`, those that happen."""
        try:
            for event in first:
                yield event
            while not ended and (following := await self._queue.get()) is not None:
                yield following
        finally:
            self.close()

    def close(self) -> None:
        """Follow no more; a second call does nothing."""
        self._followers.leave(self._topic, self._queue)
