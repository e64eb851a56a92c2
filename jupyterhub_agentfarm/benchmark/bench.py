"""The runs of this service: one at a time, kept in the store, followed by many, ended by a report."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from traitlets.config import LoggingConfigurable

from ..controller.farm_watch import FarmWatch
from ..errors import AgentFarmError, ConflictError
from ..faults import Edge
from ..records import to_json
from ..services.followers import Followers
from .counters import BenchmarkCounters
from .models import BenchmarkRun, CaseResult, RunRequest, Sample
from .provenance import choose_nodes, describe
from .report import Report, write_report
from .runner import Runner
from .servers import NodeServers
from .store import STORE_ERRORS, BenchmarkStore
from .suites import SuiteCatalogue

#: How long the end of the service waits for a run to stop its servers.
CLOSE_SECONDS = 8.0
#: How long the start of a run waits for the servers of interrupted runs to end; less than a client waits for an answer.
CLEARING_SECONDS = 5.0
#: Pauses before the end of a run is written again, when the database could not take it.
SAVE_FIRST_PAUSE_SECONDS, SAVE_MAX_PAUSE_SECONDS = 0.5, 30.0


class Bench(LoggingConfigurable):
    """Starts, follows and ends runs; the runners' recorder.

    Parameters
    ----------
    store
        The open database.
    catalogue
        The suites.
    farm
        The farm's newest state.
    servers
        Starts and stops servers.
    counters
        Is told every result and every run that ended.
    reports_dir
        Folder in which a run's report is written, in a folder of its own.
    session
        Gives the session for requests to the servers.
    """

    def __init__(
        self,
        store: BenchmarkStore,
        catalogue: SuiteCatalogue,
        farm: FarmWatch,
        servers: NodeServers,
        counters: BenchmarkCounters,
        reports_dir: Path,
        session: Callable[[], aiohttp.ClientSession],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.store, self.catalogue, self._farm, self._servers = store, catalogue, farm, servers
        self._counters, self.reports_dir, self._session = counters, reports_dir, session
        self._followers = Followers()
        self._starting = asyncio.Lock()
        self._runner: Runner | None = None
        self._task: asyncio.Task[None] | None = None
        self._clearing: asyncio.Task[None] | None = None
        self._progress: dict[str, Mapping[str, Any]] = {}

    async def open(self) -> None:
        """Mark what an earlier service left; bring the counters to where they were."""
        left = await self.store.open()
        await asyncio.to_thread(self.catalogue.load)
        pairs, ended = await self.store.totals()
        for run, result in pairs:
            self._counters.count_case(run, result)
        for run in ended:
            self._counters.count_run(run)
        if left:
            self._clearing = asyncio.create_task(self._clear(left), name="clear-interrupted-runs")

    async def _clear(self, runs: list[BenchmarkRun]) -> None:
        """Stop the servers of runs that were interrupted, and write their reports."""
        for run in runs:
            for sentence in await self._servers.stop_all([node.name for node in run.taking_part]):
                self.log.warning("interrupted run %s: %s", run.id, sentence)
            await self._write_report(run)

    async def _cleared(self) -> None:
        """Return when no server is stopped for an interrupted run: a new run's servers have the same names.

        Raises
        ------
        ConflictError
            It takes longer than `CLEARING_SECONDS`.
        """
        if self._clearing is not None:
            _, going = await asyncio.wait({self._clearing}, timeout=CLEARING_SECONDS)
            if going:
                raise ConflictError("the servers of an interrupted run are being stopped: try again in a minute")

    async def close(self) -> None:
        """End the run that goes, as interrupted; a second call does nothing."""
        if self._runner is not None:
            self._runner.end("interrupted", "the benchmark service was stopped")
        tasks = {task for task in (self._task, self._clearing) if task is not None}
        self._task = self._clearing = None
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.store.close()

    # ---- what users do ----

    async def start(self, request: RunRequest, by: str) -> BenchmarkRun:
        """Start a run and return it.

        Raises
        ------
        ConflictError
            Another run is going, an interrupted one is cleared up, or no node can take part.
        NotFoundError
            There is no such suite.
        InvalidField
            A node is not known.
        FarmUnavailable
            The controller does not answer.
        """
        async with self._starting:
            suite = await asyncio.to_thread(self.catalogue.get, request.suite)
            await self._farm.ready()
            if self._task is not None and not self._task.done():
                raise ConflictError("a benchmark run is going, and there is one at a time: wait for it or cancel it")
            await self._cleared()
            nodes = choose_nodes(self._farm.nodes, request.nodes, suite)
            definition, provenance = await describe(suite)
            run = BenchmarkRun(
                id=time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(3),
                suite=suite.name,
                state="starting",
                detail="the servers are being started",
                requested_by=by,
                created_at=time.time(),
                definition=definition,
                nodes=nodes,
                parameters=request.parameters,
                provenance=provenance,
            )
            await self.store.add(run)
            self._progress = {}
            runner = Runner(run, suite, self._servers, self._farm, self, self._session, parent=self)
            self._runner = runner
            self._task = asyncio.create_task(self._carry_out(runner), name=f"benchmark-{run.id}")
        return run

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
        if not run.going or self._runner is None or self._runner.run.id != run_id:
            raise ConflictError(f"run {run_id} has ended: it is {run.state}")
        self._runner.end("cancelled", f"cancelled by {by}")
        return self._runner.run

    async def view(self, run_id: str) -> dict[str, Any]:
        """Return a run with its results and, while it goes, the progress of each node."""
        run = await self.store.run(run_id)
        results = await self.store.results(run_id)
        progress = list(self._progress.values()) if run.going else []
        return {**to_json(run), "results": to_json(results), "progress": progress}

    async def follow(self, run_id: str) -> AsyncIterator[tuple[str, Any]]:
        """Follow a run: `run` with everything so far, then `run`, `result`, `progress` and `sample` as they happen."""
        following = self._followers.follow(run_id)
        with ExitStack() as undo:
            undo.callback(following.close)
            view = await self.view(run_id)
            undo.pop_all()
        return following.events([("run", view)], ended=view["state"] not in ("starting", "running"))

    async def report(self, run_id: str) -> Report:
        """Return what the report of a run is made from."""
        run = await self.store.run(run_id)
        return Report(run, await self.store.results(run_id), await self.store.samples(run_id))

    # ---- recorder of the runner ----

    async def changed(self, run: BenchmarkRun) -> None:
        """Keep and tell a new state."""
        if run.going:
            await self.store.save(run)
            self._followers.tell(run.id, "run", await self.view(run.id))

    async def resulted(self, run: BenchmarkRun, result: CaseResult) -> None:
        """Keep, count and tell a result."""
        await self.store.add_result(run.id, result)
        self._counters.count_case(run, result)
        self._followers.tell(run.id, "result", to_json(result))

    async def sampled(self, run: BenchmarkRun, samples: list[Sample]) -> None:
        """Keep and tell a round of samples."""
        await self.store.add_samples(run.id, samples)
        self._followers.tell(run.id, "sample", to_json(samples))

    def progressed(self, run: BenchmarkRun, progress: Mapping[str, Any]) -> None:
        """Remember and tell the progress of a node."""
        if self._progress.get(progress["node"]) != progress:
            self._progress[progress["node"]] = progress
            self._followers.tell(run.id, "progress", progress)

    # ---- the task ----

    async def _carry_out(self, runner: Runner) -> None:
        with Edge(self.log, f"run {runner.run.id} ended by a fault") as edge:
            ended = await runner.execute()
        if edge.fault is not None:  # it must end this run visibly, not leave it going for ever
            ended = _failed(runner.run, _said(edge.fault))
        self._counters.count_run(ended)
        # The report is there before the run is seen to have ended.
        await self._write_report(ended)
        await self._save(ended)
        try:
            self._followers.tell(ended.id, "run", await self.view(ended.id))
        except STORE_ERRORS as exc:
            self.log.warning("who follows run %s is not told its end: %s", ended.id, exc)
        finally:
            self._followers.finish(ended.id)
        self.log.info("run %s of suite %s is %s %s", ended.id, ended.suite, ended.state, ended.detail)

    async def _save(self, run: BenchmarkRun) -> None:
        """Write down that a run ended, again and again: otherwise it goes on for ever to who asks."""
        pause = SAVE_FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self.store.save(run)
            except STORE_ERRORS as exc:
                self.log.warning("the end of run %s is written again in %g s: %s", run.id, pause, exc)
            await asyncio.sleep(pause)
            pause = min(2 * pause, SAVE_MAX_PAUSE_SECONDS)

    async def _write_report(self, run: BenchmarkRun) -> None:
        """Write the report's files; whatever keeps it from that does not undo the run."""
        with Edge(self.log, f"the report of run {run.id} could not be written"):  # database, disk, plots, templates
            report = Report(run, await self.store.results(run.id), await self.store.samples(run.id))
            await write_report(report, self.reports_dir / run.id)


def _said(fault: Exception) -> str:
    return fault.message if isinstance(fault, AgentFarmError) else f"a fault of the service ({type(fault).__name__})"


def _failed(run: BenchmarkRun, why: str) -> BenchmarkRun:
    return replace(run, state="failed", detail=why, ended_at=time.time())
