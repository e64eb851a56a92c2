"""Placement: decide and reserve, as one step.

One lock is held from the look at the nodes to the commit of the lease. So two requests at the same moment are decided
one after the other, and the second one sees what the first one got.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from ..errors import ConflictError, PlacementRefused
from ..models import Lease, PlacementRequest
from .leases import WAITING, LeaseBook
from .line import Holds, ahead_of, order
from .policy import Decision, PlacementPolicy
from .view import NodeView


class Placement:
    """Places requests on nodes.

    Parameters
    ----------
    policy
        Chooses.
    book
        Keeps the leases.
    nodes
        Returns every node as it is now; what is leased there is added here.
    """

    def __init__(self, policy: PlacementPolicy, book: LeaseBook, nodes: Callable[[], Iterable[NodeView]]) -> None:
        self._policy = policy
        self._book = book
        self._nodes = nodes
        self._deciding = asyncio.Lock()

    async def place(self, request: PlacementRequest) -> Lease:
        """Return a granted lease, or one that waits; for the same request again, the one that is there.

        A lease that is being stopped does not count: its successor may start elsewhere meanwhile.

        Raises
        ------
        ConflictError
            The owner has a server of this name with another request.
        PlacementRefused
            No node could ever take it.
        """
        async with self._deciding:
            for lease in self._book.of_owner(request.owner):
                if lease.server_name == request.server_name and lease.state != "stopping":
                    return _same(lease, request)
            await self._advance()  # whoever waits goes first, also to what became free a moment ago
            holds = self._holds_of(ahead_of(self._book.waiting(), request.options.priority))
            decision, _ = self._decide(request, holds)
            if decision.node is not None:
                return await self._book.grant(request, decision.node, decision.gpus, decision.why)
            if not decision.later:
                raise _refused(request, decision)
            lease = await self._book.add(request, decision.why, decision.waiting_for())
            self._number()
            return self._book.get(lease.id)

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
            lease = await self._book.change(lease_id, WAITING, state="released", detail=detail)
            self._number()
            return lease

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Place nothing for as long as the block runs."""
        async with self._deciding:
            yield

    # ---- inside, under the lock ---------------------------------------------------------------------------------

    async def _advance(self) -> None:
        holds, position = Holds(), 0
        for lease in order(self._book.waiting()):
            decision, views = self._decide(lease.request, holds)
            if decision.node is not None:
                await self._book.grant(lease, decision.node, decision.gpus, decision.why)
            elif not decision.later:
                await self._book.release(lease.id, _refused(lease.request, decision).message)
            else:
                position += 1
                self._book.note_waiting(lease.id, position, decision.waiting_for(), decision.why)
                holds.hold(lease.request, decision, views)

    def _holds_of(self, ahead: list[Lease]) -> Holds:
        holds = Holds()
        for lease in ahead:
            decision, views = self._decide(lease.request, holds)
            holds.hold(lease.request, decision, views)
        return holds

    def _decide(self, request: PlacementRequest, holds: Holds) -> tuple[Decision, dict[str, NodeView]]:
        views = {view.node.name: view for view in self._views(holds)}
        mine = [lease for lease in self._book.of_owner(request.owner) if lease.state != "waiting"]
        limits = self._policy.limits(request, sum(len(lease.gpus) for lease in mine), len(mine))
        return self._policy.decide(request, views.values(), limits), views

    def _views(self, holds: Holds) -> Iterable[NodeView]:
        for view in self._nodes():
            name = view.node.name
            seen_until = (view.node.reported_at or 0) - self._policy.settle_time
            yield dataclasses.replace(view, promised=self._book.promised(name, seen_until), held=holds.on(name))

    def _number(self) -> None:
        for position, lease in enumerate(order(self._book.waiting()), 1):
            if lease.position != position and lease.why is not None:
                self._book.note_waiting(lease.id, position, lease.detail, lease.why)


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
