"""Decision: what was chosen, and, when somebody reads it, why.

The choice needs one node; its explanation needs all of them. So a decision keeps the nodes as they were at its moment
and runs filters and scorers over them when the explanation is read: the explanation is always that of the full
pipeline, however the choice was found.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ..models import Candidate, Explanation, PlacementRequest
from .filters import Limits, Refusal, refusal
from .scores import Weighing
from .view import NodeView, free_gpus

#: Candidates that an explanation keeps; the counts cover all.
MAX_CANDIDATES = 200


@dataclass(frozen=True)
class Sifted:
    """What filters and scorers said of every node."""

    request: PlacementRequest
    weighing: Weighing
    #: Score times -1, name and view of each node that fits: the smallest is the best.
    fit: list[tuple[float, str, NodeView]]
    refused: list[tuple[str, Refusal]]

    @cached_property
    def best(self) -> NodeView | None:
        """The node to choose: equal scores are decided by name, so that the same farm gives the same answer."""
        return min(self.fit, key=lambda item: item[:2])[2] if self.fit else None

    def explanation(self, decided_at: float) -> Explanation:
        """Return the choice, its reasons, and what was said of the others."""
        return Explanation(
            decided_at,
            self.best.node.name if self.best else None,
            self._candidates(),
            len(self.fit) + len(self.refused),
            Counter(found.name for _, found in self.refused),
        )

    def _candidates(self) -> tuple[Candidate, ...]:
        """Return the first ones of both kinds: the best, and those that could take it later before the others."""
        top = heapq.nsmallest(MAX_CANDIDATES, self.fit, key=lambda item: item[:2])
        good = [
            Candidate(name, score=-minus_score, scores=self.weighing.parts(view, self.request))
            for minus_score, name, view in top
        ]
        room = MAX_CANDIDATES - len(good)
        shown = heapq.nsmallest(room, self.refused, key=lambda item: (not item[1].later, item[0])) if room else []
        return (*good, *(Candidate(name, found.name, found.detail, found.later) for name, found in shown))


def sift(request: PlacementRequest, views: Iterable[NodeView], limits: Limits, weighing: Weighing) -> Sifted:
    """Run the full pipeline: every filter and every scorer on every node."""
    fit: list[tuple[float, str, NodeView]] = []
    refused: list[tuple[str, Refusal]] = []
    for view in views:
        found = refusal(view, request, limits)
        if found is not None:
            refused.append((view.node.name, found))
        else:
            fit.append((-weighing.score(view, request), view.node.name, view))
    return Sifted(request, weighing, fit, refused)


@dataclass(frozen=True)
class Decision:
    """What the policy came to for one request at one moment."""

    request: PlacementRequest
    decided_at: float
    #: The node chosen, as it was.
    best: NodeView | None
    #: Runs the full pipeline on the nodes as they were.
    sift: Callable[[], Sifted]

    @property
    def node(self) -> str | None:
        """The name of the node chosen."""
        return self.best.node.name if self.best else None

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs to lease there."""
        options = self.request.options
        if self.best is None or not options.gpus:
            return ()
        return tuple(gpu.uuid for gpu in free_gpus(self.best, options)[: options.gpus])

    @cached_property
    def why(self) -> Explanation:
        """The explanation; takes time in proportion to the number of nodes when it is read first."""
        return self._sifted.explanation(self.decided_at)

    @cached_property
    def later(self) -> tuple[str, ...]:
        """Nodes that could take the request later; empty and nothing chosen: none ever can.

        Those that are only busy come first: that is what will likely end.
        """
        later = [(found.name == "not_eligible", name) for name, found in self._refused if found.later]
        return tuple(name for _, name in sorted(later))

    @cached_property
    def refusals(self) -> Mapping[str, str]:
        """When nothing was chosen: what each node said, for people."""
        return {name: found.detail for name, found in self._refused}

    @cached_property
    def refused_with(self) -> Mapping[str, str]:
        """When nothing was chosen: the name of each node's refusal."""
        return {name: found.name for name, found in self._refused}

    def waiting_for(self) -> str:
        """Say what a waiting request waits for."""
        shown = [f"{name}: {self.refusals[name]}" for name in self.later[:3]]
        more = [f"{len(self.later) - 3} more nodes are busy"] if len(self.later) > 3 else []
        return "; ".join(shown + more)

    @cached_property
    def _sifted(self) -> Sifted:
        return self.sift()

    @property
    def _refused(self) -> list[tuple[str, Refusal]]:
        return self._sifted.refused if self.best is None else []
