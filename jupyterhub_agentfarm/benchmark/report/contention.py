"""What a GPU of one's own is worth: the same work with one case at once on each, and with several."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..models import CaseResult, Phase
from .delivery import adds_up
from .evidence import NOT_TRIED, Evidence, by_node
from .robust import Spread, spread


@dataclass(frozen=True)
class SharingPoint:
    """One case with so many at once on each GPU (or on each server where it has none)."""

    phase: str
    concurrency: int
    tried: int
    succeeded: int
    seconds: Spread | None
    #: Median over the nodes of the time beside that of the same node with the least concurrency; 1 is as fast.
    slowdown: float | None
    #: What each one delivers, in units of what it delivers with the least concurrency.
    each_ratio: float | None
    #: What all on a GPU deliver together, in the same units.
    together_ratio: float | None


@dataclass(frozen=True)
class Contention:
    """How one case fares when GPUs are shared."""

    case: str
    #: Name of the figure that is compared; "" where it is the number of cases per time.
    figure: str
    points: tuple[SharingPoint, ...]


def contentions(evidence: Evidence) -> list[Contention]:
    """Return how each case fares when GPUs are shared; nothing where all phases have the same concurrency.

    Nodes are compared with themselves: the ratios are medians over the nodes that took part in both phases.
    """
    if len({phase.concurrency for phase in evidence.run.phases}) < 2:
        return []
    made = [_contention(evidence, case) for case in evidence.run.cases]
    return [contention for contention in made if len(contention.points) > 1]


def _contention(evidence: Evidence, case: str) -> Contention:
    phases = _phases(evidence)
    own = {phase.name: [r for r in evidence.counted if (r.case, r.phase) == (case, phase.name)] for phase in phases}
    figure = _figure([result for results in own.values() for result in results])
    alone = by_node(_good(own[phases[0].name]))
    points = []
    for phase in phases:
        tried = [result for result in own[phase.name] if result.outcome not in NOT_TRIED]
        good = _good(tried)
        if not tried:
            continue
        slowdown = _ratio(alone, by_node(good), _seconds)
        each = _ratio(alone, by_node(good), _rate) if figure else 1 / slowdown if slowdown else None
        seconds = spread([r.duration_seconds for r in good if r.duration_seconds is not None])
        times = phase.concurrency / phases[0].concurrency
        together = None if each is None else each * times
        point = SharingPoint(phase.name, phase.concurrency, len(tried), len(good), seconds, slowdown, each, together)
        points.append(point)
    return Contention(case, figure, tuple(points))


def _phases(evidence: Evidence) -> list[Phase]:
    """Return the phases by concurrency; of several with the same the one with the most nodes."""
    found: dict[int, Phase] = {}
    for phase in evidence.run.phases:
        known = found.get(phase.concurrency)
        if known is None or len(phase.nodes) > len(known.nodes):
            found[phase.concurrency] = phase
    return [found[concurrency] for concurrency in sorted(found)]


def _good(results: Sequence[CaseResult]) -> list[CaseResult]:
    return [result for result in results if result.outcome == "succeeded"]


def _figure(results: Sequence[CaseResult]) -> str:
    """Return the primary figure when all successes have the same, and it is a rate."""
    names = {result.primary or "" for result in _good(results)}
    name = names.pop() if len(names) == 1 else ""
    return name if adds_up(name) else ""


def _seconds(result: CaseResult) -> float | None:
    return result.duration_seconds


def _rate(result: CaseResult) -> float | None:
    return result.primary_value


def _ratio(alone: dict[str, list[CaseResult]], shared: dict[str, list[CaseResult]], of: object) -> float | None:
    assert callable(of)
    ratios = []
    for node in alone.keys() & shared.keys():
        before = [value for result in alone[node] if (value := of(result)) is not None]
        after = [value for result in shared[node] if (value := of(result)) is not None]
        if before and after and statistics.median(before) > 0:
            ratios.append(statistics.median(after) / statistics.median(before))
    return statistics.median(ratios) if ratios else None
