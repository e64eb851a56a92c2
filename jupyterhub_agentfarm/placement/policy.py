"""PlacementPolicy: filter, score, choose; and say why."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from traitlets import Dict, Enum, Float, Integer, List, TraitError, Unicode, default, observe, validate
from traitlets.config import LoggingConfigurable

from ..models import OwnerLimits, PlacementRequest
from ..traitlets import ByteSize, Seconds
from .decision import MAX_CANDIDATES, Decision, sift
from .filters import Limits
from .index import NodeIndex
from .line import Holds
from .owner_limits import NO_OWNER_LIMITS, smaller
from .scores import ANYTHING, Scorer, Weighing, load_scorers
from .search import Search
from .view import NodeView, OwnerUse, PoolUse

N = TypeVar("N", int, float)

__all__ = ["MAX_CANDIDATES", "Decision", "PlacementPolicy"]


def _by_group(limit: Integer[int, int] | Float[float, float], text: str) -> Dict[str, Any]:
    """Return an option that gives Hub groups, by name, a limit of this kind."""
    return Dict(value_trait=limit, key_trait=Unicode(), help=text).tag(config=True)


class PlacementPolicy(LoggingConfigurable):
    """Chooses the node and the GPUs for a request."""

    weights = Dict(
        per_key_traits=None,
        value_trait=Float(min=0),
        key_trait=Unicode(),
        help="How much each scorer counts, by name; those not named here keep their weight of 1. A larger weight of "
        "`spread` evens out the share of the cores that is spoken for: busy, or promised to servers, idle ones too; "
        "of `cpu` and `load` follows the work they do, of `gpu_headroom` keeps nodes with several free GPUs, of "
        "`memory` follows the memory that is left. 0 turns a scorer off; without `spread` idle notebooks gather where "
        "a little less runs. Scorers of other packages (entry point group agentfarm.scorers) are named here too.",
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
    group_max_gpus = _by_group(
        Integer(min=0),
        "GPUs that a member of a Hub group may hold at a time, by group; the largest of an owner's groups counts. "
        "Each member may hold so many: `group_pool_gpus` limits all of them together.",
    )
    group_pool_gpus = _by_group(
        Integer(min=0),
        "GPUs that all members of a Hub group together may hold at a time, by group; a group that is not named "
        "here has no limit. Who would exceed it waits in line until other members' servers end. Counted by the groups "
        "that the owner was in when the server was asked for; an owner in several groups must fit into each, and the "
        "owner's own limit holds as well. Smaller leaves more to others; larger leaves less of the farm idle.",
    )
    max_servers_per_owner = Integer(
        0,
        min=0,
        help="Servers that one owner may have at a time, on all nodes together; 0: no limit. `group_max_servers` "
        "overrides it.",
    ).tag(config=True)
    group_max_servers = _by_group(
        Integer(min=0),
        "Servers that a member of a Hub group may have at a time, by group; the largest of an owner's groups "
        "counts. Each member may have so many: `group_pool_servers` limits all of them together.",
    )
    group_pool_servers = _by_group(
        Integer(min=0),
        "Servers that all members of a Hub group together may have at a time, by group; a group that is not named "
        "here has no limit. Counts as `group_pool_gpus` does.",
    )
    max_gpu_hours_per_owner = Float(
        0,
        min=0,
        help="GPU-hours that one owner may use within `gpu_hours_window`; 0: no limit. A GPU is used from the grant of "
        "its lease to the release, whatever it computes. Who is at the limit is refused a server with GPUs at once, "
        "and what waits in line is refused too; a server that runs is never stopped for it, so a long one may use "
        "more. `group_max_gpu_hours` overrides it.",
    ).tag(config=True)
    group_max_gpu_hours = _by_group(
        Float(min=0),
        "GPU-hours that each member of a Hub group may use within `gpu_hours_window`, by group; the largest of an "
        "owner's groups counts. 0: none. `group_pool_gpu_hours` limits all of them together.",
    )
    group_pool_gpu_hours = _by_group(
        Float(min=0),
        "GPU-hours that all members of a Hub group together may use within `gpu_hours_window`, by group; a group "
        "that is not named here has no limit. 0: none. Once they are used, every member is refused as by "
        "`max_gpu_hours_per_owner`, so one may use up the hours of all unless `group_max_gpu_hours` is smaller. Which "
        "groups are named is read when the controller starts.",
    )
    gpu_hours_window = Seconds(
        7 * 86400.0,
        help="How far back GPU-hours count (in seconds, or as '7d'); read when the controller starts. Longer evens out "
        "more and takes longer to free hours again; shorter forgets a burst sooner. Where hours "
        "are limited, released leases are kept at least this long, whatever `Farm.history` says.",
    ).tag(config=True)
    fairness = Enum(
        ["owner", "none"],
        "owner",
        help="Who goes first within a priority when the farm is full. 'owner': owners take turns: a request goes by "
        "how many leases its owner holds or has ahead of it in the line, then by arrival, so that nobody's burst "
        "keeps others waiting. 'none': by arrival alone, which suits a farm of one team.",
    ).tag(config=True)
    max_overtaken = Integer(
        20,
        min=0,
        help="How many later requests of other owners, of the same priority, may be granted before an owner's first "
        "request in the line; then it goes before them. Smaller serves owners of much sooner, 0 by arrival; larger "
        "favours owners of little. Counted since the controller's start.",
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

    def limits(
        self,
        request: PlacementRequest,
        gpus_held: int,
        servers_held: int,
        pools: tuple[PoolUse, ...] = (),
        own: OwnerLimits = NO_OWNER_LIMITS,
    ) -> Limits:
        """Return what the filters hold the request to.

        Parameters
        ----------
        gpus_held, servers_held
            What the owner has already, this request not counted.
        pools
            What the members of the owner's groups hold and may hold together.
        own
            What the owner may have whatever the policy says: the smaller counts.
        """
        use = OwnerUse(
            gpus_held,
            smaller(self.max_gpus(request.groups), own.gpus),
            servers_held,
            smaller(self.max_servers(request.groups), own.servers),
        )
        return Limits(use, self.min_disk_free, tuple(self.disk_mountpoints), pools)

    def max_gpu_hours(self, groups: Iterable[str]) -> float | None:
        """Return the GPU-hours that an owner in these groups may use within the window; None: without limit."""
        return _largest(self.group_max_gpu_hours, groups, self.max_gpu_hours_per_owner)

    def max_gpus(self, groups: Iterable[str]) -> int | None:
        """Return the GPUs that an owner in these groups may hold at a time; None: without limit."""
        return _largest(self.group_max_gpus, groups, self.max_gpus_per_owner)

    def max_servers(self, groups: Iterable[str]) -> int | None:
        """Return the servers that an owner in these groups may have at a time; None: without limit."""
        return _largest(self.group_max_servers, groups, self.max_servers_per_owner)

    @property
    def limits_gpu_hours(self) -> bool:
        """Whether anybody's GPU-hours are limited."""
        return bool(self.max_gpu_hours_per_owner or self.group_max_gpu_hours or self.group_pool_gpu_hours)

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
        if holds:  # which go on changing, too
            views = [holds.over(view) for view in index.views()]
            return Decision(request, time.time(), best, lambda: sift(request, views, limits, index.weighing))
        nodes = index.snapshot()
        return Decision(request, time.time(), best, lambda: sift(request, nodes.views(), limits, index.weighing))

    def index(self) -> NodeIndex:
        """Return an empty index for this configuration."""
        return NodeIndex(self.weighing(), self.limits(ANYTHING, 0, 0))

    def weighing(self) -> Weighing:
        """Return the scorers that count."""
        return Weighing.of(self.scorers, self.weights)


def _largest(by_group: Mapping[str, N], groups: Iterable[str], otherwise: N) -> N | None:
    """Return the largest limit of these groups; of an owner in none of them `otherwise`, which 0 turns off."""
    found = [by_group[group] for group in groups if group in by_group]
    return max(found) if found else otherwise or None
