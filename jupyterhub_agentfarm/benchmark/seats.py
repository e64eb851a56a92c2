"""A node's place in a run: its server, started, watched, and started again after it was lost.

::

    starting ──server ready──▶ ready ──node down, or server gone──▶ lost ──node eligible──▶ starting …

Short faults are no loss: while the node may be there and the Hub does not say that the server ended, questions to the
server are asked again. So a restart of the Hub, of the proxy or of the controller costs time and nothing else. A
server that comes after a loss is always a new one: what an old one still executes must not run beside its successor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import aiohttp

from ..controller.farm_watch import FarmWatch
from ..errors import HubApiError, NodeUnreachable, ServerDied
from ..runs.client import ServerRuns
from .models import EventKind, RunEvent, RunNode
from .servers import NodeServers

T = TypeVar("T")

#: The most that lies between two attempts to start a server.
MAX_RETRY_SECONDS = 30.0


class SeatObserver(Protocol):
    """Who is told what becomes of seats."""

    async def happened(self, event: RunEvent) -> None:
        """Keep an event."""

    def seated(self, node: str, status: str, detail: str) -> None:
        """Take what a node's server does: starting, waiting, ready, away, not started."""


@dataclass(frozen=True)
class SeatTimes:
    """How patient a seat is, in seconds."""

    #: How long a server that the Hub takes for running may not answer.
    patience: float
    #: Between two looks at anything.
    poll: float


