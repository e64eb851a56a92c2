"""The runs of this service: several at a time on different nodes, each kept in the store and ended by a report.

A run belongs to the store, not to this process: a service that is stopped or killed leaves its runs as they are, and
the next one goes on with them at its start.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from traitlets.config import LoggingConfigurable

from ..errors import AgentFarmError, ConflictError
from ..faults import Edge
from ..records import to_json
from ..services.followers import Followers
from .clock import moment
from .counters import BenchmarkCounters
from .definition import Suite
from .ledger import Ledger, insist
from .models import BenchmarkRun, CaseResult, Cursor, Ending, RunEvent, RunRequest, Sample
from .preparation import prepare, suite_of
from .report import Report, ReportRenderer, write_report
from .runner import Runner, Surroundings
from .store import STORE_ERRORS, BenchmarkStore
from .suites import SuiteCatalogue
from .sweeper import Sweeper

#: How long the end of the service waits for its runs to be left as they are.
CLOSE_SECONDS = 8.0
#: The newest results that a run's view has; the others are added up in it, and are in the report.
VIEW_RESULTS = 1000


@dataclass
class _Going:
    """A run that goes."""

    runner: Runner
    task: asyncio.Task[None]
    #: The newest of each lane and server.
    progress: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)


class Bench(LoggingConfigurable):
    """Starts, follows and ends runs; the runners' recorder.

    Parameters
    ----------
    store
        The database.
    catalogue
        The suites.
    world
        What runs need of the world.
    counters
        Is told every result and every run that ended.
    reports_dir
        Folder in which a run's report is written, in a folder of its own.
    renderer
        Makes reports in every form.
    """

    def __init__(
        self,
        store: BenchmarkStore,
        catalogue: SuiteCatalogue,
        world: Surroundings,
        counters: BenchmarkCounters,
        reports_dir: Path,
        renderer: ReportRenderer,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._store, self.catalogue, self._world = store, catalogue, world
        self._counters, self.reports_dir, self._renderer = counters, reports_dir, renderer
        self._followers = Followers()
        self._starting = asyncio.Lock()
        self._going: dict[str, _Going] = {}
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def store(self) -> BenchmarkStore:
        """The database."""
        return self._store

    async def open(self) -> None:
        """Bring the counters to where they were, and go on with what an earlier service left."""
        left = await self.store.open()
        await asyncio.to_thread(self.catalogue.load)
        async for suite, result in self.store.each_result():
            self._counters.count_case(_bare(suite), result)
        for suite, state in await self.store.ended():
            self._counters.count_run(_bare(suite, state))
        for run, cursor in left:
            await self._resume(run, cursor)
        sweep = Sweeper(self._world, self._nodes_of_runs).sweep()
        self._sweeping = asyncio.create_task(sweep, name="benchmark-sweep")

    async def _resume(self, run: BenchmarkRun, cursor: Cursor | None) -> None:
        """Go on with a run, or end it where that is impossible."""
        try:
            if cursor is None:
                raise ConflictError("an earlier version of the service began it")
            suite = suite_of(run)
            notebooks = await self._notebooks(run)
        except AgentFarmError as exc:
            self.log.warning("run %s cannot go on: %s", run.id, exc.message)
            ended = replace(run, state="interrupted", detail=f"it could not go on: {exc.message}", ended_at=time.time())
            await self._ended(replace(ended, passed=False))
            return
        self.log.info("run %s of suite %s goes on", run.id, run.suite)
        self._launch(run, cursor, suite, notebooks, resumed=True)

    async def _notebooks(self, run: BenchmarkRun) -> dict[str, Mapping[str, Any]]:
        kept = run.definition.get("notebooks")
        hashes = kept if isinstance(kept, Mapping) else {}
        texts = {case: await self.store.notebook(str(sha256)) for case, sha256 in hashes.items()}
        return {case: await asyncio.to_thread(json.loads, text) for case, text in texts.items()}

    def _launch(
        self,
        run: BenchmarkRun,
        cursor: Cursor,
        suite: Suite,
        notebooks: Mapping[str, Mapping[str, Any]],
        *,
        resumed: bool,
    ) -> None:
        ledger = Ledger(run, cursor, suite, self._world.farm, self)
        runner = Runner(ledger, notebooks, self._world, resumed=resumed, parent=self)
        task = asyncio.create_task(self._carry_out(runner), name=f"benchmark-{run.id}")
        self._going[run.id] = _Going(runner, task)

    async def close(self) -> None:
        """Leave the runs as they are for the next service; a second call does nothing."""
        tasks = {going.task for going in self._going.values()}
        if self._sweeping is not None:
            tasks.add(self._sweeping)
        self._sweeping = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        self._going.clear()
        await self.store.close()

    # ---- what users do ----

    async def start(self, request: RunRequest, by: str) -> BenchmarkRun:
        """Start a run and return it.

        Raises
        ------
        ConflictError
            A run that is going has some of the nodes, or no node can take part.
        NotFoundError
            There is no such suite.
        InvalidField
            A node is not known, a parameter or a notebook cannot be used.
        FarmUnavailable
            The controller does not answer.
        """
        async with self._starting:
            suite = await asyncio.to_thread(self.catalogue.get, request.suite)
            await self._world.farm.ready()
            run, contents = await prepare(suite, request, self._world.farm.nodes, by)
            for content in contents.values():
                await self.store.add_notebook(content)
            notebooks = {case: json.loads(content) for case, content in contents.items()}
            cursor = Cursor(created=moment(), alive=moment())
            await self.store.add(run, cursor)
            self._launch(run, cursor, suite, notebooks, resumed=False)
        return run

    def nodes(self) -> list[dict[str, Any]]:
        """Return what those who choose nodes for a run want to know of each."""
        views = sorted(self._world.farm.nodes.values(), key=lambda view: str(view["name"]))
        return [
            {
                "name": view["name"],
                "role": view["spec"]["role"],
                "labels": view["spec"]["labels"],
                "status": view["status"],
                "eligible": view["eligible"],
                "detail": view["detail"],
                "gpus": len((view["telemetry"] or {}).get("gpus", ())),
            }
            for view in views
        ]

    async def cancel(self, run_id: str, by: str) -> BenchmarkRun:
        """Ask for the end of a run and return it as it is now; its servers are stopped in a moment.

        Raises
        ------
        NotFoundError
            There is no such run.
        ConflictError
            It has ended.
        """
        run = await self.store.run(run_id)
        going = self._going.get(run_id)
        if not run.going or going is None:
            raise ConflictError(f"run {run_id} has ended: it is {run.state}")
        await going.runner.end(Ending("cancelled", f"cancelled by {by}", "cancelled"))
        return going.runner.run

    async def view(self, run_id: str) -> dict[str, Any]:
        """Return a run with its newest results, all of them added up, its events and the progress of its lanes."""
        run = await self.store.run(run_id)
        results = await self.store.results(run_id, newest=VIEW_RESULTS)
        outcomes = await self.store.outcomes(run_id)
        events = await self.store.events(run_id)
        going = self._going.get(run_id)
        progress = list(going.progress.values()) if going is not None and run.going else []
        told = {"results": to_json(results), "outcomes": outcomes, "events": to_json(events), "progress": progress}
        return {**to_json(run), **told}

    async def follow(self, run_id: str) -> AsyncIterator[tuple[str, Any]]:
        """Follow a run: its view as `run`, then `run`, `result`, `progress`, `sample`, `event` as they happen."""
        following = self._followers.follow(run_id)
        with ExitStack() as undo:
            undo.callback(following.close)
            view = await self.view(run_id)
            undo.pop_all()
        return following.events([("run", view)], ended=view["state"] not in ("starting", "running"))

    async def report(self, run_id: str, against: str | None = None) -> Report:
        """Return what the report of a run is made from, compared with that of another run if one is named.

        Raises
        ------
        NotFoundError
            There is no such run.
        """
        baseline = None if against is None else await self.report(against)
        run = await self.store.run(run_id)
        results, samples = await self.store.results(run_id), await self.store.samples(run_id)
        return Report(run, results, samples, await self.store.events(run_id), baseline)

    async def render(self, run_id: str, form: str, against: str | None = None) -> bytes:
        """Return the report of a run in one of the forms, compared with Prometheus where one is configured.

        Raises
        ------
        NotFoundError
            There is no such run.
        ConflictError
            It cannot be printed here.
        """
        return await self._renderer.render(await self._renderer.checked(await self.report(run_id, against)), form)

    # ---- recorder of the runners ----

    async def changed(self, run: BenchmarkRun) -> None:
        """Keep and tell a new state."""
        await self.store.save(run)
        self._followers.tell(run.id, "run", await self.view(run.id))

    async def resulted(self, run: BenchmarkRun, result: CaseResult) -> bool:
        """Keep, count and tell a result; return False when it was known."""
        if not await self.store.add_result(run.id, result):
            return False
        self._counters.count_case(run, result)
        self._followers.tell(run.id, "result", to_json(result))
        return True

    async def sampled(self, run: BenchmarkRun, samples: list[Sample]) -> None:
        """Keep and tell a round of samples."""
        await self.store.add_samples(run.id, samples)
        self._followers.tell(run.id, "sample", to_json(samples))

    async def happened(self, run: BenchmarkRun, event: RunEvent) -> None:
        """Keep and tell an event."""
        await self.store.add_event(run.id, event)
        self._followers.tell(run.id, "event", to_json(event))

    def progressed(self, run: BenchmarkRun, progress: Mapping[str, Any]) -> None:
        """Remember and tell the progress of a lane, or of a node's server, whose lanes do nothing then."""
        going = self._going.get(run.id)
        if going is None:
            return
        key = (progress["node"], progress.get("lane", 0))
        if going.progress.get(key) == progress:
            return
        if progress["case"] is None:
            for lane in [lane for lane in going.progress if lane[0] == progress["node"]]:
                del going.progress[lane]
        going.progress[key] = progress
        self._followers.tell(run.id, "progress", progress)

    # ---- the task of a run ----

    async def _carry_out(self, runner: Runner) -> None:
        with Edge(self.log, f"run {runner.run.id} ended by a fault") as edge:
            ended = await runner.execute()
        if edge.fault is not None:  # it must end this run visibly, not leave it going for ever
            ended = await self._after_fault(runner, _said(edge.fault))
        await self._ended(ended)

    async def _after_fault(self, runner: Runner, why: str) -> BenchmarkRun:
        with Edge(self.log, f"run {runner.run.id} could not be cleaned up") as edge:
            ended = await runner.finish(Ending("failed", why))
        return ended if edge.fault is None else _failed(runner.run, why)

    async def _ended(self, ended: BenchmarkRun) -> None:
        """Write the report, then save and tell that the run ended: who sees that finds the report."""
        self._counters.count_run(ended)
        await self._write_report(ended)
        await insist(f"the end of run {ended.id}", lambda: self.store.save(ended))
        self._going.pop(ended.id, None)
        try:
            self._followers.tell(ended.id, "run", await self.view(ended.id))
        except STORE_ERRORS as exc:
            self.log.warning("who follows run %s is not told its end: %s", ended.id, exc)
        finally:
            self._followers.finish(ended.id)
        self.log.info("run %s of suite %s is %s %s", ended.id, ended.suite, ended.state, ended.detail)

    async def _write_report(self, run: BenchmarkRun) -> None:
        """Write the report's files; whatever keeps it from that does not undo the run."""
        with Edge(self.log, f"the report of run {run.id} could not be written"):  # database, disk, plots, templates
            report = await self._renderer.checked(replace(await self.report(run.id), run=run))
            await write_report(report, self.reports_dir / run.id)

    def _nodes_of_runs(self, *, exclusive: bool) -> set[str]:
        runs = [going.runner.run for going in self._going.values()]
        return {node.name for run in runs if run.exclusive or not exclusive for node in run.taking_part}


def _bare(suite: str, state: Any = "completed") -> BenchmarkRun:
    """Return a run of which counters know the suite and the state."""
    return BenchmarkRun("", suite, state, "", "", 0.0)


def _said(fault: Exception) -> str:
    while isinstance(fault, ExceptionGroup):  # of lanes that failed together, the first says why
        fault = fault.exceptions[0]
    return fault.message if isinstance(fault, AgentFarmError) else f"a fault of the service ({type(fault).__name__})"


def _failed(run: BenchmarkRun, why: str) -> BenchmarkRun:
    return replace(run, state="failed", detail=why, ended_at=time.time(), passed=False)
