"""One who tells, many who follow: events of a run go to every open page and command line."""

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
    """The followers of each run."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, set[asyncio.Queue[Event | None]]] = defaultdict(set)

    def tell(self, run_id: str, event: str, data: Any) -> None:
        """Give an event to all who follow `run_id`."""
        for queue in list(self._queues.get(run_id, ())):
            if queue.full():
                self._cut(run_id, queue)
            else:
                queue.put_nowait((event, data))

    def finish(self, run_id: str) -> None:
        """End the following of `run_id`: there will be no more events."""
        for queue in list(self._queues.get(run_id, ())):
            if queue.full():
                self._cut(run_id, queue)
            else:
                queue.put_nowait(None)

    def _cut(self, run_id: str, queue: asyncio.Queue[Event | None]) -> None:
        """Let a follower that does not keep up end: it connects again and gets the newest state."""
        self._queues[run_id].discard(queue)
        queue.get_nowait()
        queue.put_nowait(None)

    def follow(self, run_id: str) -> Following:
        """Return what will happen from now on."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE_LIMIT)
        self._queues[run_id].add(queue)
        return Following(self, run_id, queue)

    def leave(self, run_id: str, queue: asyncio.Queue[Event | None]) -> None:
        """Stop giving events to `queue`."""
        with contextlib.suppress(KeyError):
            self._queues[run_id].discard(queue)
            if not self._queues[run_id]:
                del self._queues[run_id]


class Following:
    """One follower; made before the newest state is read, so that nothing is missed between the two."""

    def __init__(self, followers: Followers, run_id: str, queue: asyncio.Queue[Event | None]) -> None:
        self._followers, self._run_id, self._queue = followers, run_id, queue

    async def events(self, first: list[Event], *, ended: bool = False) -> AsyncGenerator[Event, None]:
        """Give the events of `first`, then, unless the run has `ended`, those that happen."""
        try:
            for event in first:
                yield event
            while not ended and (following := await self._queue.get()) is not None:
                yield following
        finally:
            self.close()

    def close(self) -> None:
        """Follow no more; a second call does nothing."""
        self._followers.leave(self._run_id, self._queue)
