"""The waiting line: who is next, and what is kept for those ahead.

Who is next
    Higher priority first. Within a priority owners take turns (`PlacementPolicy.fairness = "owner"`): a request goes by
    its *turn*, the number of leases that its owner holds plus those of the owner's own requests that go before it;
    equal turns go by arrival. So the owner of nothing goes before the second request of anybody's burst, whoever came
    first, and an owner's own requests stay in the order of their arrival. A grant changes nobody's turn: what was ahead
    is held now. A server that is being stopped counts no more.
Nobody starves
    When an owner's first request was overtaken by `PlacementPolicy.max_overtaken` later requests of other owners (of
    its priority, and that ask for GPUs, cores or memory as it does), it is *overdue*: it goes before all of its
    priority that are not, and overdue requests go by arrival. Only the owner's first can be: a burst does not become
    overdue as a whole. Higher priorities go first all the same.
What is held
    A request may be served before those ahead of it in the line only with what they have no use for: everything that a
    request waits for, on every node that could serve it later, is held for it while those behind it are decided. What
    is held is what was asked for: the GPUs that match (not others of the node), and the cores or the memory of the node
    when a guarantee was asked for. So a large request gets its GPUs together, at the price that some stand idle for it
    meanwhile, and a server without a GPU does not wait behind those who wait for one. A request that waits for its
    owner's quota holds nothing: no node is what it waits for. One that waits for a pool, of which all members of a
    group hold together, holds as many GPUs or servers of the pool as it asks for against members behind it, and none of
    any node; it is overtaken by the group's members only. Nothing is held on a node that was drained for another owner.

With `fairness = "none"` the order within a priority is that of arrival.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..models import Lease, PlacementRequest
from .decision import Decision
from .filters import Limits, over_owner
from .view import NOTHING_HELD, Held, NodeView, matching_gpus

#: Minus the priority, 0 when overdue, turn, arrival, id: the smallest is next.
Rank = tuple[int, int, int, float, str]


def arrival(lease: Lease) -> Rank:
    """Return the rank of a lease by priority and arrival alone."""
    return -lease.request.options.priority, 1, 0, lease.created_at, lease.id


def ranks(waiting: Collection[Lease], held: Mapping[str, int], overdue: Collection[str] = ()) -> dict[str, Rank]:
    """Return the rank of each lease that waits, by its id.

    Parameters
    ----------
    waiting
        All that wait.
    held
        For each owner, how many leases are held.
    overdue
        Ids of those that were overtaken often enough; only an owner's first of a priority goes before the others.
    """
    owners: dict[str, list[Lease]] = defaultdict(list)
    for lease in waiting:
        owners[lease.owner].append(lease)
    found: dict[str, Rank] = {}
    for owner, leases in owners.items():
        seen: set[int] = set()
        for turn, lease in enumerate(sorted(leases, key=arrival), held.get(owner, 0)):
            priority = lease.request.options.priority
            late = lease.id in overdue and priority not in seen
            found[lease.id] = (-priority, 0 if late else 1, 0 if late else turn, lease.created_at, lease.id)
            seen.add(priority)
    return found


class Holds:
    """What is held on each node for the requests decided so far."""

    def __init__(self) -> None:
        self._by_node: dict[str, Held] = {}
        self._gpus_of: Counter[str] = Counter()
        self._servers_of: Counter[str] = Counter()

    def __bool__(self) -> bool:
        """Whether anything is held on a node."""
        return bool(self._by_node)

    def over(self, view: NodeView) -> NodeView:
        """Return the node with what is held on it."""
        held = self._by_node.get(view.node.name)
        return view if held is None else replace(view, held=held)

    def hold(self, request: PlacementRequest, views: Iterable[NodeView]) -> None:
        """Hold, for a request that has to wait, what it waits for on these nodes."""
        for view in views:
            name, drain = view.node.name, view.node.drain
            if drain is not None and drain.kept_for not in ("", request.owner):
                continue
            held = self._by_node.get(name, NOTHING_HELD)
            wanted = matching_gpus(view, request.options) if request.options.gpus else ()
            self._by_node[name] = Held(
                held.gpus | {gpu.uuid for gpu in wanted},
                held.cpu or request.cpus > 0,
                held.memory or request.memory_bytes > 0,
            )

    def under(self, limits: Limits) -> Limits:
        """Return the limits with what is held of the pools."""
        if not limits.pools or not (self._gpus_of or self._servers_of):
            return limits
        pools = tuple(
            replace(pool, kept_gpus=self._gpus_of[pool.group], kept_servers=self._servers_of[pool.group])
            for pool in limits.pools
        )
        return replace(limits, pools=pools)

    def hold_pools(self, request: PlacementRequest, limits: Limits) -> None:
        """Hold, for a request that waits for pools, what it waits for there."""
        gpus = request.options.gpus
        for pool in self.under(limits).pools:
            self._gpus_of[pool.group] += gpus if pool.lacks_gpus(gpus) else 0
            self._servers_of[pool.group] += pool.lacks_server


def pools_of(decision: Decision, limits: Limits) -> frozenset[str]:
    """Return the groups whose pools a waiting request waits for: none when it is its owner's quota, or nodes."""
    request = decision.request
    if not limits.pools or "quota" not in decision.refused_with.values() or over_owner(request, limits.owner):
        return frozenset()
    lacking = (pool for pool in limits.pools if pool.lacks_gpus(request.options.gpus) or pool.lacks_server)
    return frozenset(pool.group for pool in lacking)


def holds_on(decision: Decision) -> tuple[str, ...]:
    """Return the nodes that a waiting request waits for: none when it is its owner's quota."""
    return tuple(name for name in decision.later if decision.refused_with.get(name) != "quota")


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request that had to wait, as the last pass found it."""

    lease: str
    request: PlacementRequest
    limits: Limits
    waits_on: tuple[str, ...]
    #: Groups whose pools it waits for.
    pools: frozenset[str] = frozenset()


@dataclass(slots=True)
class Line:
    """What the last pass over the line found; true until `stamp` changes."""

    stamp: Hashable = None
    waiters: list[Waiter] = field(default_factory=list)
    holds: Holds = field(default_factory=Holds)

    def begins(self, leases: list[Lease], limits: list[Limits]) -> bool:
        """Whether these leases are those of the last pass, with no more than new ones behind them."""
        known = [(waiter.lease, waiter.limits) for waiter in self.waiters]
        return known == [(lease.id, limit) for lease, limit in zip(leases, limits, strict=True)][: len(known)]
