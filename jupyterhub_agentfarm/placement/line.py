"""The waiting line: who is next, and what is kept for those ahead.

The order is priority, then time of arrival. A request may overtake another only with what the other has no use for:
everything that a request waits for, on every node that could serve it later, is held for it while those behind it are
decided. What is held is what was asked for: the GPUs that match (not others of the node), and the cores or the memory
of the node when a guarantee was asked for. So nobody starves, and a server without a GPU does not wait behind those who
wait for one. A request that waits for its owner's quota holds nothing: no node is what it waits for.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..models import Lease, PlacementRequest
from .policy import Decision
from .view import NOTHING_HELD, Held, NodeView, matching_gpus


def order(waiting: Iterable[Lease]) -> list[Lease]:
    """Return the leases in the order in which they are served."""
    return sorted(waiting, key=_rank)


def ahead_of(waiting: Iterable[Lease], priority: int) -> list[Lease]:
    """Return, in order, the leases that are served before a new request of this priority."""
    return [lease for lease in order(waiting) if lease.request.options.priority >= priority]


def _rank(lease: Lease) -> tuple[int, float, str]:
    return -lease.request.options.priority, lease.created_at, lease.id


class Holds:
    """What is held on each node for the requests decided so far."""

    def __init__(self) -> None:
        self._by_node: dict[str, Held] = {}

    def on(self, node: str) -> Held:
        """Return what is held on a node."""
        return self._by_node.get(node, NOTHING_HELD)

    def hold(self, request: PlacementRequest, decision: Decision, views: dict[str, NodeView]) -> None:
        """Hold, for a request that has to wait, what it waits for."""
        for name in decision.later:
            if decision.refused_with.get(name) == "quota":
                continue
            held = self.on(name)
            wanted = matching_gpus(views[name], request.options) if request.options.gpus else ()
            self._by_node[name] = Held(
                held.gpus | {gpu.uuid for gpu in wanted},
                held.cpu or request.cpus > 0,
                held.memory or request.memory_bytes > 0,
            )
