"""What is written down of a run while it goes: its state, where it is, results, samples, events, and its limits.

Everything but samples is written again and again until the database takes it; a round of samples that it does not take
is lost. What is kept in memory does not grow with the run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from ..controller.farm_watch import FarmWatch
from ..faults import Edge
from ..records import to_json
from .clock import moment, seconds_between, seconds_since
from .definition import Suite
from .gaps import Missing, missing_results
from .limits import Tally, broken, outcomes
from .models import BenchmarkRun, CaseResult, Cursor, Ending, EventKind, LimitOutcome, RunEvent, Sample
from .plan import planned_cases
from .sampler import take_samples
from .store import STORE_ERRORS, BenchmarkStore

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Pauses before something is written again that the database could not take.
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0


class Recorder(Protocol):
    """Who keeps and tells what a run comes to."""

    @property
    def store(self) -> BenchmarkStore:
        """Where it is kept."""

    async def changed(self, run: BenchmarkRun) -> None:
        """Take a new state."""

    async def resulted(self, run: BenchmarkRun, result: CaseResult) -> bool:
        """Take a result; return False when it was known."""

    async def sampled(self, run: BenchmarkRun, samples: list[Sample]) -> None:
        """Take a round of samples."""

    async def happened(self, run: BenchmarkRun, event: RunEvent) -> None:
        """Take an event."""

    def progressed(self, run: BenchmarkRun, progress: Mapping[str, Any]) -> None:
        """Take the progress of a lane, or of a server."""


async def insist(what: str, write: Callable[[], Awaitable[T]]) -> T:
    """Return what `write` returns, called until the database takes it; `what` is for the log."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return await write()
        except STORE_ERRORS as exc:
            log.warning("%s is written again in %g s: %s", what, pause, exc)
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)


class Ledger:
    """One run's records.

    Parameters
    ----------
    run
        The run.
    cursor
        Where it is.
    suite
        Its suite.
    farm
        The farm's newest state.
    recorder
        Keeps and tells everything.
    """

    def __init__(self, run: BenchmarkRun, cursor: Cursor, suite: Suite, farm: FarmWatch, recorder: Recorder) -> None:
        self.run, self.cursor, self.suite = run, cursor, suite
        self._farm, self._recorder = farm, recorder
        self.tally = Tally(run.phases)
        self.planned = planned_cases(run.phases, {node.name: node for node in run.nodes}, len(suite.cases))
        #: Limits that were told to be broken.
        self._broken: set[str] = set()
        #: Is called with the limits that turn out not to hold any more.
        self.on_broken: Callable[[tuple[LimitOutcome, ...]], None] = lambda _: None

    async def restore(self) -> float:
        """Count what earlier lives of the service left; return the length of the gap since the last."""
        store, run_id = self._recorder.store, self.run.id
        async for _, result in store.each_result(run_id):
            self.tally.add_result(result)
        async for sample in store.each_sample(run_id):
            self.tally.add_sample(sample)
        for event in await store.events(run_id):
            self.tally.add_event(event)
            if event.kind == "limit_exceeded":
                self._broken.add(event.detail.partition(" ")[0])
        return seconds_between(self.cursor.alive, moment())

    # ---- state ----

    async def change(self, **changes: Any) -> None:
        """Keep a new state of the run."""
        self.run = dataclasses.replace(self.run, **changes)
        await insist(f"run {self.run.id}", lambda: self._recorder.changed(self.run))

    async def point(self, **changes: Any) -> None:
        """Keep where the run is."""
        self.cursor = dataclasses.replace(self.cursor, alive=moment(), **changes)
        await insist(f"run {self.run.id}", self._write_cursor)

    async def beat(self) -> None:
        """Say that the service is there; what cannot be written now is so the next time."""
        self.cursor = dataclasses.replace(self.cursor, alive=moment())
        try:
            await self._write_cursor()
        except STORE_ERRORS as exc:
            log.warning("that run %s goes on could not be written: %s", self.run.id, exc)

    async def positions(self, phase: str) -> dict[tuple[str, int], int]:
        """Return how many results each node and lane has in a phase."""
        return await insist(f"run {self.run.id}", lambda: self._recorder.store.positions(self.run.id, phase))

    async def _write_cursor(self) -> None:
        await self._recorder.store.save_cursor(self.run.id, self.cursor)

    # ---- what happens ----

    async def happened(self, event: RunEvent) -> None:
        """Keep an event."""
        await insist(f"an event of run {self.run.id}", lambda: self._recorder.happened(self.run, event))
        self.tally.add_event(event)
        await self._check()

    async def note(self, kind: EventKind, detail: str = "", seconds: float | None = None) -> None:
        """Keep an event of the run as a whole, that happens now."""
        await self.happened(RunEvent(time.time(), kind, "", detail, seconds))

    async def keep(self, result: CaseResult) -> None:
        """Keep a result."""
        new = await insist(f"a result of run {self.run.id}", lambda: self._recorder.resulted(self.run, result))
        if new:
            self.tally.add_result(result)
            await self._check()

    async def take_samples(self) -> None:
        """Take a round of samples; one that cannot be taken or kept costs the run nothing else."""
        with Edge(log, f"a round of samples of run {self.run.id} is lost"):
            roles = {node.name: node.role for node in self.run.taking_part}
            leases = self._farm.leases.values()
            samples = take_samples(time.time(), self._farm.nodes, roles, self.tally.succeeded_on, leases)
            for sample in samples:
                self.tally.add_sample(sample)
            await self._recorder.sampled(self.run, samples)
        await self._check()

    async def _check(self) -> None:
        """Tell each limit that cannot hold any more, once."""
        found = [one for one in broken(self.suite.limits, self.tally, self.planned) if one.name not in self._broken]
        if not found:
            return
        self._broken.update(outcome.name for outcome in found)
        for outcome in found:
            await self.note("limit_exceeded", f"{outcome.name} is {outcome.wanted:g}, and it came to {outcome.got:g}")
        self.on_broken(tuple(found))

    def progressed(self, progress: Mapping[str, Any]) -> None:
        """Tell progress."""
        self._recorder.progressed(self.run, to_json(progress))

    def seated(self, node: str, status: str, detail: str) -> None:
        """Tell what a node's server does."""
        # Readers of earlier versions know the status as the phase of a node without a case.
        self.progressed({"node": node, "case": None, "status": status, "phase": status, "detail": detail})

    # ---- the end ----

    async def end(self, ending: Ending, left: list[str], missing: Missing) -> BenchmarkRun:
        """Return the run as it ended; its recorder saves it when the report is there.

        Parameters
        ----------
        left
            Sentences about what could not be cleaned up yet.
        missing
            What cases without a result count as.
        """
        known = await insist(f"the end of run {self.run.id}", lambda: self._recorder.store.outcomes(self.run.id))
        for result in list(missing_results(self.run, known, missing)):
            await self.keep(result)
        limits = outcomes(self.suite.limits, self.tally)
        self.run = dataclasses.replace(
            self.run,
            state=ending.state,
            detail="; ".join(filter(None, [ending.detail, *left])),
            ended_at=time.time(),
            limits=limits,
            passed=ending.state == "completed" and all(outcome.held for outcome in limits),
        )
        return self.run

    def elapsed_seconds(self) -> float:
        """Return the seconds since the run was asked for."""
        return seconds_since(self.cursor.created)
