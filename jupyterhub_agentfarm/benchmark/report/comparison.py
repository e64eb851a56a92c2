"""A run against an earlier one: medians, spread, whether chance explains the difference, and what became worse.

Each case is compared by its rate where both runs have the same one, else by its duration, and each node in each phase
with itself (:mod:`.significance`). The p-values of the cases are adjusted for there being several (Holm). A regression
is a change for the worse of 2 % or more with an adjusted p below 0.05, or a case that failed where it had succeeded.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..models import CaseResult
from .delivery import adds_up
from .evidence import Evidence
from .robust import Spread, spread
from .significance import holm, least_p_value, stratified_rank_test

SIGNIFICANT_P_VALUE = 0.05
#: Smaller changes are not worth anybody's time, however certain.
RELEVANT_RATIO = 0.02
Finding = Literal["regression", "improvement", "no difference shown", "too few repetitions"]
_Place = tuple[str, str]


@dataclass(frozen=True)
class CaseComparison:
    """One case in two runs."""

    case: str
    #: The figure compared; "duration_seconds" where there is no common rate.
    figure: str
    higher_is_better: bool
    #: Nodes and phases that both runs have it on.
    places: int
    before: Spread
    now: Spread
    #: Median over the places of how much the median changed: +0.1 is a tenth more.
    change_ratio: float
    p_value: float | None
    #: Adjusted for the number of cases.
    adjusted_p_value: float | None
    finding: Finding


@dataclass(frozen=True)
class Comparison:
    """A run against its baseline."""

    baseline: str
    baseline_at: float
    cases: tuple[CaseComparison, ...]
    #: Cases that fail on a node where they succeeded, as (node, case).
    newly_failing: tuple[_Place, ...]
    #: What else differs between the runs, so that it may explain what is different.
    conditions: tuple[str, ...]

    @property
    def regressions(self) -> list[CaseComparison]:
        """The cases that became worse."""
        return [case for case in self.cases if case.finding == "regression"]


def compare(evidence: Evidence, baseline: Evidence, conditions: Sequence[str] = ()) -> Comparison:
    """Return a run against an earlier one."""
    made = [_compare_case(case, evidence, baseline) for case in evidence.run.cases]
    found = [entry for entry in made if entry is not None]
    adjusted = holm([case.p_value for case, _ in found])
    cases = [
        replace(case, adjusted_p_value=p_value, finding=_finding(case, p_value, least))
        for (case, least), p_value in zip(found, adjusted, strict=True)
    ]
    failing = _newly_failing(evidence, baseline)
    return Comparison(baseline.run.id, baseline.run.created_at, tuple(cases), tuple(failing), tuple(conditions))


def _compare_case(case: str, evidence: Evidence, baseline: Evidence) -> tuple[CaseComparison, float] | None:
    now, before = ([r for r in e.succeeded if r.case == case] for e in (evidence, baseline))
    figure = _common_rate(now, before)
    values, earlier = _by_place(now, figure), _by_place(before, figure)
    places = sorted(values.keys() & earlier.keys())
    spreads = [spread([value for place in places for value in of[place]]) for of in (earlier, values)]
    if not places or spreads[0] is None or spreads[1] is None:
        return None
    ratios = [statistics.median(values[p]) / statistics.median(earlier[p]) for p in places if any(earlier[p])]
    blocks = [(values[place], earlier[place]) for place in places]
    p_value = stratified_rank_test(blocks)
    change = statistics.median(ratios) - 1 if ratios else 0.0
    better = figure != "duration_seconds"
    finding: Finding = "no difference shown"
    made = CaseComparison(case, figure, better, len(places), spreads[0], spreads[1], change, p_value, p_value, finding)
    return made, least_p_value(blocks)


def _common_rate(now: Sequence[CaseResult], before: Sequence[CaseResult]) -> str:
    names = {result.primary or "" for result in (*now, *before)}
    name = names.pop() if len(names) == 1 else ""
    return name if adds_up(name) else "duration_seconds"


def _by_place(results: Sequence[CaseResult], figure: str) -> Mapping[_Place, list[float]]:
    found: dict[_Place, list[float]] = {}
    for result in results:
        value = result.duration_seconds if figure == "duration_seconds" else result.primary_value
        if value is not None:
            found.setdefault((result.node, result.phase), []).append(value)
    return found


def _finding(case: CaseComparison, p_value: float | None, least: float) -> Finding:
    if abs(case.change_ratio) < RELEVANT_RATIO:
        return "no difference shown"
    if p_value is not None and p_value < SIGNIFICANT_P_VALUE:
        return "improvement" if (case.change_ratio > 0) == case.higher_is_better else "regression"
    return "too few repetitions" if least >= SIGNIFICANT_P_VALUE else "no difference shown"


def _newly_failing(evidence: Evidence, baseline: Evidence) -> list[_Place]:
    def failing(of: Evidence) -> set[_Place]:
        return {(result.node, result.case) for result in of.tried if result.outcome != "succeeded"}

    succeeded = {(result.node, result.case) for result in baseline.succeeded}
    return sorted((failing(evidence) - failing(baseline)) & succeeded)
