"""``agentfarm benchmark``: suites, runs and their reports."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Enum, Unicode

from ..errors import ConfigError, RunFailed
from ..services.local import write_private
from ..terminal.following import GOING, failure, follow, summary, verdict
from ..terminal.parsing import Parsed
from ..terminal.progress import bars
from ..terminal.quantities import UNKNOWN, age, duration
from .command import Command

if TYPE_CHECKING:
    from ..benchmark.client import BenchmarkClient

_CLI = "jupyterhub_agentfarm.cli.benchmark"
_FORMATS = ("html", "json", "csv", "md")


class Benchmark(Parsed):
    """Measure nodes and farm with real notebooks."""

    command = "agentfarm benchmark"
    description = "Measure nodes and farm with real notebooks."
    subcommands = {
        "suites": (f"{_CLI}.Suites", "List the suites"),
        "run": (f"{_CLI}.Run", "Run a suite on all nodes at once, or on some"),
        "list": (f"{_CLI}.Runs", "List the runs, the latest first"),
        "show": (f"{_CLI}.ShowRun", "Show what came out of a run"),
        "report": (f"{_CLI}.FetchReport", "Write the report of a run"),
    }


class _BenchmarkCommand(Command):
    """A command that talks to the benchmark service."""

    @asynccontextmanager
    async def service(self) -> AsyncIterator[BenchmarkClient]:
        """Give a client of the service for as long as the block runs."""
        from ..benchmark.client import BenchmarkClient

        client = BenchmarkClient(parent=self, **self.client_options())
        try:
            yield client
        finally:
            await client.aclose()


class Suites(_BenchmarkCommand):
    """List the suites."""

    command = "agentfarm benchmark suites"
    description = "List the suites and their cases."

    async def run(self) -> None:
        """Ask the service and write the list."""
        async with self.service() as service:
            suites = await service.suites()
        if self.json:
            self.output.json({"suites": suites})
            return
        rows = [(suite["name"], suite["title"], ", ".join(case["name"] for case in suite["cases"])) for suite in suites]
        self.output.table(("NAME", "TITLE", "CASES"), rows, "There are no suites.")


class Run(_BenchmarkCommand):
    """Run a suite."""

    command = "agentfarm benchmark run"
    description = "Run a suite on all eligible nodes at once, or on those named, and write its report."
    examples = "  agentfarm benchmark run smoke --nodes micro-1,gpu-1 --output smoke.html"
    positionals = ("SUITE",)
    nodes = Unicode("", help="Names of nodes, separated by commas. Default: all that are eligible.").tag(config=True)
    output_file = Unicode("", help="File for the HTML report. Default: benchmark-RUN.html here.").tag(config=True)
    no_wait = Bool(False, help="Start the run and end; `agentfarm benchmark show` tells how it is.").tag(config=True)
    aliases = {**Command.aliases, "nodes": "Run.nodes", "output": "Run.output_file"}
    flags = {
        **Command.flags,
        "no-wait": (
            {"Run": {"no_wait": True}},
            "Start the run and end; `agentfarm benchmark show` tells how it is.",
        ),
    }

    async def run(self) -> None:
        """Start the run, follow it, and write its report.

        Raises
        ------
        RunFailed
            A case failed, or the run did; the report is written all the same.
        """
        names = [name for name in (part.strip() for part in self.nodes.split(",")) if name] or None
        async with self.service() as service:
            started = await service.start(self.extra_args[0], names)
            if self.no_wait:
                self._started(started)
                return
            view = await self._follow(service, started["id"])
            text = await service.report(view["id"], "html")
        report = write(self.output_file or f"benchmark-{view['id']}.html", text)
        self._ended(view, report)

    def _started(self, started: Mapping[str, Any]) -> None:
        if self.json:
            self.output.json(started)
        else:
            self.output.line(f"run {started['id']} of suite {started['suite']} was started")

    async def _follow(self, service: BenchmarkClient, run_id: str) -> dict[str, Any]:
        """Show bars until the run ended; a stream that ends early is followed anew."""
        self.output.note(f"run {run_id}; Ctrl-C stops watching, not the run")
        with bars(self.output) as progress:
            while True:
                view = await follow(service.events(run_id), progress) or await service.run(run_id)
                if view["state"] not in GOING:
                    return view

    def _ended(self, view: Mapping[str, Any], report: Path) -> None:
        if self.json:
            self.output.json({**view, "report": str(report)})
        else:
            for line in (*verdict(view), summary(view), f"Report: {report}"):
                self.output.line(line)
        why = failure(view)
        if why is not None:
            raise RunFailed(why)


class Runs(_BenchmarkCommand):
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
        columns = ("ID", "SUITE", "STATE", "BY", "STARTED", "TOOK", "NODES", "DETAIL")
        self.output.table(columns, rows, "There were no runs yet: `agentfarm benchmark run smoke` makes one.")


class ShowRun(_BenchmarkCommand):
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


class FetchReport(_BenchmarkCommand):
    """Write the report of a run."""

    command = "agentfarm benchmark report"
    description = "Write the report of a run to stdout, or to a file."
    positionals = ("RUN",)
    format = Enum(_FORMATS, "html", help="html, json, csv (the samples) or md.").tag(config=True)
    output_file = Unicode("", help="File to write. Default: stdout.").tag(config=True)
    aliases = {**Command.aliases, "format": "FetchReport.format", "output": "FetchReport.output_file"}

    async def run(self) -> None:
        """Fetch the report and write it."""
        async with self.service() as service:
            text = await service.report(self.extra_args[0], "json" if self.json else self.format)
        if self.output_file:
            self.output.note(f"Report: {write(self.output_file, text)}")
        else:
            sys.stdout.write(text)


def write(name: str, text: str) -> Path:
    """Write a report to the file `name` and return its absolute path.

    Raises
    ------
    ConfigError
        It cannot be written there.
    """
    path = Path(name).absolute()
    try:
        write_private(path, text)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    return path


def _run_row(run: Mapping[str, Any], now: float) -> tuple[object, ...]:
    took = UNKNOWN
    if run["started_at"] is not None and run["ended_at"] is not None:
        took = duration(run["ended_at"] - run["started_at"])
    nodes = ", ".join(node["name"] for node in run["nodes"] if not node["skipped"])
    started = age(run["started_at"], now)
    return (run["id"], run["suite"], run["state"], run["requested_by"], started, took, nodes, run["detail"])
