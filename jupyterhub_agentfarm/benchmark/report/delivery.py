"""What was delivered: each case over the nodes of a role, and the completion rates of the nodes with their spread."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..models import CaseResult
from .evidence import FAULTS, NOT_TRIED, Evidence, by_node
from .robust import Spread, jain_index, spread


@dataclass(frozen=True)
class CaseSummary:
    """One case over several nodes."""

    case: str
    succeeded: int
    tried: int
    #: Durations of all successes.
    seconds: Spread | None
    #: The node with the longest median duration.
    slowest_node: str
    slowest_seconds: float | None
    #: Name of the primary figure, when the results agree on one.
    primary: str
    #: Medians of the nodes' primary figures, in the phase that has most of them.
    rate: Spread | None
    #: Sum of what the nodes delivered at once; None for what cannot be added up.
    farm_total: float | None
    #: The phase in which it was, where there are several.
    farm_total_phase: str
    #: Jain's index of the nodes' medians of the primary figure, 1 when all delivered the same; None below two nodes.
    balance: float | None


def adds_up(name: str) -> bool:
    """Whether figures of this name can be added up over nodes: rates can, times and shares cannot."""
    return name.endswith(("_per_second", "_gflops", "_tflops", "_per_minute"))


def summarize_case(case: str, results: Sequence[CaseResult]) -> CaseSummary:
    """Return one case's results over their nodes as one record; those of warm-ups do not count."""
    here = [result for result in results if result.case == case and not result.warm_up]
    good = [result for result in here if result.outcome == "succeeded"]
    names = {result.primary for result in good if result.primary_value is not None}
    primary = str(next(iter(names))) if len(names) == 1 else ""
    compared = fullest(good)
    rates = node_medians(compared) if primary else {}
    times = {
        node: statistics.median(known)
        for node, own in by_node(compared).items()
        if (known := [r.duration_seconds for r in own if r.duration_seconds is not None])
    }
    slowest = max(times, key=lambda node: times[node], default="")
    total, phase = farm_total(good) if adds_up(primary) else (None, "")
    return CaseSummary(
        case=case,
        succeeded=len(good),
        tried=sum(result.outcome not in NOT_TRIED for result in here),
        seconds=spread([result.duration_seconds for result in good if result.duration_seconds is not None]),
        slowest_node=slowest,
        slowest_seconds=times.get(slowest),
        primary=primary,
        rate=spread(list(rates.values())),
        farm_total=total,
        farm_total_phase=phase,
        balance=jain_index(list(rates.values())),
    )


def fullest(results: Sequence[CaseResult]) -> list[CaseResult]:
    """Return the results of the phase that most nodes have some in; the first of several.

    Nodes are compared in one phase: the one with the most of them. In another, a node may have had its GPU shared.
    """
    nodes: dict[str, set[str]] = {}
    for result in results:
        nodes.setdefault(result.phase, set()).add(result.node)
    phase = max(nodes, key=lambda phase: len(nodes[phase]), default="")
    return [result for result in results if result.phase == phase]


def node_medians(results: Sequence[CaseResult]) -> dict[str, float]:
    """Return the median of each node's primary figures."""
    return {
        node: statistics.median(values)
        for node, own in by_node(results).items()
        if (values := [value for result in own if (value := result.primary_value) is not None])
    }


def farm_total(results: Sequence[CaseResult]) -> tuple[float | None, str]:
    """Return the most that nodes delivered at once in a phase, and the phase.

    It is the sum over lanes of all nodes of the medians of their repetitions.
    """
    totals: dict[str, float] = {}
    for phase in dict.fromkeys(result.phase for result in results):
        lanes: dict[tuple[str, int], list[float]] = {}
        for result in results:
            if result.phase == phase and (value := result.primary_value) is not None:
                lanes.setdefault((result.node, result.lane), []).append(value)
        totals[phase] = sum(statistics.median(values) for values in lanes.values())
    best = max(totals, key=lambda phase: totals[phase], default=None)
    return (None, "") if best is None else (totals[best], best)


def summaries(evidence: Evidence, names: Sequence[str] | None = None) -> list[CaseSummary]:
    """Return every case of the suite over the nodes called `names`; None: over all."""
    wanted = set(evidence.names if names is None else names)
    own: dict[str, list[CaseResult]] = {}
    for result in evidence.counted:
        if result.node in wanted:
            own.setdefault(result.case, []).append(result)
    return [summarize_case(case, own.get(case, [])) for case in evidence.run.cases]


@dataclass(frozen=True)
class Completion:
    """What one node completed."""

    node: str
    role: str
    tried: int
    succeeded: int
    #: By outcome, those above 0 only: failed, timed_out, lost, cancelled.
    faults: dict[str, int]
    succeeded_per_minute: float | None

    @property
    def succeeded_ratio(self) -> float | None:
        """Share of the cases tried that succeeded."""
        return self.succeeded / self.tried if self.tried else None


def completions(evidence: Evidence) -> list[Completion]:
    """Return what each node completed over the run."""
    outcomes: Counter[tuple[str, str]] = Counter((result.node, result.outcome) for result in evidence.counted)
    found = []
    for node in evidence.nodes:
        faults = {outcome: outcomes[node.name, outcome] for outcome in FAULTS if outcomes[node.name, outcome]}
        succeeded = outcomes[node.name, "succeeded"]
        tried = len(evidence.endings(node.name)[0])
        rate = evidence.per_minute(succeeded, [node.name])
        found.append(Completion(node.name, node.role, tried, succeeded, faults, rate))
    return found


def completion_spread(found: Sequence[Completion], role: str) -> Spread | None:
    """Return how far the completion rates of a role's nodes, per minute, lie apart."""
    return spread(
        [one.succeeded_per_minute for one in found if one.role == role and one.succeeded_per_minute is not None]
    )
