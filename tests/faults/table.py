"""The table of the acceptance tests: what was measured, what is allowed, passed or not.

A test takes the fixture `figure` and calls ``figure(8, "declared unreachable", 6.4, "s", 10)``. The call checks nothing
by itself and returns whether the limit is kept, so that a test can record all its figures before it asserts::

    assert figure(8, "declared unreachable", seconds, "s", 10)

With $FAULTS_SLACK=3 a time of up to three times its limit is "late" and no failure, as for machines of many.
At the end of the run all figures are printed as one table. With $FAULTS_RESULTS=PATH they are also written to
``PATH.json`` and ``PATH.md``.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

#: What limits of time are multiplied with before a test fails: on a machine that others use too they say little.
SLACK = float(os.environ.get("FAULTS_SLACK", "1"))
Kind = Literal["at most", "at least", "exactly"]


@dataclass(frozen=True)
class Figure:
    """One measured value and its limit."""

    test: int
    name: str
    value: float
    unit: str
    limit: float
    kind: Kind
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the limit is kept."""
        return self.within(1)

    def within(self, slack: float) -> bool:
        """Whether the limit is kept; one of time may be exceeded by the factor `slack`."""
        if self.kind == "at most":
            return self.value <= self.limit * (slack if self.unit in ("s", "ms") else 1)
        return self.value >= self.limit if self.kind == "at least" else self.value == self.limit

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        sign = {"at most": "≤", "at least": "≥", "exactly": "="}[self.kind]
        unit = f" {self.unit}" if self.unit else ""
        note = f" ({self.note})" if self.note else ""
        return (
            f"#{self.test}",
            self.name,
            f"{self.value:.4g}{unit}",
            f"{sign} {self.limit:.4g}{unit}{note}",
            self.verdict(),
        )

    def verdict(self) -> str:
        """Return "pass", "late" when a time is within the slack only, or "FAIL"."""
        if self.passed:
            return "pass"
        return "late" if self.within(SLACK) else "FAIL"


#: What the tests are about, by number.
TITLES = {
    1: "cold starts, and 60 at once",
    2: "placement on uneven nodes",
    3: "GPUs are exclusive",
    4: "the line when full",
    5: "Hub killed in the middle of starts",
    6: "Hub killed with 100 servers",
    7: "sshd killed",
    8: "node frozen, packets dropped",
    9: "node without power, booted again",
    10: "cut off, replaced, healed",
    11: "process ids used again",
    12: "servers that die",
    13: "ports taken",
    14: "wrong host key",
    15: "secrets",
    16: "hostile input",
    17: "broken nodes",
    18: "slow network, slow end",
    19: "cancelled starts",
    20: "drain, soak",
    21: "tasks of agents",
}
HEADER = ("test", "figure", "measured", "limit", "")
_figures: list[Figure] = []


def figure(test: int, name: str, value: float, unit: str, limit: float, kind: Kind = "at most", note: str = "") -> bool:
    """Record a figure of an acceptance test; return whether its limit is kept.

    Parameters
    ----------
    test
        Number of the acceptance test, 1-21.
    name
        What was measured, in words.
    value
        The value.
    unit
        Its unit; "" for a count.
    limit
        The limit.
    kind
        On which side of it the value must be.
    note
        Where the limit is not the published one: why.
    """
    found = Figure(test, name, float(value), unit, float(limit), kind, note)
    _figures.append(found)
    return found.within(SLACK)


def rows() -> list[tuple[str, ...]]:
    """Return the table, without its header, in the order of the tests."""
    return [found.cells() for found in sorted(_figures, key=lambda found: (found.test, found.name))]


def as_text() -> list[str]:
    """Return the lines of the table for a terminal."""
    table = [HEADER, *rows()]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def as_markdown(figures: Iterable[Figure]) -> str:
    """Return a Markdown table with a row for each test: its figures, each with its limit."""
    rows: dict[int, list[Figure]] = {}
    for found in sorted(figures, key=lambda found: (found.test, found.name)):
        rows.setdefault(found.test, []).append(found)
    lines = ["| # | test | measured (limit) | |\n| --- | --- | --- | --- |\n"]
    for number, row in rows.items():
        shown = "<br>".join(f"{found.name}: {found.cells()[2]} ({found.cells()[3]})" for found in row)
        verdict = "pass" if all(found.passed for found in row) else "not all met"
        lines.append(f"| {number} | {TITLES[number]} | {shown.replace('|', chr(92) + '|')} | {verdict} |\n")
    return "".join(lines)


def write(path: Path) -> None:
    """Write PATH.json and PATH.md; the JSON also says where and when."""
    path.parent.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    figures = [asdict(found) | {"passed": found.passed} for found in sorted(_figures, key=lambda f: (f.test, f.name))]
    data = {"finished_at": now, "machine": machine, "figures": figures}
    path.with_name(path.name + ".json").write_text(json.dumps(data, indent=1) + "\n")
    path.with_name(path.name + ".md").write_text(as_markdown(_figures))
