"""``agentfarm benchmark``: suites, runs and their reports."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Enum, Unicode

from ..errors import ConfigError
from ..services.local import write_private
from ..terminal.following import summary, verdict
from ..terminal.parsing import Parsed, UsageError
from ..terminal.quantities import UNKNOWN, age, duration
from .command import Command

if TYPE_CHECKING:
    from ..benchmark.client import BenchmarkClient

_CLI = "jupyterhub_agentfarm.cli"
FORMATS = ("html", "json", "csv", "md", "pdf")


class Benchmark(Parsed):
    """Measure nodes and farm with real notebooks."""

    command = "agentfarm benchmark"
    description = "Measure nodes and farm with real notebooks."
    subcommands = {
        "suites": (f"{_CLI}.benchmark.Suites", "List the suites"),
        "run": (f"{_CLI}.benchmark_run.Run", "Run a suite on all nodes at once, or on some"),
        "follow": (f"{_CLI}.benchmark_run.Follow", "Show the progress of a run until it has ended"),
        "cancel": (f"{_CLI}.benchmark_run.Cancel", "End a run"),
        "list": (f"{_CLI}.benchmark.Runs", "List the runs, the latest first"),
        "show": (f"{_CLI}.benchmark.ShowRun", "Show what came out of a run"),
        "report": (f"{_CLI}.benchmark.FetchReport", "Write the report of a run, alone or against another one"),
    }


class BenchmarkCommand(Command):
    """A command that talks to the benchmark service."""

    @asynccontextmanager
    async def service(self) -> AsyncIterator[BenchmarkClient]:
        """Give a client of the service for as long as the block runs."""
        client = self.client()
        try:
            yield client
        finally:
            await client.aclose()

    def client(self) -> BenchmarkClient:
        """Return a client of the service; it is closed by who asked for it."""
        from ..benchmark.client import BenchmarkClient

        return BenchmarkClient(parent=self, **self.client_options())


class Suites(BenchmarkCommand):
    """List the suites."""

    command = "agentfarm benchmark suites"
    description = "List the suites, how they go and their cases."

    async def run(self) -> None:
        """Ask the service and write the list."""
        async with self.service() as service:
            suites = await service.suites()
        if self.json:
            self.output.json({"suites": suites})
            return
        rows = [
            (suite["name"], suite["title"], suite_mode(suite), ", ".join(case["name"] for case in suite["cases"]))
            for suite in suites
        ]
        self.output.table(("NAME", "TITLE", "MODE", "CASES"), rows, "There are no suites.")


class Runs(BenchmarkCommand):
    """List the runs."""

    command = "agentfarm benchmark list"
    description = "List the runs, the latest first."

    async def run(self) -> None:
        """Ask the service and write the list."""
        async with self.service() as service:
            runs = await service.runs()
        if self.json:
            self.output.json({"runs": runs})
            return
        now = time.time()
        rows = [_run_row(run, now) for run in runs]
        columns = ("ID", "SUITE", "STATE", "PASSED", "BY", "STARTED", "TOOK", "NODES", "DETAIL")
        self.output.table(columns, rows, "There were no runs yet: `agentfarm benchmark run smoke` makes one.")


class ShowRun(BenchmarkCommand):
    """Show a run."""

    command = "agentfarm benchmark show"
    description = "Show what came out of a run, node by node."
    positionals = ("RUN",)

    async def run(self) -> None:
        """Ask the service and write what it knows."""
        async with self.service() as service:
            view = await service.run(self.extra_args[0])
        if self.json:
            self.output.json(view)
            return
        for line in (summary(view), *verdict(view)):
            self.output.line(line)


class FetchReport(BenchmarkCommand):
    """Write the report of a run."""

    command = "agentfarm benchmark report"
    description = "Write the report of a run to stdout, or to a file; with --against, compared with an earlier run."
    examples = "  agentfarm benchmark report RUN --against BASELINE --format pdf --output report.pdf"
    positionals = ("RUN",)
    format = Enum(FORMATS, "html", help="html, json, csv (the samples), md or pdf.").tag(config=True)
    against = Unicode("", help="The run that it is compared with.").tag(config=True)
    output_file = Unicode("", help="File to write. Default: stdout.").tag(config=True)
    aliases = {
        **Command.aliases,
        "format": "FetchReport.format",
        "against": "FetchReport.against",
        "output": "FetchReport.output_file",
    }

    async def run(self) -> None:
        """Fetch the report and write it.

        Raises
        ------
        UsageError
            A PDF would go to a terminal.
        """
        form = "json" if self.json else self.format
        if form == "pdf" and not self.output_file and self.output.is_terminal:
            raise UsageError("a PDF is not for a terminal: name a file with --output", self.command)
        async with self.service() as service:
            content = await service.report_file(self.extra_args[0], form, self.against or None)
        if self.output_file:
            self.output.note(f"Report: {write(self.output_file, content)}")
        elif form == "pdf":
            sys.stdout.buffer.write(content)
        else:
            sys.stdout.write(content.decode())


def write(name: str, content: bytes) -> Path:
    """Write a report to the file `name` and return its absolute path.

    Raises
    ------
    ConfigError
        It cannot be written there.
    """
    path = Path(name).absolute()
    try:
        write_private(path, content)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    return path


def suite_mode(suite: Mapping[str, Any]) -> str:
    """Return how a suite goes, as in "3 times", "4h", "ramp 1, 2, all"."""
    mode = suite.get("mode", "once")
    if mode == "duration":
        return duration(suite["duration_seconds"])
    if mode == "repeat":
        return f"{suite['repeat']} times"
    if mode == "ramp":
        steps = ", ".join(str(step) if step else "all" for step in suite["ramp"])
        return f"ramp {steps}" if steps else "ramp"
    return "once"


def _run_row(run: Mapping[str, Any], now: float) -> tuple[object, ...]:
    took = UNKNOWN
    if run["started_at"] is not None:
        took = duration((run["ended_at"] or now) - run["started_at"])
    nodes = ", ".join(node["name"] for node in run["nodes"] if not node["skipped"])
    passed = {True: "yes", False: "no"}.get(run.get("passed"), UNKNOWN)  # type: ignore[arg-type]
    started = age(run["started_at"], now)
    return (run["id"], run["suite"], run["state"], passed, run["requested_by"], started, took, nodes, run["detail"])
