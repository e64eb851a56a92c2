"""A run as CSV: its samples, or its results.

A cell that a spreadsheet would take for a formula gets an apostrophe in front: names and reasons come from nodes and
notebooks, and a formula can fetch things.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ..models import CaseResult, Sample

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_RESULT_COLUMNS = (
    "node", "case", "phase", "lane", "repetition", "warm_up", "outcome", "reason", "started_at", "ended_at",
    "duration_seconds", "primary", "device",
)  # fmt: skip


def samples_csv(samples: Sequence[Sample]) -> str:
    """Return one line for each sample, one column for each quantity, empty where it is not known."""
    keys = sorted({key for sample in samples for key in sample.values})
    rows = ([sample.at, sample.scope, sample.name, *(sample.values.get(key) for key in keys)] for sample in samples)
    return _text([["time", "scope", "name", *keys], *rows])


def results_csv(results: Sequence[CaseResult]) -> str:
    """Return one line for each result, one column for each figure, empty where it has none."""
    keys = sorted({key for result in results for key in result.figures})
    rows = (
        [*(getattr(result, column) for column in _RESULT_COLUMNS), *(result.figures.get(key) for key in keys)]
        for result in results
    )
    return _text([[*_RESULT_COLUMNS, *keys], *rows])


def _text(rows: Sequence[Sequence[object]]) -> str:
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    return output.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
