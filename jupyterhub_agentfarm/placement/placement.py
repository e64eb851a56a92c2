"""Placement: decide and reserve, as one step.

One lock is held from the look at the nodes to the commit of the lease. So two requests at the same moment are decided
one after the other, and the second one sees what the first one got.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

from ..errors import ConflictError, NotFoundError, PlacementRefused, QuotaExceeded
from ..logs import LogLine, about
from ..models import Lease, PlacementRequest
from .decision import Decision
from .fairness import Fairness
from .filters import Limits
from .leases import WAITING, LeaseBook
from .line import Holds, Line, Waiter, holds_on, pools_of
from .owner_limits import OwnerLimitBook, smaller
from .policy import PlacementPolicy
from .pools import Pools
from .view import NodeView

log = logging.getLogger(__name__)


class Placement:
    """Places requests on nodes.

    Parameters
    ----------
    policy
        Chooses.
    book
        Keeps the leases.
    nodes
        Returns every node as it is now, and is asked at each decision; None: :meth:`tell` and :meth:`forget` say what
        changes, so that a decision need not look at nodes that did not change. What is leased there is added here.
    owners
        What single owners may have; read at each decision.
    """

    def __init__(
        self,
        policy: PlacementPolicy,
        book: LeaseBook,
        nodes: Callable[[], Iterable[NodeView]] | None = None,
        owners: OwnerLimitBook | None = None,
    ) -> None:
        self._policy = policy
        self._book = book
        self._owners = OwnerLimitBook() if owners is None else owners
        self._nodes = nodes
        self._deciding = asyncio.Lock()
        self._index, self._revision = policy.index(), policy.revision
        self._line = Line()
        self._fairness = Fairness(book, policy)
        self._pools = Pools(book, policy)
        book.follow(self._leases_changed)

    def tell(self, view: NodeView, fresh_until: float = float("inf")) -> None:
        """Say that a node is new or changed.

        Parameters
        ----------
        fresh_until
            When its telemetry becomes too old to decide by, in seconds since the epoch.
        """
        seen_until = (view.node.reported_at or 0) - self._policy.settle_time
        promised = self._book.promised(view.node.name, seen_until)
        self._index.put(replace(view, promised=promised), fresh_until)

    def forget(self, name: str) -> None:
        """Say that a node is gone."""
        self._index.remove(name)

    async def place(self, request: PlacementRequest) -> Lease:
        """Return a granted lease, or one that waits; for the same request again, the one that is there.

        A lease that is being stopped does not count: its successor may start elsewhere meanwhile. A node that the
        options name as one to avoid is chosen only when no other one can take the request now.

        Raises
        ------
        ConflictError
            The owner has a server of this name with another request.
        PlacementRefused
            No node could ever take it, or its owner may not ask for it.
        QuotaExceeded
            The owner, or a group of the owner's, has used the GPU-hours of the window.
        """
        async with self._deciding:
            return await self._place(request)

    async def advance(self) -> None:
        """Grant what can be granted now to those who wait; refuse who could never be served any more."""
        async with self._deciding:
            await self._advance()

    async def withdraw(self, lease_id: str, detail: str) -> Lease:
        """End a lease that waits.

        Raises
        ------
        ConflictError
            It does not wait any more.
        """
        async with self._deciding:
            lease = await self._book.change(lease_id, WAITING, state="released", detail=detail, end="withdrawn")
            self._number(self._fairness.order())
            return lease

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Place nothing for as long as the block runs."""
        async with self._deciding:
            yield

    # ---- inside, under the lock ---------------------------------------------------------------------------------

    async def _place(self, request: PlacementRequest) -> Lease:
        for lease in self._book.of_owner(request.owner):
            if lease.server_name == request.server_name and lease.state != "stopping":
                return _same(lease, request)
        self._check_owner(request)
        await self._advance()  # whoever waits goes first, also to what became free a moment ago
        limits, ahead = self._limits(request), self._ahead_of(request)
        decision = self._decide(request, limits, ahead)
        if decision.node is not None:
            try:
                return await self._grant(request, decision)
            except ConflictError as exc:
                log.warning(
                    LogLine(
                        "not granted",
                        node=decision.node,
                        server=f"{request.owner}/{request.server_name}",
                        detail=exc.message,
                    )
                )
                if not await self._book.reload():
                    raise
            return await self._place(request)  # by what is true, of which a second reload would find nothing new
        if not decision.later:
            raise _refused(request, decision)
        lease = await self._book.add(request, decision.why, decision.waiting_for())
        pools = pools_of(decision, ahead.under(limits))
        self._fairness.waits(lease.id, for_quota=not holds_on(decision), pools=pools)
        self._number(self._fairness.order())
        return self._book.get(lease.id)

    async def _grant(self, lease: Lease | PlacementRequest, decision: Decision) -> Lease:
        granted = await self._book.grant(lease, decision.node or "", decision.gpus, decision.why)
        if self._fairness.granted(granted):
            self._line = Line()
            self._number(self._fairness.order())
        return granted

    def _check_owner(self, request: PlacementRequest) -> None:
        """Refuse what no node is to be asked for: the owner may not have it, whoever is free."""
        self._owners.applied(request)
        if request.options.gpus:
            limit = smaller(self._policy.max_gpu_hours(request.groups), self._owners.of(request.owner).gpu_hours)
            self._book.usage.check(request.owner, limit, self._book.now())
            self._pools.check_gpu_hours(request.groups)

    async def _refuse_over_owners(self) -> None:
        """Take those out of the line who have used their hours meanwhile, or whose limits are others now."""
        for lease in self._book.waiting() if self._policy.limits_gpu_hours or self._owners else ():
            try:
                self._check_owner(lease.request)
            except (QuotaExceeded, PlacementRefused) as exc:
                await self._book.release(lease.id, exc.message, end="quota")
                self._fairness.left(lease.id)

    async def _advance(self) -> None:
        await self._refuse_over_owners()
        while await self._pass():  # what was granted changed what the others wait for
            pass

    async def _pass(self) -> bool:
        """Serve the line once, beginning behind those for whom nothing changed; return whether somebody left it."""
        self._sync()
        leases, moved = self._fairness.order(), False
        limits = [self._limits(lease.request) for lease in leases]
        stamp = self._stamp(leases)
        if self._line.stamp != stamp or not self._line.begins(leases, limits):
            self._line = Line(stamp)
        line, done = self._line, len(self._line.waiters)
        self._number(leases[:done])
        for lease, limit in zip(leases[done:], limits[done:], strict=True):
            current = self._limits(lease.request) if moved else limit
            decision = self._decide(lease.request, current, line.holds)
            if decision.node is not None:
                try:
                    await self._grant(lease, decision)
                    if self._line is not line:  # somebody is overdue now: the line is another
                        return True
                    moved = True
                except (ConflictError, NotFoundError) as exc:
                    log.warning(LogLine("not granted", **{**about(lease), "node": decision.node}, detail=exc.message))
                    if await self._book.reload():  # then the line may be another, too
                        self._line = Line()
                        return True
                    line.waiters.append(Waiter(lease.id, lease.request, limit, ()))  # until something changes
            elif not decision.later:
                await self._book.release(lease.id, _refused(lease.request, decision).message, end="withdrawn")
                moved = True
            else:
                self._keep(line, lease, current, decision)
        if moved:
            self._line = Line()
        return moved

    def _keep(self, line: Line, lease: Lease, limits: Limits, decision: Decision) -> None:
        pools = pools_of(decision, line.holds.under(limits))
        waiter = Waiter(lease.id, lease.request, limits, holds_on(decision), pools)
        line.waiters.append(waiter)
        self._fairness.waits(lease.id, for_quota=not waiter.waits_on, pools=pools)
        self._book.note_waiting(lease.id, len(line.waiters), decision.waiting_for(), decision.why)
        self._hold(line.holds, waiter)

    def _hold(self, holds: Holds, waiter: Waiter) -> None:
        entries = self._index.entries
        holds.hold(waiter.request, (entries[name].view for name in waiter.waits_on if name in entries))
        if waiter.pools:
            holds.hold_pools(waiter.request, waiter.limits)

    def _ahead_of(self, request: PlacementRequest) -> Holds:
        """Return what is held for those who are served before a new request."""
        if not self._line.waiters:
            return self._line.holds
        served_before = self._fairness.ahead_of(request)
        ahead = [waiter for waiter in self._line.waiters if waiter.lease in served_before]
        if len(ahead) == len(self._line.waiters):
            return self._line.holds
        holds = Holds()
        for waiter in ahead:
            self._hold(holds, waiter)
        return holds

    def _decide(self, request: PlacementRequest, limits: Limits, holds: Holds) -> Decision:
        self._sync()
        asked, within = self._owners.applied(request), holds.under(limits)
        decision = self._policy.choose(asked, self._index, within, holds)
        if decision.node is None and asked.options.avoid:
            anywhere = replace(asked, options=replace(asked.options, avoid=()))
            return self._policy.choose(anywhere, self._index, within, holds)
        return decision

    def _limits(self, request: PlacementRequest) -> Limits:
        mine = [lease for lease in self._book.of_owner(request.owner) if self._counts(lease)]
        pools = self._pools.of(request.groups)
        own = self._owners.of(request.owner)
        return self._policy.limits(request, sum(len(lease.gpus) for lease in mine), len(mine), pools, own)

    def _counts(self, lease: Lease) -> bool:
        """Whether a lease counts against its owner's limits.

        One that was given up does not while its node cannot be reached: nobody has anything of it, what may be left
        there ends when the node is back, and until then its owner could not go on anywhere else.
        """
        if lease.state != "stopping":
            return lease.state != "waiting"
        entry = self._index.entries.get(lease.node or "")
        return entry is not None and entry.view.node.state == "ready"

    def _stamp(self, leases: list[Lease]) -> Hashable:
        """Return what changes when somebody who waits may be answered otherwise."""
        load = any(lease.request.cpus > 0 or lease.request.memory_bytes > 0 for lease in leases)
        changed = self._policy.revision, self._owners.revision, self._index.version
        return changed, self._index.load_version if load else None

    # ---- inside: the index --------------------------------------------------------------------------------------

    def _sync(self) -> None:
        if self._revision != self._policy.revision:
            known, self._index = self._index.entries, self._policy.index()
            self._revision = self._policy.revision
            for entry in known.values():
                self.tell(entry.view, entry.fresh_until)
        if self._nodes is not None:
            self._compare({view.node.name: view for view in self._nodes()})
        self._index.expire(time.time())

    def _compare(self, views: dict[str, NodeView]) -> None:
        for name in [name for name in self._index.entries if name not in views]:
            self.forget(name)
        for name, view in views.items():
            entry = self._index.entries.get(name)
            if entry is None or not _is_of(entry.view, view):
                self.tell(view)

    def _leases_changed(self, name: str) -> None:
        entry = self._index.entries.get(name)
        if entry is not None:
            self.tell(entry.view, entry.fresh_until)

    def _number(self, line: list[Lease]) -> None:
        for position, lease in enumerate(line, 1):
            if lease.position != position and lease.why is not None:
                self._book.note_waiting(lease.id, position, lease.detail, lease.why)


def _is_of(known: NodeView, view: NodeView) -> bool:
    return known.node is view.node and (known.reconciled, known.fresh) == (view.reconciled, view.fresh)


def _same(lease: Lease, request: PlacementRequest) -> Lease:
    if lease.request == request:
        return lease
    named = f"the server {request.server_name}" if request.server_name else "the default server"
    raise ConflictError(f"{request.owner} has {named} already, with another request: stop it first")


def _refused(request: PlacementRequest, decision: Decision) -> PlacementRefused:
    refusals, wanted = decision.refusals, request.options.node
    if wanted is None or not refusals:
        return PlacementRefused(refusals)
    if wanted not in refusals:
        return PlacementRefused(refusals, f"The farm has no node {wanted}: `agentfarm nodes list` shows those it has.")
    return PlacementRefused({wanted: refusals[wanted]})
