"""What the controller says about the leases, kept up to date by one follower per Hub.

::

    controller ── events ──▶ LeaseWatch ──▶ LeaseCache ──▶ who polls, who waits, the Hub that must know of an end

The stream begins with a snapshot. A lease that is held by a server here and is not in it ended while nobody listened:
it is asked for by itself. A lost stream is opened again, with growing pauses; the cache stays as it was, so that a
restart of the controller costs no server.

Work that must be done even when the request that caused it was cancelled, above all giving a lease back, belongs to
the watch.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from traitlets import Any as AnyTrait
from traitlets import Dict, Instance, default
from traitlets.config import LoggingConfigurable

from ..controller.client import FarmClient
from ..errors import AgentFarmError, ConflictError, FarmUnavailable, NotFoundError
from ..faults import Edge
from ..logs import LogLine, about
from ..models import Lease, PlacementRequest
from ..records import from_json
from ..tasks import OwnedTasks
from ..traitlets import Seconds
from .lease_cache import LeaseCache
from .orphans import orphans
from .reviving import look_after_controller, look_after_others

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.1


class LeaseWatch(LoggingConfigurable):
    """The leases of this Hub's servers."""

    retry_max_seconds = Seconds(
        5,
        help="Longest pause before the controller is asked again after it did not answer. Smaller: servers are "
        "manageable sooner after it is back. Larger: less noise while it is away. Seconds.",
    ).tag(config=True)
    patience_seconds = Seconds(
        30,
        help="How long a start waits for a controller that does not answer, as in the first seconds of a Hub. "
        "Smaller: users learn sooner that it is down. Larger: its restart costs no start. Seconds.",
    ).tag(config=True)
    client = Instance(FarmClient)
    settings = Dict(help="The Hub's settings.")
    db = AnyTrait(help="The Hub's database session; None in tests: no lease is taken for an orphan.")

    @default("client")
    def _client_default(self) -> FarmClient:
        return FarmClient(parent=self)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tasks = OwnedTasks(self.log)
        self._cache = LeaseCache(self.tasks)
        self.began_at = time.time()
        #: Whether the controller's events arrive at present.
        self.connected = False
        self._snapshot = asyncio.Event()
        #: Releases under way, with the grace that they asked for.
        self._releases: dict[str, tuple[asyncio.Task[None], float]] = {}
        self._follower: asyncio.Task[None] | None = None

    # ---- life ----

    def open(self) -> None:
        """Begin to follow the controller; a second call does nothing."""
        if self._follower is None:
            self._follower = self.tasks.start(self._follow(), "following the controller's events")
            self.tasks.start(look_after_others(self.settings, self.log), "looking after the farm's other services")

    async def aclose(self) -> None:
        """Stop following and what is under way; a second call does nothing."""
        await self.tasks.aclose()
        await self.client.aclose()

    # ---- what spawners ask ----

    def attach(self, lease_id: str, spawner: Any) -> None:
        """Tell `spawner` when the server of the lease ends."""
        self._cache.attach(lease_id, spawner)

    def detach(self, lease_id: str) -> None:
        """Forget who holds the lease, and the lease when it has ended."""
        self._cache.detach(lease_id)

    def get(self, lease_id: str) -> Lease | None:
        """Return the lease as last heard of, or None when nothing was heard of it."""
        return self._cache.get(lease_id)

    def status(self, lease_id: str) -> int | None:
        """Return the exit status of the lease's server; None while it runs, and while that is not known."""
        return self._cache.status(lease_id)

    async def heard_of(self, lease_id: str, timeout_seconds: float) -> None:
        """Return when the controller has told what became of the lease, or when the time is over."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._snapshot.wait()
                await self.until(lease_id, lambda _: True)
        except NotFoundError:
            return  # which `status` says too
        except TimeoutError:
            self.log.warning(LogLine("not told of by the controller yet: taken to run", lease=lease_id))

    async def until(self, lease_id: str, wanted: Callable[[Lease], bool]) -> Lease:
        """Return the lease when it is as `wanted`; the deadline is the caller's.

        Raises
        ------
        NotFoundError
            The controller knows no such lease.
        """
        return await self._cache.until(lease_id, wanted)

    def remember(self, lease: Lease) -> None:
        """Take over a lease that a request was answered with, unless the events told of a later state already."""
        self._cache.remember(lease)

    # ---- what spawners have done ----

    async def place(self, request: PlacementRequest) -> Lease:
        """Return the lease that the controller answers `request` with.

        When the caller is cancelled, a lease that was made all the same is given back.

        Raises
        ------
        AgentFarmError
            As the controller answered.
        """
        task = self.tasks.start(self._place(request), f"placing {request.owner}'s server")
        task.remove_done_callback(self.tasks.report)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.tasks.start(self._give_back(task), f"giving back the lease of {request.owner}'s cancelled start")
            raise

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` answers; while the controller does not answer, call again for `patience_seconds`."""
        deadline = time.monotonic() + self.patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await call()
            except FarmUnavailable:
                if time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, self.retry_max_seconds)

    def release(self, lease_id: str, grace_seconds: float) -> asyncio.Task[None]:
        """Return the task that gives the lease back, and tries until the controller has taken it.

        One that is under way is joined, unless its grace is larger: then the controller is asked to hurry.
        """
        known = self._releases.get(lease_id)
        if known is not None and not known[0].done() and known[1] <= grace_seconds:
            return known[0]
        task = self.tasks.start(self._release(lease_id, grace_seconds), f"releasing lease {lease_id}")
        self._releases[lease_id] = task, grace_seconds
        task.add_done_callback(lambda _: self._release_ended(lease_id, task))
        return task

    def _release_ended(self, lease_id: str, task: asyncio.Task[None]) -> None:
        if lease_id in self._releases and self._releases[lease_id][0] is task:
            del self._releases[lease_id]

    async def _place(self, request: PlacementRequest) -> Lease:
        """Ask; a lease of an earlier server of that name, whatever left it behind, goes first."""
        for _ in range(3):
            try:
                lease = await self.patiently(lambda: self.client.place(request))
            except ConflictError:
                stale = [old for old in await self.client.leases() if _same_server(old, request) and old.alive]
                if not stale:
                    raise
            else:
                if lease.state in {"waiting", "granted"}:
                    self.remember(lease)
                    return lease
                stale = [lease]
            server = f"{request.owner}/{request.server_name}"
            self.log.warning(LogLine("it still had a lease, which is released first", server=server))
            await asyncio.gather(*(self.release(old.id, 0) for old in stale))
        raise ConflictError(
            f"an earlier server of {request.owner} is still being stopped: try again, or ask for another server name"
        )

    async def _give_back(self, placing: asyncio.Task[Lease]) -> None:
        await asyncio.wait({placing})
        if not placing.cancelled() and placing.exception() is None:
            await self.release(placing.result().id, 0)

    async def _release(self, lease_id: str, grace_seconds: float) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self.remember(await self.client.release(lease_id, grace_seconds))
            except NotFoundError:
                self._cache.forget(lease_id)
            except AgentFarmError as exc:
                self.log.warning(LogLine("not released yet", lease=lease_id, detail=exc.message))
                await asyncio.sleep(pause)
                pause = min(pause * 2, self.retry_max_seconds)
                continue
            return

    # ---- what the controller tells ----

    async def _follow(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        try:
            while True:
                try:
                    # A watch that stopped would never see a server's end again.
                    with Edge(self.log, "the controller's events could not be followed", AgentFarmError):
                        async for event, data in self.client.events():
                            self._handle(event, data)
                            pause = _FIRST_PAUSE_SECONDS
                except AgentFarmError as exc:
                    level = self.log.warning if self.connected else self.log.debug
                    level("the controller's events stopped: %s", exc.message)
                self.connected = False
                await self._look_after_controller()
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads reconnections, no secret
                pause = min(pause * 2, self.retry_max_seconds)
        finally:
            self.connected = False
            await self.client.aclose()

    async def _look_after_controller(self) -> None:
        try:
            async with asyncio.timeout(self.retry_max_seconds):
                await look_after_controller(self.settings)
        except TimeoutError:
            self.log.warning("the Hub did not get the controller's service started within %g s", self.retry_max_seconds)

    def _handle(self, event: str, data: Any) -> None:
        if event == "snapshot":
            self._take([from_json(Lease, item) for item in data["leases"]])
        elif event == "lease":
            self._cache.put(from_json(Lease, data))

    def _take(self, leases: list[Lease]) -> None:
        """Take over a snapshot; ask for the leases of our servers that are not in it."""
        for lease_id in self._cache.take(leases):
            self.tasks.start_single(self._look_up(lease_id), f"asking for lease {lease_id}")
        for lease in orphans(leases, self.db, self.began_at) if self.db is not None else ():
            self.log.warning(LogLine("belongs to no server: released", **about(lease)))
            self.release(lease.id, 0)
        self.connected = True
        self._snapshot.set()

    async def _look_up(self, lease_id: str) -> None:
        """Ask what became of a lease, until it is known or nobody wants to know it any more."""
        pause, level = _FIRST_PAUSE_SECONDS, self.log.warning
        while self._cache.wanted(lease_id):
            try:
                self._cache.put(await self.client.lease(lease_id))
            except NotFoundError:
                self._cache.forget(lease_id)
            except AgentFarmError as exc:
                level("lease %s could not be asked for yet: %s", lease_id, exc.message)
                await asyncio.sleep(pause)
                pause, level = min(pause * 2, self.retry_max_seconds), self.log.debug
                continue
            return


def _same_server(lease: Lease, request: PlacementRequest) -> bool:
    return (lease.owner, lease.server_name) == (request.owner, request.server_name)
