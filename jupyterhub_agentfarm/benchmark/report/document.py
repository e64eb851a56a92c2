"""Reports of runs: HTML that stands alone, JSON, CSV and Markdown.

The HTML has its styles and plots inside and needs nothing else, so it can be mailed, printed and kept. Everything in
it that came from a node, a notebook or a user is escaped.
"""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from ...records import to_json
from ...services.local import write_private
from ...share import share_path
from .. import analysis, plots
from ..models import BenchmarkRun, CaseResult, Sample

#: Content types by format.
FORMATS: Mapping[str, str] = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
}
ROLE_TITLES = {"microserver": "Microservers", "gpuserver": "GPU servers"}
#: Stands for what is not known.
UNKNOWN = "\N{EN DASH}"
_MARKDOWN_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]|"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
)


@dataclass(frozen=True)
class Report:
    """What a report is made from."""

    run: BenchmarkRun
    results: list[CaseResult] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def as_format(self, name: str) -> str:
        """Return the report in one of :data:`FORMATS`; HTML takes a second or so of computing."""
        return {"html": self.html, "json": self.json, "csv": self.csv, "md": self.markdown}[name]()

    def data(self) -> dict[str, Any]:
        """Return everything but the raw samples, ready for JSON."""
        headline, sentences = analysis.verdict(self.run, self.results)
        return {
            "verdict": {"headline": headline, "sentences": list(sentences)},
            "run": to_json(self.run),
            "cases": [to_json(analysis.summarize_case(case, self.results)) for case in self.run.cases],
            "usage": [to_json(usage) for usage in self.usages()],
            "results": to_json(self.results),
        }

    def json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.data(), indent=2) + "\n"

    def csv(self) -> str:
        """Return the samples as CSV: one line each, one column per quantity, empty where it is not known."""
        keys = sorted({key for sample in self.samples for key in sample.values})
        output = io.StringIO()
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(["time", "scope", "name", *keys])
        for sample in self.samples:
            writer.writerow([sample.at, sample.scope, sample.name, *(sample.values.get(key, "") for key in keys)])
        return output.getvalue()

    def usages(self) -> list[analysis.Usage]:
        """Return what each node, each role and the farm used."""
        nodes = self.run.taking_part
        wanted = [(node.name, "node") for node in nodes]
        wanted += [(role, "role") for role in sorted({node.role for node in nodes})]
        # Until the first case the farm only starts servers.
        measured = [sample for sample in self.samples if sample.at >= (self.run.started_at or 0)] or self.samples
        return [analysis.usage(name, scope, measured) for name, scope in (*wanted, ("farm", "farm"))]

    def markdown(self) -> str:
        """Return the verdict and the table of results as Markdown."""
        headline, sentences = analysis.verdict(self.run, self.results)
        nodes = [node.name for node in self.run.nodes]
        by_place = {(r.node, r.case): r for r in self.results}
        lines = [f"# Benchmark {_md(self.run.suite)}: {_md(headline)}", ""]
        lines += [f"- {_md(sentence)}" for sentence in sentences]
        lines += ["", "| node | " + " | ".join(map(_md, self.run.cases)) + " |"]
        lines += ["|---" * (len(self.run.cases) + 1) + "|"]
        for node in nodes:
            cells = [_md(_cell_text(by_place.get((node, case)))) for case in self.run.cases]
            lines.append(f"| {_md(node)} | " + " | ".join(cells) + " |")
        lines += [
            "",
            f"Run {_md(self.run.id)}, started {when(self.run.created_at)}, suite {_md(self._suite_hash()[:12])}.",
        ]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Return the report as one HTML page that needs nothing else."""
        headline, sentences = analysis.verdict(self.run, self.results)
        return (
            _environment()
            .get_template("report.html")
            .render(
                run=self.run,
                headline=headline,
                sentences=sentences,
                tone=self._tone(),
                by_place={(r.node, r.case): r for r in self.results},
                failures=[r for r in self.results if r.outcome in analysis.FAULTS and r.error is not None],
                cases=[analysis.summarize_case(case, self.results) for case in self.run.cases],
                groups=self._groups(),
                farm=self.usages()[-1],
                sample_count=len({sample.at for sample in self.samples}),
                suite_hash=self._suite_hash(),
            )
        )

    def _suite_hash(self) -> str:
        return str(self.run.definition.get("sha256") or "")

    def _tone(self) -> str:
        if self.run.going:
            return "going"
        outcomes = [result.outcome for result in self.results if result.outcome != "skipped"]
        if self.run.state == "completed" and outcomes and all(outcome == "succeeded" for outcome in outcomes):
            return "good"
        return "mixed" if "succeeded" in outcomes else "bad"

    def _groups(self) -> list[dict[str, Any]]:
        """Return, for each role, its nodes, their use, and the plots."""
        usages = {(usage.scope, usage.name): usage for usage in self.usages()}
        groups = []
        for role, title in ROLE_TITLES.items():
            nodes = [node for node in self.run.nodes if node.role == role]
            if not nodes:
                continue
            names = [node.name for node in nodes if not node.skipped]
            groups.append(
                {
                    "role": role,
                    "title": title,
                    "nodes": nodes,
                    "usages": [usages["node", name] for name in names],
                    "together": usages.get(("role", role)),
                    "plots": self._plots(title, names),
                }
            )
        return groups

    def _plots(self, title: str, names: list[str]) -> list[tuple[str, str]]:
        start = self.samples[0].at if self.samples else 0
        simulated = " (simulated)" if self._any_simulated(names) else ""

        def share(key: str, what: str, total: str = "") -> tuple[str, str]:
            series = plots.over_time(self.samples, names, key, start, total)
            return what, plots.line_plot(series, "%", f"{title}: {what} over time", share=True)

        drawn = [
            ("Duration of each case", plots.duration_plot(self.results, self.run.cases, names)),
            share("cpu_utilization_ratio", "CPU utilisation"),
            share("memory_used_bytes", "Memory in use", "memory_total_bytes"),
            share("gpu_utilization_ratio", f"GPU utilisation{simulated}"),
            share("gpu_memory_used_bytes", f"GPU memory in use{simulated}", "gpu_memory_total_bytes"),
        ]
        return [(what, svg) for what, svg in drawn if svg]

    def _any_simulated(self, names: list[str]) -> bool:
        return any(simulated_gpus(node.about) for node in self.run.nodes if node.name in names)


def simulated_gpus(about: Mapping[str, Any]) -> int:
    """Return how many GPUs of a node are simulated."""
    return sum(bool(gpu.get("simulated")) for gpu in about.get("gpus") or ())


def when(at: float | None) -> str:
    """Return an instant for people, in UTC."""
    if at is None:
        return UNKNOWN
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.0f} %"


def _gib(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value / 2**30:.3g} GiB"


def _cell_text(result: CaseResult | None) -> str:
    if result is None:
        return UNKNOWN
    if result.outcome != "succeeded":
        return result.outcome.replace("_", " ")
    value = result.primary_value
    figure = f", {analysis.number_text(value)} {analysis.label(result.primary or '')}" if value is not None else ""
    return f"{analysis.seconds_text(result.duration_seconds or 0)}{figure}"


def _md(text: str) -> str:
    return text.translate(_MARKDOWN_SPECIAL)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(share_path("templates")), autoescape=True, undefined=jinja2.StrictUndefined
    )
    filters: dict[str, Any] = {
        "when": when,
        "percent": _percent,
        "gib": _gib,
        "seconds": lambda value: UNKNOWN if value is None else analysis.seconds_text(value),
        "number": lambda value: UNKNOWN if value is None else analysis.number_text(value),
        "rate": lambda value: UNKNOWN if value is None else f"{value:.1f}",
        "label": analysis.label,
        "simulated": simulated_gpus,
    }
    environment.filters |= filters
    return environment


async def write_report(report: Report, folder: Path) -> None:
    """Write the report in every format into `folder` (0700), each file at once and private.

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
        ("samples.csv", report.csv()),
        ("samples.json", json.dumps(to_json(report.samples))),
    ):
        write_private(folder / name, text)
