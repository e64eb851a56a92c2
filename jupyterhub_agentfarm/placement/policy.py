"""PlacementPolicy: filter, score, choose; and say why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from traitlets import Dict, Float, Integer, List, TraitError, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from ..models import Candidate, Explanation, PlacementRequest
from ..traitlets import ByteSize, Seconds
from .filters import Limits, Refusal, refusal
from .scores import Scorer, load_scorers
from .view import NodeView, OwnerUse, free_gpus

#: Candidates that an explanation keeps; the counts cover all.
MAX_CANDIDATES = 200


@dataclass(frozen=True)
class Decision:
    """What the policy came to for one request at one moment."""

    why: Explanation
    #: The GPUs to lease on `why.chosen`.
    gpus: tuple[str, ...] = ()
    #: Nodes that could take the request later; empty and nothing chosen: none ever can.
    later: tuple[str, ...] = ()
    #: When nothing was chosen: what each node said, for people and by name.
    refusals: Mapping[str, str] = field(default_factory=dict)
    refused_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def node(self) -> str | None:
        """The node chosen."""
        return self.why.chosen

    def waiting_for(self) -> str:
        """Say what a waiting request waits for."""
        shown = [f"{name} {self.refusals[name]}" for name in self.later[:3]]
        more = [f"{len(self.later) - 3} more nodes are busy"] if len(self.later) > 3 else []
        return "; ".join(shown + more)


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
        """Return the best node now, and what every other was refused with or scored.

        Equal scores are decided by name, so that the same farm gives the same answer.
        """
        fit: list[tuple[float, str, dict[str, float], NodeView]] = []
        refused: list[tuple[str, Refusal]] = []
        weights = self._weights()
        total = sum(weight for _, _, weight in weights)
        for view in views:
            found = refusal(view, request, limits)
            if found is not None:
                refused.append((view.node.name, found))
                continue
            scores = {name: scorer(view, request) for name, scorer, _ in weights}
            score = sum(scores[name] * weight for name, _, weight in weights) / total
            fit.append((score, view.node.name, scores, view))
        fit.sort(key=lambda item: (-item[0], item[1]))
        return self._decision(request, fit, refused)

    def _decision(
        self,
        request: PlacementRequest,
        fit: list[tuple[float, str, dict[str, float], NodeView]],
        refused: list[tuple[str, Refusal]],
    ) -> Decision:
        best = fit[0] if fit else None
        picked = free_gpus(best[3], request.options)[: request.options.gpus] if best and request.options.gpus else []
        why = Explanation(
            time.time(),
            best[1] if best else None,
            _candidates(fit, refused),
            len(fit) + len(refused),
            Counter(found.name for _, found in refused),
        )
        return Decision(
            why,
            tuple(gpu.uuid for gpu in picked),
            _later(refused) if best is None else (),
            {name: found.detail for name, found in refused} if best is None else {},
            {name: found.name for name, found in refused} if best is None else {},
        )

    def _weights(self) -> list[tuple[str, Scorer, float]]:
        each = [(name, scorer, float(self.weights.get(name, 1.0))) for name, scorer in self.scorers.items()]
        return [item for item in each if item[2] > 0]


def _later(refused: list[tuple[str, Refusal]]) -> tuple[str, ...]:
    """Return the nodes that could take it later: those that are only busy first, that is what will likely end."""
    later = [(found.name == "not_eligible", name) for name, found in refused if found.later]
    return tuple(name for _, name in sorted(later))


def _candidates(
    fit: list[tuple[float, str, dict[str, float], NodeView]], refused: list[tuple[str, Refusal]]
) -> tuple[Candidate, ...]:
    """Return the first ones of both kinds: the best, and those that could take it later before those that never can."""
    good = [Candidate(name, score=score, scores=scores) for score, name, scores, _ in fit[:MAX_CANDIDATES]]
    room = MAX_CANDIDATES - len(good)
    ordered = sorted(refused, key=lambda item: (not item[1].later, item[0])) if room else []
    bad = [Candidate(name, found.name, found.detail, found.later) for name, found in ordered[:room]]
    return (*good, *bad)
