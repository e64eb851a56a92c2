"""``agentfarm benchmark run | follow | cancel``: a run from the shell, whose exit status is the verdict.

Exit status: 0 the run was completed and every limit of its suite held; 1 it was not, or a limit was broken; 2 the
command was called the wrong way. So a farm's own CI can hold it to its suites.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from traitlets import Bool, Int, Unicode

from ..errors import FarmUnavailable, RunFailed
from ..terminal.following import GOING, RunFollower, failure, summary, verdict
from ..terminal.parsing import UsageError
from ..terminal.progress import Bars, bars
from ..traitlets import parse_seconds
from .benchmark import BenchmarkCommand, write
from .command import Command

#: Pauses between two attempts to reach a service that went away.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0
_NO_WAIT = "Start the run and end; `agentfarm benchmark follow` shows its progress."


class Following(BenchmarkCommand):
    """A command that shows a run until it has ended, writes its report, and ends as the run did."""

    output_file = Unicode("", help="File for the HTML report. Default: benchmark-RUN.html here.").tag(config=True)
    against = Unicode("", help="The run that the report compares this one with.").tag(config=True)
    aliases = {**Command.aliases, "output": "Following.output_file", "against": "Following.against"}

    async def follow(self, run_id: str) -> None:
        """Follow a run to its end and write its report.

        Raises
        ------
        RunFailed
            The run failed, or a limit was broken; the report is written all the same.
        """
        self.output.note(f"run {run_id}; Ctrl-C stops watching, not the run")
        with bars(self.output) as progress:
            view = await self._view_at_end(run_id, progress)
        async with self.service() as service:
            content = await service.report_file(run_id, "html", self.against or None)
        path = write(self.output_file or f"benchmark-{run_id}.html", content)
        if self.json:
            self.output.json({**view, "report": str(path)})
        else:
            for line in (*verdict(view), summary(view), f"Report: {path}"):
                self.output.line(line)
        why = failure(view)
        if why is not None:
            raise RunFailed(why)

    async def _view_at_end(self, run_id: str, progress: Bars) -> dict[str, Any]:
        """Return the run when it has ended; a service that goes away meanwhile is waited for."""
        follower, pause = RunFollower(progress), 0.0
        while True:
            try:
                async with self.service() as service:
                    view = await follower.follow(service.events(run_id)) or await service.run(run_id)
                if view["state"] not in GOING:
                    return view
                pause = 0.0
            except FarmUnavailable as exc:
                if not pause:
                    progress.say(f"{exc.message}; trying again until it is back")
                pause = min(max(2 * pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)


class Run(Following):
    """Run a suite."""

    command = "agentfarm benchmark run"
    description = (
        "Run a suite on all nodes at once, or on some, show its progress, and write its report. The exit status tells "
        "the verdict: 0 passed, 1 failed or a limit broken, 2 called the wrong way."
    )
    examples = (
        "  agentfarm benchmark run smoke --nodes micro-1,gpu-1 --output smoke.html\n"
        "  agentfarm benchmark run soak --duration 4h --nodes role=microserver --exclusive\n"
        "  agentfarm benchmark run ml --repeat 3 --against 20261127-101500-a1b2c3"
    )
    positionals = ("SUITE",)
    nodes = Unicode(
        "",
        help="Names of nodes, or labels that they must have, as in role=microserver,zone=a; separated by commas. "
        "Default: those that the suite is for.",
    ).tag(config=True)
    duration = Unicode("", help="How long it goes on, as in 30m or 4h. Default: as the suite says.").tag(config=True)
    repeat = Int(None, allow_none=True, help="How often each case is measured. Default: as the suite says.").tag(
        config=True
    )
    sample_interval = Unicode("", help="Time between two samples, as in 10s or 5m. Default: as the suite says.").tag(
        config=True
    )
    exclusive = Bool(False, help="Drain the nodes first, and keep them for the run.").tag(config=True)
    no_wait = Bool(False, help=_NO_WAIT).tag(config=True)
    aliases = {
        "nodes": "Run.nodes",
        "duration": "Run.duration",
        "repeat": "Run.repeat",
        "sample-interval": "Run.sample_interval",
        **Following.aliases,
    }
    flags = {
        "exclusive": ({"Run": {"exclusive": True}}, "Drain the nodes first, and keep them for the run."),
        "follow": ({"Run": {"no_wait": False}}, "Show progress until the end, which is what happens anyway."),
        "no-wait": ({"Run": {"no_wait": True}}, _NO_WAIT),
        **Command.flags,
    }

    async def run(self) -> None:
        """Start the run, and unless told otherwise follow it."""
        names, wanted = self._wanted()
        async with self.service() as service:
            started = await service.start(self.extra_args[0], names, **wanted)
        if not self.no_wait:
            await self.follow(started["id"])
        elif self.json:
            self.output.json(started)
        else:
            self.output.line(f"run {started['id']} of suite {started['suite']} was started")

    def _wanted(self) -> tuple[list[str] | None, dict[str, Any]]:
        """Return the nodes' names and what else is asked for.

        Raises
        ------
        UsageError
            An option cannot be understood, or two do not go together.
        """
        names, labels = self._targets()
        if self.duration and self.repeat is not None:
            raise UsageError("--duration and --repeat do not go together: give one of them", self.command)
        if self.repeat is not None and self.repeat < 1:
            raise UsageError(f"--repeat must be a whole number of at least 1, not {self.repeat}", self.command)
        wanted: dict[str, Any] = {
            "labels": labels,
            "duration_seconds": self._seconds("--duration", self.duration),
            "repeat": self.repeat,
            "sample_interval_seconds": self._seconds("--sample-interval", self.sample_interval),
            "exclusive": self.exclusive,
        }
        return names or None, {name: value for name, value in wanted.items() if value}

    def _targets(self) -> tuple[list[str], dict[str, str]]:
        """Return what ``--nodes`` names: nodes, or labels that they must have."""
        parts = [part for part in (part.strip() for part in self.nodes.split(",")) if part]
        names, labels = [part for part in parts if "=" not in part], dict[str, str]()
        for part in parts:
            key, equals, value = part.partition("=")
            if equals and not (key and value):
                raise UsageError(f"--nodes takes labels as in role=microserver, not {part!r}", self.command)
            if equals and labels.setdefault(key, value) != value:
                raise UsageError(f"--nodes asks for {key}={labels[key]} and {part} at once: no node has both",
                                 self.command)  # fmt: skip
        if names and labels:
            raise UsageError("--nodes takes names of nodes or labels, not both at once", self.command)
        return names, labels

    def _seconds(self, option: str, text: str) -> float | None:
        if not text:
            return None
        try:
            seconds = parse_seconds(text)
        except ValueError:
            seconds = 0.0
        if seconds <= 0:
            raise UsageError(f"{option} must be a duration such as 30s, 15m or 4h, not {text!r}", self.command)
        return seconds


class Follow(Following):
    """Show the progress of a run."""

    command = "agentfarm benchmark follow"
    description = "Show the progress of a run until it has ended, and write its report; the exit status is the verdict."
    positionals = ("RUN",)

    async def run(self) -> None:
        """Follow the run."""
        async with self.service() as service:
            await service.run(self.extra_args[0])  # a wrong id is told at once
        await self.follow(self.extra_args[0])


class Cancel(BenchmarkCommand):
    """End a run."""

    command = "agentfarm benchmark cancel"
    description = "End a run: its servers are stopped, and it has its report of what was measured until then."
    positionals = ("RUN",)

    async def run(self) -> None:
        """Ask for the end of the run."""
        async with self.service() as service:
            view: Mapping[str, Any] = await service.cancel(self.extra_args[0])
        if self.json:
            self.output.json(view)
        else:
            self.output.line(f"run {view['id']} of suite {view['suite']} is being cancelled: its servers are stopped")
