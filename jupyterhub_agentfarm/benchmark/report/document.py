"""The report of a run in every format that is text, and its files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...records import to_json
from ...services.local import write_private
from ..models import BenchmarkRun, CaseResult, RunEvent, Sample
from .crosscheck import CrossCheck
from .evidence import Evidence
from .findings import Findings
from .html import html
from .markdown import markdown
from .tables import results_csv, samples_csv

#: Content types by format.
FORMATS: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "pdf": "application/pdf",
}


@dataclass(frozen=True)
class Report:
    """What a report is made from.

    Parameters
    ----------
    baseline
        The report of an earlier run that this one is compared with.
    crosscheck
        What came of comparing it with Prometheus; None where none is configured.
    """

    run: BenchmarkRun
    results: Sequence[CaseResult] = ()
    samples: Sequence[Sample] = field(default=(), repr=False)
    events: Sequence[RunEvent] = ()
    baseline: Report | None = None
    crosscheck: CrossCheck | None = None

    @cached_property
    def evidence(self) -> Evidence:
        """The same as evidence, of which questions are asked."""
        return Evidence(self.run, self.results, self.samples, self.events)

    @cached_property
    def findings(self) -> Findings:
        """What the run comes to."""
        return Findings(self.evidence, self.baseline.evidence if self.baseline else None, self.crosscheck)

    def as_format(self, name: str) -> str:
        """Return the report in one of :data:`FORMATS` but pdf; HTML takes a second or so of computing."""
        made: Mapping[str, Callable[[], str]] = {
            "html": self.html,
            "json": self.json,
            "csv": self.csv,
            "md": self.markdown,
        }
        return made[name]()

    def data(self) -> dict[str, Any]:
        """Return everything but the samples, ready for JSON."""
        return self.findings.data()

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.data(), indent=2, allow_nan=False) + "\n"

    def csv(self) -> str:
        """Return the results as CSV, one line each."""
        return results_csv(self.results)

    def samples_csv(self) -> str:
        """Return the samples as CSV, one line each."""
        return samples_csv(self.samples)

    def markdown(self) -> str:
        """Return the verdict and the tables as Markdown."""
        return markdown(self.findings)

    def html(self) -> str:
        """Return the report as one HTML page that needs nothing else."""
        return html(self.findings)


async def write_report(report: Report, folder: Path) -> None:
    """Write the report in every text format into `folder` (0700), each file at once and private.

    Raises
    ------
    OSError
        The disk does not take them.
    """
    await asyncio.to_thread(_write, report, folder)


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in (
        ("report.html", report.html()),
        ("report.json", report.json()),
        ("report.md", report.markdown()),
        ("results.csv", report.csv()),
        ("samples.csv", report.samples_csv()),
        ("samples.json", json.dumps(to_json(report.samples))),
    ):
        write_private(folder / name, text)
