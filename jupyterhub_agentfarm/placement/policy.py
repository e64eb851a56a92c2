"""PlacementPolicy: filter, score, choose; and say why."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from traitlets import Dict, Float, Integer, List, TraitError, Unicode, default, observe, validate
from traitlets.config import LoggingConfigurable

from ..models import PlacementRequest
from ..traitlets import ByteSize, Seconds
from .decision import MAX_CANDIDATES, Decision, sift
from .filters import Limits
from .index import NodeIndex
from .line import Holds
from .scores import ANYTHING, Scorer, Weighing, load_scorers
from .search import Search
from .view import NodeView, OwnerUse

__all__ = ["MAX_CANDIDATES", "Decision", "PlacementPolicy"]


class PlacementPolicy(LoggingConfigurable):
    """Chooses the node and the GPUs for a request."""

    weights = Dict(
        per_key_traits=None,
        value_trait=Float(min=0),
        key_trait=Unicode(),
        help="How much each scorer counts, by name; those not named here keep their weight of 1. A larger weight of "
        "`spread` evens out the number of servers, of `cpu` and `load` follows the work they do, of `gpu_headroom` "
        "keeps nodes with several free GPUs, of `memory` follows the memory that is left. 0 turns a scorer off. "
        "Scorers of other packages (entry point group agentfarm.scorers) are named here too.",
    ).tag(config=True)
    min_disk_free = ByteSize(
        2**30,
        help="Disk that must be available on a node before a server is placed there (in bytes, or as '1G'). Larger "
        "keeps room for notebooks' data; smaller uses nodes longer; 0 never refuses for disk.",
    ).tag(config=True)
    disk_mountpoints = List(
        Unicode(), ["/", "/home"], help="Filesystems that `min_disk_free` is asked of, on nodes that have them."
    ).tag(config=True)
    settle_time = Seconds(
        10,
        help="How long after its grant a server is counted by what it asked for, not by what telemetry shows (in "
        "seconds). Longer spreads bursts of requests more evenly; shorter follows the real load sooner.",
    ).tag(config=True)
    max_gpus_per_owner = Integer(
        0, min=0, help="GPUs that one owner may hold at a time; 0: no limit. `group_max_gpus` overrides it."
    ).tag(config=True)
    group_max_gpus = Dict(
        value_trait=Integer(min=0),
        key_trait=Unicode(),
        help="GPUs that a member of a Hub group may hold at a time, by group; the largest of an owner's groups counts.",
    ).tag(config=True)
    max_servers_per_owner = Integer(
        0, min=0, help="Servers that one owner may have at a time, on all nodes together; 0: no limit."
    ).tag(config=True)

    scorers = Dict(help="The scorers by name; from the package and from entry points.")

    @default("scorers")
    def _scorers_default(self) -> dict[str, Scorer]:
        return load_scorers()

    @validate("weights")
    def _valid_weights(self, proposal: Any) -> dict[str, float]:
        weights: dict[str, float] = proposal["value"]
        unknown = sorted(set(weights) - set(self.scorers))
        if unknown:
            known = ", ".join(sorted(self.scorers))
            raise TraitError(f"PlacementPolicy.weights must name scorers ({known}), not {', '.join(unknown)}")
        if all(weights.get(name, 1.0) == 0 for name in self.scorers):
            raise TraitError("PlacementPolicy.weights must leave one scorer with a weight above 0, not turn all off")
        return weights

    #: Grows when an index made before is no longer valid.
    revision = 0

    @observe("weights", "scorers", "min_disk_free", "disk_mountpoints", "settle_time")
    def _revised(self, _change: Any) -> None:
        self.revision += 1

    def limits(self, request: PlacementRequest, gpus_held: int, servers_held: int) -> Limits:
        """Return what the filters hold the request to.

        Parameters
        ----------
        gpus_held, servers_held
            What the owner has already, this request not counted.
        """
        by_group = [self.group_max_gpus[group] for group in request.groups if group in self.group_max_gpus]
        use = OwnerUse(
            gpus_held,
            max(by_group) if by_group else self.max_gpus_per_owner or None,
            servers_held,
            self.max_servers_per_owner or None,
        )
        return Limits(use, self.min_disk_free, tuple(self.disk_mountpoints))

    def decide(self, request: PlacementRequest, views: Iterable[NodeView], limits: Limits) -> Decision:
        """Return the best node now, by asking every filter and scorer about every node."""
        sifted = sift(request, views, limits, self.weighing())
        return Decision(request, time.time(), sifted.best, lambda: sifted)

    def choose(self, request: PlacementRequest, index: NodeIndex, limits: Limits, holds: Holds) -> Decision:
        """Return what :meth:`decide` would for the nodes of an index, looking only at those that can be the best.

        Scorers of other packages may look at anything, so with one of them every node is asked.
        """
        if not index.weighing.indexable:
            return self.decide(request, map(holds.over, index.views()), limits)
        best = Search(index, request, limits, holds).best()
        views = [holds.over(view) for view in index.views()] if holds else list(index.views())
        return Decision(request, time.time(), best, lambda: sift(request, views, limits, index.weighing))

    def index(self) -> NodeIndex:
        """Return an empty index for this configuration."""
        return NodeIndex(self.weighing(), self.limits(ANYTHING, 0, 0))

    def weighing(self) -> Weighing:
        """Return the scorers that count."""
        return Weighing.of(self.scorers, self.weights)
