"""Search: the node that the full pipeline would choose, without asking every node.

A group's best score for a request is its best node's own part plus what the request adds, unless filters refuse that
node. So groups are visited from the highest such bound downwards, nodes within a group likewise, and the search ends
where no bound reaches what was found. Every node that is a candidate passes through the same filters as ever; what is
held for earlier requests only lowers a score, so the bounds hold with it too.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop

from ..models import PlacementRequest
from .filters import Limits, quota, refusal
from .index import Group, NodeIndex, gpus_wanted
from .line import Holds
from .view import NodeView

#: Score times -1 and name: the smallest is the best.
Rank = tuple[float, str]


class Search:
    """One search for the best node.

    Parameters
    ----------
    index
        The nodes; its weighing must be of scorers that all are the package's.
    request, limits, holds
        What is asked for, what it is held to, and what is kept for others.
    """

    def __init__(self, index: NodeIndex, request: PlacementRequest, limits: Limits, holds: Holds) -> None:
        self._index = index
        self._request = request
        self._limits = limits
        self._holds = holds
        self._found: tuple[Rank, NodeView] | None = None

    def best(self) -> NodeView | None:
        """Return the best node with what is held there, or None when no node fits."""
        request, index = self._request, self._index
        if request.options.node is not None:
            entry = index.entries.get(request.options.node)
            if entry is not None:
                self._consider(entry.view)
        elif index.entries and not self._over_quota():
            self._visit_groups()
        return self._found[1] if self._found else None

    def _over_quota(self) -> bool:
        example = next(iter(self._index.entries.values())).view
        return quota(example, self._request, self._limits) is not None

    def _visit_groups(self) -> None:
        bounds = self._bounds()
        heapify(bounds)  # mostly the first is the last that is visited
        while bounds:
            bound, _, asked, group = heappop(bounds)
            if self._found is not None and bound > self._found[0][0]:
                return
            self._visit(group, asked)

    def _bounds(self) -> list[tuple[float, int, float, Group]]:
        """Return the groups that may take the request, and the best that any of their nodes can be."""
        request, weighing, wanted = self._request, self._index.weighing, gpus_wanted(self._request)
        places: dict[Hashable, bool] = {}
        bounds = []
        for number, ((place, _), group) in enumerate(self._index.groups.items()):
            if place not in places:
                places[place] = group.open_to(request)
            asked = group.asked(request, wanted, weighing) if places[place] else None
            if asked is not None:
                bounds.append((-weighing.whole(-group.ranked[0][0], asked), number, asked, group))
        return bounds

    def _visit(self, group: Group, asked: float) -> None:
        whole, cpus, memory_bytes = self._index.weighing.whole, self._request.cpus, self._request.memory_bytes
        for minus_own, name, entry in group.ranked:
            if self._found is not None:
                bound = -whole(-minus_own, asked)
                if bound > self._found[0][0]:
                    return
                if (bound, name) >= self._found[0]:
                    continue
            if cpus <= entry.view.free_cpus and memory_bytes <= entry.view.free_memory_bytes:
                self._consider(entry.view)

    def _consider(self, view: NodeView) -> None:
        view = self._holds.over(view)
        if refusal(view, self._request, self._limits) is None:
            rank = (-self._index.weighing.score(view, self._request), view.node.name)
            if self._found is None or rank < self._found[0]:
                self._found = rank, view
