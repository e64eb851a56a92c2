"""Watching the inventory: small events, a bounded queue for each watcher.

A watcher that falls behind holds nobody: a report of telemetry that it has not taken yet is not queued twice, and when
its queue is full, everything in it is replaced by one :class:`EventsMissed`. It then looks at the inventory itself,
which always has the present state, and asks the nodes for their servers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from jupyterhub_agentfarm.models import Node, ServerStatus

#: Events a watcher may be behind.
MAX_BEHIND = 1000


@dataclass(frozen=True)
class NodeChanged:
    """A node is new, or its state, its detail or its marks changed."""

    name: str
    node: Node


@dataclass(frozen=True)
class NodeRemoved:
    """A node is no longer part of the farm."""

    name: str


@dataclass(frozen=True)
class NodeReady:
    """A node was reached; these servers are there, those that ended lately included."""

    name: str
    servers: tuple[ServerStatus, ...]


@dataclass(frozen=True)
class TelemetryArrived:
    """A node reported; the report is in its record."""

    name: str


@dataclass(frozen=True)
class ServerExited:
    """A server on a node ended."""

    name: str
    status: ServerStatus


@dataclass(frozen=True)
class EventsMissed:
    """The watcher was too slow; what it knows may be out of date."""


Event = NodeChanged | NodeRemoved | NodeReady | TelemetryArrived | ServerExited | EventsMissed


class Follower:
    """A subscription that is called at the moment of each event, for who must never be behind.

    What it calls must be quick and must not raise: it is called from within the change itself.
    """

    def __init__(self, followers: set[Watch | Follower], on_event: Callable[[Event], None]) -> None:
        self._followers = followers
        self.put = on_event
        followers.add(self)

    def close(self) -> None:
        """End the subscription; may be called again."""
        self._followers.discard(self)


class Watch:
    """A subscription: ``with inventory.watch() as watch: async for event in watch: …``.

    It begins with the call of `watch()`; nothing that happens after it is lost. Iteration ends when the watch or the
    inventory is closed.
    """

    def __init__(self, watchers: set[Watch | Follower]) -> None:
        self._watchers = watchers
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        watchers.add(self)

    def put(self, event: Event) -> None:
        """Queue an event; never waits."""
        if isinstance(event, TelemetryArrived) and event in self._events:
            return
        if len(self._events) >= MAX_BEHIND:
            self._events.clear()
            event = EventsMissed()
        self._events.append(event)
        self._arrived.set()

    def close(self) -> None:
        """End the subscription; may be called again."""
        self._closed = True
        self._watchers.discard(self)
        self._arrived.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()
