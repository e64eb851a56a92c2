"""The waiting line: who is next, and what is kept for those ahead.

The order is priority, then time of arrival. A request may overtake another only with what the other has no use for:
everything that a request waits for, on every node that could serve it later, is held for it while those behind it are
decided. What is held is what was asked for: the GPUs that match (not others of the node), and the cores or the memory
of the node when a guarantee was asked for. So nobody starves, and a server without a GPU does not wait behind those who
wait for one. A request that waits for its owner's quota holds nothing: no node is what it waits for.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

from ..models import Lease, PlacementRequest
from .decision import Decision
from .filters import Limits
from .view import NOTHING_HELD, Held, NodeView, matching_gpus


def order(waiting: Iterable[Lease]) -> list[Lease]:
    """Return the leases in the order in which they are served."""
    return sorted(waiting, key=_rank)


def _rank(lease: Lease) -> tuple[int, float, str]:
    return -lease.request.options.priority, lease.created_at, lease.id


class Holds:
    """What is held on each node for the requests decided so far."""

    def __init__(self) -> None:
        self._by_node: dict[str, Held] = {}

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._by_node)

    def over(self, view: NodeView) -> NodeView:
        """Return the node with what is held on it."""
        held = self._by_node.get(view.node.name)
        return view if held is None else replace(view, held=held)

    def hold(self, request: PlacementRequest, views: Iterable[NodeView]) -> None:
        """Hold, for a request that has to wait, what it waits for on these nodes."""
        for view in views:
            name = view.node.name
            held = self._by_node.get(name, NOTHING_HELD)
            wanted = matching_gpus(view, request.options) if request.options.gpus else ()
            self._by_node[name] = Held(
                held.gpus | {gpu.uuid for gpu in wanted},
                held.cpu or request.cpus > 0,
                held.memory or request.memory_bytes > 0,
            )


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