class Seat:
    """One node in one run.

    Parameters
    ----------
    node
        The node's part in the run.
    servers
        Starts and stops servers.
    farm
        The farm's newest state.
    session
        Makes the requests to the server.
    observer
        Is told of everything.
    times
        How patient it is.
    """

    def __init__(
        self,
        node: RunNode,
        servers: NodeServers,
        farm: FarmWatch,
        session: aiohttp.ClientSession,
        observer: SeatObserver,
        times: SeatTimes,
    ) -> None:
        self.node = node
        self._servers, self._farm, self._session = servers, farm, session
        self._observer, self._times = observer, times
        self._ready, self._settled, self._gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._runs: ServerRuns | None = None
        #: When the server was lost, by the monotonic clock, and as what its return is told.
        self._lost_at: float | None = None
        self._back: EventKind = "server_restarted"
        #: Why there is no server now; "" when there is one, or when the first is being started.
        self.why = ""
        #: Whether there ever was a server.
        self.seen = False
        #: Whether its cases are to be ended on the node when they are no longer waited for.
        self.leaving = False

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def ready(self) -> bool:
        """Whether its server runs, as far as is known."""
        return self._ready.is_set()

    async def until_ready(self) -> None:
        """Return when the server runs."""
        await self._ready.wait()

    async def until_settled(self) -> None:
        """Return when the server runs, or will not for now."""
        await self._settled.wait()

    def gpus(self) -> tuple[str, ...]:
        """Return the UUIDs of the server's GPUs, as far as they are known."""
        return self._servers.gpus_of(self.name)

    # ---- the server's life ----

    async def keep(self, *, fresh: bool, lost_at: float | None = None) -> None:
        """Keep a server running until cancelled.

        Parameters
        ----------
        fresh
            Whether one that is there is stopped first; otherwise it is that of the run, from an earlier life of the
            service.
        lost_at
            Since when the node was lost then; None: it was not.
        """
        self.seen = not fresh
        if lost_at is not None:
            self._back, self._lost_at = "node_back", time.monotonic() - max(0.0, time.time() - lost_at)
        elif self.seen and await self._servers.runs(self.name) is False:
            self._lost_at, self.why = time.monotonic(), "its server ended while the service was away"
        while True:
            await self._start(fresh=fresh or lost_at is not None)
            if self._lost_at is not None:
                await self._tell(self._back, self.why, time.monotonic() - self._lost_at)
            self.why, self.seen, fresh = "", True, True
            self._ready.set()
            self._settled.set()
            self._observer.seated(self.name, "ready", "")
            await self._lost()
            self._back, self._lost_at = "server_restarted", time.monotonic()

    async def _start(self, *, fresh: bool) -> None:
        pause = self._times.poll
        while True:
            if absent := self._absent():
                await self._away(absent)
                continue
            if unreachable := self._unreachable():
                self._observer.seated(self.name, "waiting", unreachable)
                await asyncio.sleep(self._times.poll)
                continue
            try:
                self._observer.seated(self.name, "starting", "")
                if fresh:
                    await self._servers.stop(self.name)
                fresh = False  # from here on, what is being started keeps its place in the line
                url = await self._servers.start(self.name, self.node.gpus, self._waits)
            except (HubApiError, ServerDied) as exc:
                self._not_started(exc)
            else:
                self._runs = ServerRuns(self._session, url, self.name)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_SECONDS)

    async def _away(self, why: str) -> None:
        """Wait a moment for a node that is not there; the first time tell that it is lost."""
        if self.seen and self._back != "node_back":
            self._back, self._lost_at = "node_back", self._lost_at or time.monotonic()
            await self._tell("node_lost", why)
        self._unsettle("away", why)
        await asyncio.sleep(self._times.poll)

    def _not_started(self, exc: HubApiError | ServerDied) -> None:
        if isinstance(exc, HubApiError) and (exc.status == 0 or exc.status >= 500):
            self._observer.seated(self.name, "waiting", exc.message)  # the Hub comes back
        else:
            self._unsettle("not started", exc.message)

    def _waits(self, why: str) -> None:
        if why:
            self._observer.seated(self.name, "waiting", why)

    def _unsettle(self, status: str, why: str) -> None:
        """Say that there will be no server for now."""
        self.why = self.why or why
        self._settled.set()
        self._observer.seated(self.name, status, why)

    def _unreachable(self) -> str:
        """Return why the node cannot be asked for a server now: it comes back, or is down in a while."""
        view = self._farm.nodes.get(self.name) if self._farm.current else None
        if view is None or view["state"] == "ready":
            return ""
        return f"the node is {view['state']}: {view['detail']}"

    async def _lost(self) -> None:
        """Return when the server is lost."""
        while not self._gone.is_set():
            if absent := self._absent():
                self._lose(absent)
            else:
                await self._gone_within(self._times.poll)
        self._gone.clear()

    async def _gone_within(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return

    def _absent(self) -> str:
        return self._farm.absent(self.name) if self._farm.current else ""

    def _lose(self, why: str) -> None:
        """Take the server for lost; a second call does nothing."""
        if self._ready.is_set():
            self._ready.clear()
            self._settled.clear()
            self.why = why
            self._gone.set()
            self._observer.seated(self.name, "away", why)

    async def _tell(self, kind: EventKind, detail: str, seconds: float | None = None) -> None:
        await self._observer.happened(RunEvent(time.time(), kind, self.name, detail, seconds))

    # ---- questions to the server ----

    async def ask(self, question: Callable[[ServerRuns], Awaitable[T]]) -> T:
        """Return the server's answer; ask again while it cannot be reached and is not lost.

        Raises
        ------
        NodeUnreachable
            The server is lost.
        """
        since = time.monotonic()
        while self._ready.is_set() and self._runs is not None:
            try:
                return await question(self._runs)
            except NodeUnreachable as exc:
                running = await self._servers.runs(self.name)
                if running is None:  # without the Hub, the way through the proxy may be gone as well
                    since = time.monotonic()
                silent = time.monotonic() - since > self._times.patience
                if why := self._absent() or ("" if running in (None, True) else "its server ended"):
                    self._lose(why)
                elif silent:
                    self._lose(exc.message.removeprefix(f"node {self.name}: "))
            await asyncio.sleep(self._times.poll)
        raise NodeUnreachable(self.name, self.why or "its server is not ready")
