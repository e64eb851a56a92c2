"""One case on one node in a few words: the cells of the table of results."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..models import CaseResult
from .evidence import NOT_TRIED, Evidence
from .wording import UNKNOWN, label, number_text, seconds_text


@dataclass(frozen=True)
class Cell:
    """What came of a case on a node, over all its repetitions."""

    succeeded: int
    tried: int
    #: The outcome that is told: "succeeded" when all did, else the most frequent other one.
    outcome: str
    #: Why, for that outcome.
    reason: str
    #: Medians of the successes.
    seconds: float | None
    value: float | None
    figure: str
    device: str

    @property
    def text(self) -> str:
        """The cell in words."""
        if not self.succeeded:
            return self.outcome.replace("_", " ")
        parts = [seconds_text(self.seconds)]
        if self.value is not None:
            parts.append(f"{number_text(self.value)} {label(self.figure)}")
        if self.tried > 1:
            parts.append(self.counts)
        return ", ".join(parts)

    @property
    def counts(self) -> str:
        """How many of how many repetitions succeeded."""
        return f"{self.succeeded:,} of {self.tried:,}"


def cells(evidence: Evidence) -> Mapping[tuple[str, str], Cell]:
    """Return the cells by node and case."""
    by_place: dict[tuple[str, str], list[CaseResult]] = {}
    for result in evidence.counted:
        by_place.setdefault((result.node, result.case), []).append(result)
    return {place: _cell(results) for place, results in by_place.items()}


def _cell(results: Sequence[CaseResult]) -> Cell:
    good = [result for result in results if result.outcome == "succeeded"]
    others = Counter(result.outcome for result in results if result.outcome != "succeeded")
    outcome = others.most_common(1)[0][0] if others else "succeeded"
    reasons = Counter(result.reason for result in results if result.outcome == outcome and result.reason)
    seconds = [result.duration_seconds for result in good if result.duration_seconds is not None]
    values = [value for result in good if (value := result.primary_value) is not None]
    figures = {result.primary or "" for result in good}
    one = len(figures) == 1 and bool(values)
    return Cell(
        succeeded=len(good),
        tried=sum(result.outcome not in NOT_TRIED for result in results),
        outcome=outcome,
        reason=reasons.most_common(1)[0][0] if reasons else "",
        seconds=statistics.median(seconds) if seconds else None,
        value=statistics.median(values) if one else None,
        figure=next(iter(figures)) if one else "",
        device=next((result.device for result in good if result.device), ""),
    )


def cell_text(cell: Cell | None) -> str:
    """Return a cell in words, also one of which there is nothing."""
    return UNKNOWN if cell is None else cell.text
