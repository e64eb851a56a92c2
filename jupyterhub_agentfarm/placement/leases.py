"""LeaseBook: every lease, in the database first and in memory for questions.

The states of a lease::

    waiting ──▶ granted ──▶ running ──▶ stopping ──▶ released
       │           └────────────┴───── node down, server gone ──▲
       └──────────── withdrawn, or refused ─────────────────────┘

Every change is committed before memory shows it and before anybody hears of it. There is one book for a database: the
service's lock (:mod:`..services.takeover`) keeps a second controller away, and if that failed, the primary key of
``lease_gpus`` would still refuse a second lease of a GPU.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy.engine import Connection

from ..errors import ConflictError, NotFoundError
from ..inventory.database import Database
from ..models import Explanation, Lease, LeaseEnd, LeaseState, PlacementRequest, ServerStatus
from . import lease_store
from .pool_book import PoolBook
from .usage import WEEK_SECONDS, UsageBook, used_by
from .view import NOTHING_PROMISED, Promised, promised

#: For `LeaseBook.change`.
WAITING: tuple[LeaseState, ...] = ("waiting",)
ALIVE: tuple[LeaseState, ...] = ("waiting", "granted", "running", "stopping")


class LeaseBook:
    """The leases of the farm.

    Parameters
    ----------
    database
        An open database.
    clock
        Seconds since the epoch.
    on_change
        Called with every lease that changed, after the commit; must not block.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[Lease], None] = lambda _lease: None,
    ) -> None:
        self._database = database
        self._clock = clock
        self.on_change = on_change
        self._writing = asyncio.Lock()
        self._alive: dict[str, Lease] = {}
        self._by_node: dict[str, dict[str, Lease]] = defaultdict(dict)
        self._by_owner: dict[str, dict[str, Lease]] = defaultdict(dict)
        self._waiting: dict[str, Lease] = {}
        self._followers: list[Callable[[str], None]] = []
        #: What every owner used of GPUs lately.
        self.usage = UsageBook()
        #: What the members of groups with a pool hold and used lately, together; whoever asks names the groups.
        self.pools = PoolBook()

    async def open(self, usage_seconds: float = WEEK_SECONDS) -> None:
        """Load what is alive, and what was used of GPUs within the last `usage_seconds`."""
        self.usage = UsageBook(usage_seconds)
        self.pools = PoolBook(self.pools.groups, usage_seconds)
        since = self._clock() - usage_seconds
        for used in await self._database.run(lambda connection: lease_store.load_used(connection, since)):
            self.usage.note(used)
            self.pools.note_use(used)
        for lease in await self._database.run(lease_store.load_alive):
            self._remember(lease)
            self._note_use(lease)

    async def reload(self) -> bool:
        """Take over what the database says; return whether memory said something else.

        They disagree after a transaction that was committed although its caller was told otherwise, or never heard.
        """
        async with self._writing:
            known = dict(self._alive)
            stored = await self._database.run(lambda connection: _stored(connection, known.keys()))
            lost = [self._lost(lease) for name, lease in known.items() if name not in stored]
            changed = [lease for lease in stored.values() if _differs(known.get(lease.id), lease)]
            for lease in lost + changed:
                self._changed(lease)
        return bool(lost or changed)

    # ---- questions ----------------------------------------------------------------------------------------------

    def get(self, lease_id: str) -> Lease:
        """Return a lease that is alive.

        Raises
        ------
        NotFoundError
            There is none alive of this id.
        """
        try:
            return self._alive[lease_id]
        except KeyError as exc:
            raise NotFoundError(f"there is no lease {lease_id}") from exc

    async def find(self, lease_id: str) -> Lease:
        """Return a lease, alive or released.

        Raises
        ------
        NotFoundError
            There is none of this id.
        """
        if lease_id in self._alive:
            return self._alive[lease_id]
        found = await self._database.run(lambda connection: lease_store.load_one(connection, lease_id))
        if not found:
            raise NotFoundError(f"there is no lease {lease_id}")
        return found[0]

    def now(self) -> float:
        """Return the time that leases are dated with, in seconds since the epoch."""
        return self._clock()

    def alive(self) -> list[Lease]:
        """Return every lease that is not released, oldest first."""
        return sorted(self._alive.values(), key=lambda lease: (lease.created_at, lease.id))

    def waiting(self) -> list[Lease]:
        """Return the leases that wait, in no order."""
        return list(self._waiting.values())

    def on_node(self, node: str) -> list[Lease]:
        """Return the leases that hold something on a node."""
        return list(self._by_node[node].values()) if node in self._by_node else []

    def promised(self, node: str, seen_until: float) -> Promised:
        """Return what the leases of a node add up to; see :func:`.view.promised`."""
        held = self._by_node.get(node)
        return promised(held.values(), seen_until) if held else NOTHING_PROMISED

    def of_owner(self, owner: str) -> list[Lease]:
        """Return what an owner has alive."""
        return list(self._by_owner[owner].values()) if owner in self._by_owner else []

    def follow(self, on_node: Callable[[str], None]) -> None:
        """Have `on_node` called with a node's name when what leases hold there changed; it must not block or raise."""
        self._followers.append(on_node)

    async def released(self, limit: int = 200) -> list[Lease]:
        """Return the leases released last, newest first."""
        return await self._database.run(lambda connection: lease_store.load_released(connection, limit))

    # ---- changes ------------------------------------------------------------------------------------------------

    async def add(self, request: PlacementRequest, why: Explanation, detail: str) -> Lease:
        """Put a request into the waiting line."""
        lease = dataclasses.replace(self._new(request), why=why, detail=detail)
        return await self._write(lease, lambda connection: _saved(connection, lease))

    async def grant(self, lease: Lease | PlacementRequest, node: str, gpus: tuple[str, ...], why: Explanation) -> Lease:
        """Grant a new request, or one that waited; its GPUs are held and its epoch is new when this returns.

        Raises
        ------
        ConflictError
            One of the GPUs is under another lease, or the lease does not wait any more.
        """
        waited = self._new(lease) if isinstance(lease, PlacementRequest) else self._in_state(lease.id, WAITING)
        granted = dataclasses.replace(
            waited,
            state="granted",
            node=node,
            gpus=gpus,
            position=None,
            detail=why.sentence(),
            granted_at=self._clock(),
            why=why,
        )

        def work(connection: Connection) -> Lease:
            """Number, write and hold, in one transaction."""
            numbered = dataclasses.replace(granted, epoch=lease_store.next_epoch(connection))
            lease_store.save(connection, numbered)
            lease_store.hold(connection, numbered)
            return numbered

        return await self._write(granted, work)

    async def change(self, lease_id: str, when: Collection[LeaseState], **changes: Any) -> Lease:
        """Change a lease that is in one of the states `when`.

        Raises
        ------
        NotFoundError
            It is released.
        ConflictError
            It is in another state.
        """
        async with self._writing:
            changed = dataclasses.replace(self._in_state(lease_id, when), **changes)
            if changed.state == "released":
                changed = dataclasses.replace(changed, released_at=self._clock(), position=None)
            saved = await self._database.run(lambda connection: _saved(connection, changed))
        return self._changed(saved)

    async def release(
        self, lease_id: str, detail: str, server: ServerStatus | None = None, end: LeaseEnd = "stopped"
    ) -> Lease:
        """End a lease in whatever state it is; one that is released already is returned as it is.

        `server` is how its server ended, where that is known; it is written with the release. A lease that is being
        stopped keeps the `end` that it was stopped for.
        """
        known = {} if server is None else {"server": server}
        try:
            meant = self.get(lease_id).end or end
            return await self.change(lease_id, ALIVE, state="released", detail=detail, end=meant, **known)
        except NotFoundError:
            return await self.find(lease_id)

    def note_waiting(self, lease_id: str, position: int, detail: str, why: Explanation) -> Lease:
        """Set what a waiting lease waits for. It is true for this moment only, so it is kept in memory alone."""
        before = self._in_state(lease_id, WAITING)
        after = dataclasses.replace(before, position=position, detail=detail, why=why)
        self._keep(after)
        if (before.position, before.detail) != (position, detail):
            self.on_change(after)
        return after

    async def forget(self, older_than_seconds: float) -> int:
        """Delete released leases of long ago; return how many."""
        before = self._clock() - older_than_seconds
        return await self._database.run(lambda connection: lease_store.delete_released(connection, before))

    # ---- inside -------------------------------------------------------------------------------------------------

    def _new(self, request: PlacementRequest) -> Lease:
        return Lease(
            id=uuid.uuid4().hex,
            owner=request.owner,
            server_name=request.server_name,
            state="waiting",
            epoch=0,
            request=request,
            created_at=self._clock(),
        )

    def _lost(self, lease: Lease) -> Lease:
        detail = "the database does not have it"
        return dataclasses.replace(lease, state="released", released_at=self._clock(), position=None, detail=detail)

    def _in_state(self, lease_id: str, when: Collection[LeaseState]) -> Lease:
        lease = self.get(lease_id)
        if lease.state not in when:
            raise ConflictError(f"lease {lease_id} is {lease.state}: this needs {' or '.join(when)}")
        return lease

    async def _write(self, lease: Lease, work: Callable[[Connection], Lease]) -> Lease:
        async with self._writing:
            return self._changed(await self._database.run(work))

    def _changed(self, lease: Lease) -> Lease:
        self._remember(lease)
        self._note_use(lease)
        self.on_change(lease)
        return lease

    def _note_use(self, lease: Lease) -> None:
        used = used_by(lease)
        if used is not None:
            self.usage.note(used)
            self.pools.note_use(used)

    def _remember(self, lease: Lease) -> None:
        before = self._alive.pop(lease.id, None)
        if before is not None:
            self._drop(before)
        if lease.alive:
            self._keep(lease)
        self.pools.note(lease)
        for node in {lease.node, before.node if before else None} - {None}:
            for follower in self._followers:
                follower(str(node))

    def _keep(self, lease: Lease) -> None:
        self._alive[lease.id] = self._by_owner[lease.owner][lease.id] = lease
        if lease.state == "waiting":
            self._waiting[lease.id] = lease
        if lease.node is not None:
            self._by_node[lease.node][lease.id] = lease

    def _drop(self, lease: Lease) -> None:
        self._waiting.pop(lease.id, None)
        owned = self._by_owner[lease.owner]
        owned.pop(lease.id, None)
        if not owned:
            del self._by_owner[lease.owner]
        if lease.node is not None:
            self._by_node[lease.node].pop(lease.id, None)


def _saved(connection: Connection, lease: Lease) -> Lease:
    lease_store.save(connection, lease)
    return lease


def _stored(connection: Connection, names: Collection[str]) -> dict[str, Lease]:
    """Return every lease that is alive, and those of these names that are not."""
    found = {lease.id: lease for lease in lease_store.load_alive(connection)}
    for name in set(names) - found.keys():
        found |= {lease.id: lease for lease in lease_store.load_one(connection, name)}
    return found


def _differs(known: Lease | None, stored: Lease) -> bool:
    """Whether memory is wrong; what a lease waits for is noted in memory alone."""
    if known is not None and known.state == stored.state == "waiting":
        return False
    return known != stored
