"""What the controller says about the leases, kept up to date by one follower per Hub.

::

    controller ── events ──▶ LeaseWatch ──▶ the cache that `poll` reads
                                       ├──▶ starts that wait for their lease to change
                                       └──▶ `poll_and_notify` of a server that ended: its route is gone at once

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
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from traitlets import Any as AnyTrait
from traitlets import Dict, Instance, default
from traitlets.config import LoggingConfigurable

from ..controller.client import FarmClient
from ..errors import AgentFarmError, ConflictError, FarmUnavailable, NotFoundError
from ..logs import LogLine, about
from ..models import Lease, PlacementRequest
from ..records import from_json
from ..tasks import OwnedTasks
from ..traitlets import Seconds
from .orphans import orphans
from .reviving import look_after_controller

T = TypeVar("T")

_ORDER = {"waiting": 0, "granted": 1, "running": 2, "stopping": 3, "released": 4}
_FIRST_PAUSE_SECONDS = 0.1
_PENDING_INTERVAL_SECONDS = 0.2


def ended(lease: Lease) -> bool:
    """Whether the lease's server is gone, or never came."""
    return lease.state == "released" or (lease.server is not None and lease.server.exit is not None)


def exit_status(lease: Lease) -> int:
    """Return what a shell would say of the end of the lease's server: 1 when it is not known."""
    end = lease.server.exit if lease.server is not None else None
    if end is None:
        return 1
    if end.signal is not None:
        return 128 + end.signal
    return 1 if end.code is None else end.code


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
        self.began_at = time.time()
        #: Whether the controller's events arrive at present.
        self.connected = False
        self._snapshot = asyncio.Event()
        self._leases: dict[str, Lease] = {}
        self._gone: set[str] = set()
        self._spawners: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        #: Releases under way, with the grace that they asked for.
        self._releases: dict[str, tuple[asyncio.Task[None], float]] = {}
        self._follower: asyncio.Task[None] | None = None

    # ---- life ----

    def open(self) -> None:
        """Begin to follow the controller; a second call does nothing."""
        if self._follower is None:
            self._follower = self.tasks.start(self._follow(), "following the controller's events")

    async def aclose(self) -> None:
        """Stop following and what is under way; a second call does nothing."""
        await self.tasks.aclose()
        await self.client.aclose()

    # ---- what spawners ask ----

    def attach(self, lease_id: str, spawner: Any) -> None:
        """Tell `spawner` when the server of the lease ends."""
        self._spawners[lease_id] = spawner

    def detach(self, lease_id: str) -> None:
        """Forget who holds the lease, and the lease when it has ended."""
        self._spawners.pop(lease_id, None)
        self._gone.discard(lease_id)
        if (lease := self._leases.get(lease_id)) is not None and not lease.alive:
            del self._leases[lease_id]

    def get(self, lease_id: str) -> Lease | None:
        """Return the lease as last heard of, or None when nothing was heard of it."""
        return self._leases.get(lease_id)

    def status(self, lease_id: str) -> int | None:
        """Return the exit status of the lease's server; None while it runs, and while that is not known."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return 1 if lease_id in self._gone else None
        return exit_status(lease) if ended(lease) else None

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
        while True:
            if lease_id in self._gone:
                raise NotFoundError("the controller lost the request: start the server again")
            lease = self._leases.get(lease_id)
            if lease is not None and wanted(lease):
                return lease
            change = asyncio.get_running_loop().create_future()
            waiters = self._waiters.setdefault(lease_id, set())
            waiters.add(change)
            try:
                await change
            finally:
                waiters.discard(change)
                if not waiters:
                    self._waiters.pop(lease_id, None)

    def remember(self, lease: Lease) -> None:
        """Take over a lease that a request was answered with, unless the events told of a later state already."""
        known = self._leases.get(lease.id)
        if known is None or (known.epoch, _ORDER[known.state]) <= (lease.epoch, _ORDER[lease.state]):
            self._put(lease)

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
                self._forget(lease_id)
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
                    async for event, data in self.client.events():
                        self._handle(event, data)
                        pause = _FIRST_PAUSE_SECONDS
                except AgentFarmError as exc:
                    level = self.log.warning if self.connected else self.log.debug
                    level("the controller's events stopped: %s", exc.message)
                except Exception:  # the loop's edge: a watch that stopped would never see a server's end again
                    self.log.exception("the controller's events could not be followed")
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
            self._put(from_json(Lease, data))

    def _take(self, leases: list[Lease]) -> None:
        """Replace the cache by a snapshot; ask for the leases of our servers that are not in it."""
        ids = {lease.id for lease in leases}
        for lease_id in [*self._leases]:
            if lease_id not in ids and self._leases[lease_id].alive and lease_id not in self._spawners:
                del self._leases[lease_id]
        for lease in leases:
            self._put(lease)
        for lease_id in {*self._spawners, *self._waiters} - ids:
            self.tasks.start_single(self._look_up(lease_id), f"asking for lease {lease_id}")
        for lease in orphans(leases, self.db, self.began_at) if self.db is not None else ():
            self.log.warning(LogLine("belongs to no server: released", **about(lease)))
            self.release(lease.id, 0)
        self.connected = True
        self._snapshot.set()

    async def _look_up(self, lease_id: str) -> None:
        """Ask what became of a lease, until it is known or nobody wants to know it any more."""
        pause, level = _FIRST_PAUSE_SECONDS, self.log.warning
        while lease_id in self._spawners or lease_id in self._waiters:
            try:
                self._put(await self.client.lease(lease_id))
            except NotFoundError:
                self._forget(lease_id)
            except AgentFarmError as exc:
                level("lease %s could not be asked for yet: %s", lease_id, exc.message)
                await asyncio.sleep(pause)
                pause, level = min(pause * 2, self.retry_max_seconds), self.log.debug
                continue
            return

    def _put(self, lease: Lease) -> None:
        known = self._leases.get(lease.id)
        if known is not None and not known.alive and lease.alive:
            return
        if lease.alive or lease.id in self._spawners or lease.id in self._waiters:
            self._leases[lease.id] = lease
        else:
            self._leases.pop(lease.id, None)
        self._changed(lease.id)

    def _forget(self, lease_id: str) -> None:
        """Note that the controller knows no such lease."""
        self._leases.pop(lease_id, None)
        if lease_id in self._spawners or lease_id in self._waiters:
            self._gone.add(lease_id)
        self._changed(lease_id)

    def _changed(self, lease_id: str) -> None:
        for waiter in self._waiters.get(lease_id, ()):
            if not waiter.done():
                waiter.set_result(None)
        spawner = self._spawners.get(lease_id)
        if spawner is not None and not spawner.starting and self.status(lease_id) is not None:
            self.tasks.start(self._notify(spawner, lease_id), f"telling the Hub that lease {lease_id} ended")

    async def _notify(self, spawner: Any, lease_id: str) -> None:
        """Have the Hub notice the end, unless it stops the server itself.

        While it still checks the server it has nobody to tell.
        """
        while True:
            if spawner.pending not in {"spawn", "check"}:
                break
            await asyncio.sleep(_PENDING_INTERVAL_SECONDS)
        if spawner.pending is None and spawner.lease_id == lease_id:
            await spawner.poll_and_notify()


def _same_server(lease: Lease, request: PlacementRequest) -> bool:
    return (lease.owner, lease.server_name) == (request.owner, request.server_name)
