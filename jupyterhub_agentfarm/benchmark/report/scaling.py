"""How throughput grows with the number of nodes: strongly, where they share the work, and weakly, where each has all.

Strong scaling is timed from outside: a repetition lasts from the first start on any node to the last end on any, so
waiting for the slowest node is part of it; its throughput is one unit of work over that time. Weak scaling takes the
rates that the notebooks measured, where these can be added up: a notebook that works for a fixed time takes as long on
one node as on ten. Where they cannot, the cases of a repetition over its time stand for them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..models import CaseResult, Phase
from .delivery import adds_up
from .evidence import Evidence, PhaseTime, interval_of
from .laws import ScalingLaw, fit_law


@dataclass(frozen=True)
class ScalingPoint:
    """What so many nodes delivered."""

    phase: str
    nodes: int
    repetitions: int
    #: Median time of a repetition, from the first start to the last end.
    seconds: float
    #: Units of work per second, or the sum of the nodes' rates.
    throughput: float
    #: Throughput over that of the smallest number of nodes.
    speedup: float
    #: Speed-up over the growth of the number of nodes.
    efficiency_ratio: float


@dataclass(frozen=True)
class Scaling:
    """How one case scales."""

    case: str
    #: "strong": the nodes share the work; "weak": each has all of it.
    kind: str
    #: The rate that throughput is the sum of; "" where it is counted in units of work per second.
    figure: str
    points: tuple[ScalingPoint, ...]
    law: ScalingLaw | None
    #: Why there is no fit, or what speaks against it; "" is nothing.
    caveat: str


def scalings(evidence: Evidence) -> list[Scaling]:
    """Return how each case scales; nothing for a run whose phases have all the same number of nodes."""
    phases = _ramp(evidence)
    if len({len(time.phase.nodes) for time in phases}) < 2:
        return []
    strong = evidence.run.definition.get("work") == "shared"
    made = [_scaling(evidence, case, phases, strong) for case in evidence.run.cases]
    return [scaling for scaling in made if len(scaling.points) > 1]


def _ramp(evidence: Evidence) -> list[PhaseTime]:
    """Return the phases that differ in their nodes alone: those with the least concurrency."""
    least = min((time.phase.concurrency for time in evidence.phases), default=1)
    return [time for time in evidence.phases if time.phase.concurrency == least]


def _scaling(evidence: Evidence, case: str, phases: Sequence[PhaseTime], strong: bool) -> Scaling:
    results = {
        time.phase: [r for r in evidence.counted if (r.case, r.phase) == (case, time.phase.name)] for time in phases
    }
    names = {result.primary or "" for own in results.values() for result in own if result.outcome == "succeeded"}
    figure = next(iter(names)) if len(names) == 1 and not strong and adds_up(next(iter(names))) else ""
    found = [
        (phase, repetitions) for phase, own in results.items() if (repetitions := _repetitions(own, set(phase.nodes)))
    ]
    points = [_point(phase, repetitions, figure, strong) for phase, repetitions in found]
    points.sort(key=lambda point: point.nodes)
    points = [_against(points[0], point) for point in points]
    law = fit_law([(point.nodes, point.throughput) for point in points])
    kind = "strong" if strong else "weak"
    return Scaling(case, kind, figure, tuple(points), law, _caveat(evidence, points, law))


def _repetitions(results: Sequence[CaseResult], nodes: set[str]) -> list[list[CaseResult]]:
    """Return the repetitions that succeeded on all nodes: of the others there is no throughput of so many nodes."""
    by_number: dict[int, list[CaseResult]] = {}
    for result in results:
        by_number.setdefault(result.repetition, []).append(result)
    return [
        own
        for own in by_number.values()
        if {result.node for result in own} == nodes and all(r.outcome == "succeeded" for r in own) and _span(own) > 0
    ]


def _span(results: Sequence[CaseResult]) -> float:
    """Return the seconds from the first start to the last end, 0 when it is not known."""
    times = [time for result in results if (time := interval_of(result)) is not None]
    return max(end for _, end in times) - min(start for start, _ in times) if len(times) == len(results) else 0.0


def _point(phase: Phase, repetitions: Sequence[Sequence[CaseResult]], figure: str, strong: bool) -> ScalingPoint:
    seconds = statistics.median(_span(own) for own in repetitions)
    if figure:
        throughput = statistics.median(sum(result.primary_value or 0.0 for result in own) for own in repetitions)
    else:
        throughput = statistics.median((1 if strong else len(own)) / _span(own) for own in repetitions)
    return ScalingPoint(phase.name, len(phase.nodes), len(repetitions), seconds, throughput, 1.0, 1.0)


def _against(first: ScalingPoint, point: ScalingPoint) -> ScalingPoint:
    """Return a point with what it is beside the smallest number of nodes."""
    speedup = point.throughput / first.throughput if first.throughput > 0 else 0.0
    return replace(point, speedup=speedup, efficiency_ratio=speedup * first.nodes / point.nodes)


def _caveat(evidence: Evidence, points: Sequence[ScalingPoint], law: ScalingLaw | None) -> str:
    different = len({point.nodes for point in points})
    if law is None:
        return f"{different} different numbers of nodes are too few to fit a law: three give Amdahl's, four the USL."
    said = []
    if law.name == "amdahl":
        said.append("With three different numbers of nodes only Amdahl's law can be fitted; four would give the USL.")
    if law.worst_error_ratio > 0.1:
        said.append("The law misses a point by more than a tenth: do not extrapolate with it.")
    if evidence.machines:
        said.append("Nodes that are one machine share its processors: this says nothing of separate machines.")
    return " ".join(said)
