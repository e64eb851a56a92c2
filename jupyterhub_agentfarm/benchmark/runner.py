"""One run from start to end.

::

    start the servers on all nodes at the same moment
    wait until each is ready or has failed                      (barrier)
    for each case in order:  run it on every node that is ready (barrier)
    in every outcome: stop and forget the servers, then say how the run ended

Samples are taken from the first step to the last; a round that cannot be kept is lost, and the run goes on. A case
begins on all nodes at once, so what is measured is the farm under that load, and not one node while its neighbours
idle. A node that is lost gives `lost` for its remaining cases; the others go on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import aiohttp
from traitlets.config import LoggingConfigurable

from ..controller.farm_watch import FarmWatch
from ..errors import HubApiError, ServerDied
from ..records import to_json
from ..runs.client import Patience, ServerRuns
from ..traitlets import Seconds
from .cases import CaseOnNode
from .models import BenchmarkRun, CaseResult, Outcome, RunNode, RunState, Sample
from .sampler import take_samples
from .servers import NodeServers
from .store import STORE_ERRORS
from .suites import Case, Suite


class Recorder(Protocol):
    """Who is told what a run comes to."""

    async def changed(self, run: BenchmarkRun) -> None:
        """Take a new state."""

    async def resulted(self, run: BenchmarkRun, result: CaseResult) -> None:
        """Take a result."""

    async def sampled(self, run: BenchmarkRun, samples: list[Sample]) -> None:
        """Take a round of samples."""

    def progressed(self, run: BenchmarkRun, progress: Mapping[str, Any]) -> None:
        """Take the progress of a case on a node."""


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a run ended, or is to end."""

    state: RunState
    detail: str
    #: Outcome of the cases that there is no result of.
    missing: Outcome


class Runner(LoggingConfigurable):
    """Carries out one run.

    Parameters
    ----------
    run
        The run, in state `starting`.
    suite
        Its suite.
    servers
        Starts and stops servers.
    farm
        The farm's newest state.
    recorder
        Is told everything.
    session
        Gives the session for requests to the servers.
    """

    patience = Seconds(
        60,
        help="How long a server may not be reachable before its case is lost, in seconds. Smaller: a dead server "
        "holds up the other nodes for a shorter time; larger: longer faults of the network or the proxy do no harm. "
        "A node that the controller reports as down is given up at once.",
    ).tag(config=True)
    poll_interval = Seconds(
        1,
        help="Pause between two looks at a running notebook, in seconds. Smaller: the next case begins sooner and "
        "progress is smoother; larger: fewer requests. Durations are measured on the node and do not depend on it.",
    ).tag(config=True)

    def __init__(
        self,
        run: BenchmarkRun,
        suite: Suite,
        servers: NodeServers,
        farm: FarmWatch,
        recorder: Recorder,
        session: Callable[[], aiohttp.ClientSession],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run = run
        self._suite, self._servers, self._farm = suite, servers, farm
        self._recorder, self._session = recorder, session
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._done: set[tuple[str, str]] = set()
        self._succeeded: Counter[str] = Counter()
        self._given_up: dict[str, CaseResult] = {}

    def end(self, state: RunState, detail: str) -> None:
        """Ask for the run's end; the first who asks decides how it ended."""
        if not self._ending.done():
            self._ending.set_result(Ending(state, detail, "cancelled"))

    async def execute(self) -> BenchmarkRun:
        """Carry the run out and return it, ended."""
        sampling = asyncio.create_task(self._sample(), name=f"samples-{self.run.id}")
        try:
            ending = await self._work_or_end()
        finally:
            left = await self._clean_up(sampling)
        await self._fill(ending)
        detail = "; ".join(filter(None, [ending.detail, *left]))
        await self._change(state=ending.state, detail=detail, ended_at=time.time())
        return self.run

    async def _clean_up(self, sampling: asyncio.Task[None]) -> list[str]:
        """End the samples, whatever came of them, and the servers; return why servers are left."""
        sampling.cancel()
        stopping = asyncio.create_task(self._servers.stop_all([node.name for node in self.run.taking_part]))
        await asyncio.wait({sampling})
        return await asyncio.shield(stopping)

    async def _work_or_end(self) -> Ending:
        """Return how the run ended: by its work, its deadline, or because somebody asked."""
        work = asyncio.create_task(self._work(), name=f"work-{self.run.id}")
        try:
            await asyncio.wait({work, self._ending}, timeout=self._suite.timeout_seconds, return_when="FIRST_COMPLETED")
            if work.done():
                return work.result()
            if self._ending.done():
                return self._ending.result()
            seconds = f"{self._suite.timeout_seconds:g}"
            return Ending("failed", f"the suite's deadline of {seconds} s passed", "timed_out")
        finally:
            work.cancel()
            await asyncio.wait({work})
            await self._take_samples()  # the last round knows what the last case came to

    async def _work(self) -> Ending:
        nodes: dict[str, CaseOnNode] = {}
        async with self._session() as session:
            await _all(self._start(node, nodes, session) for node in self.run.taking_part)
            if not nodes:
                return Ending("failed", "no node's server became ready", "failed")
            await self._change(state="running", started_at=time.time(), detail="")
            for case in self._suite.cases:
                notebook = await self._notebook(case)
                await _all(self._case(node, case, notebook) for node in nodes.values())
        return Ending("completed", "", "failed")

    async def _start(self, node: RunNode, nodes: dict[str, CaseOnNode], session: aiohttp.ClientSession) -> None:
        self._progress({"node": node.name, "case": None, "phase": "starting"})
        try:
            url = await self._servers.start(node.name, node.gpus)
        except (HubApiError, ServerDied) as exc:
            self._given_up[node.name] = CaseResult(node.name, "", "failed", exc.message)
            self._progress({"node": node.name, "case": None, "phase": "not started", "detail": exc.message})
            return
        self._progress({"node": node.name, "case": None, "phase": "ready"})
        patience = Patience(self.patience, lambda: self._farm.absent(node.name), self.poll_interval)
        runs = ServerRuns(session, url, node.name)
        nodes[node.name] = CaseOnNode(node.name, runs, patience, self._progress, self.poll_interval)

    async def _case(self, node: CaseOnNode, case: Case, notebook: Mapping[str, Any]) -> None:
        if node.node in self._given_up:
            return
        values = {**case.parameters, **self.run.parameters}
        wanted = dataclasses.replace(case, parameters=values)
        result = await node.measure(wanted, notebook, f"{self.run.id}-{node.node}-{case.name}")
        if result.outcome == "lost":
            self._given_up[node.node] = result
        await self._keep(result)

    async def _notebook(self, case: Case) -> Mapping[str, Any]:
        path = self._suite.notebook_path(case)
        return dict(await asyncio.to_thread(lambda: json.loads(path.read_bytes())))

    async def _keep(self, result: CaseResult) -> None:
        self._done.add((result.node, result.case))
        self._succeeded[result.node] += result.outcome == "succeeded"
        await self._recorder.resulted(self.run, result)

    async def _fill(self, ending: Ending) -> None:
        """Give every case on every node a result."""
        for node in self.run.nodes:
            for case in self._suite.cases:
                if (node.name, case.name) in self._done:
                    continue
                if node.skipped:
                    result = CaseResult(node.name, case.name, "skipped", node.skipped)
                elif (given_up := self._given_up.get(node.name)) is not None:
                    result = dataclasses.replace(
                        given_up, case=case.name, started_at=None, duration_seconds=None, error=None
                    )
                else:
                    result = CaseResult(node.name, case.name, ending.missing, ending.detail)
                await self._keep(result)

    async def _sample(self) -> None:
        while True:
            await self._take_samples()
            await asyncio.sleep(self._suite.sample_interval_seconds)

    async def _take_samples(self) -> None:
        roles = {node.name: node.role for node in self.run.taking_part}
        samples = take_samples(time.time(), self._farm.nodes, roles, self._succeeded)
        try:
            await self._recorder.sampled(self.run, samples)
        except STORE_ERRORS as exc:
            self.log.warning("a round of samples of run %s is lost: %s", self.run.id, exc)

    async def _change(self, **changes: Any) -> None:
        self.run = dataclasses.replace(self.run, **changes)
        await self._recorder.changed(self.run)

    def _progress(self, progress: Mapping[str, Any]) -> None:
        self._recorder.progressed(self.run, to_json(progress))


async def _all(work: Any) -> None:
    """Do everything at once; return when all is done, also when one is cancelled."""
    async with asyncio.TaskGroup() as group:
        for item in work:
            group.create_task(_awaited(item))


async def _awaited(item: Awaitable[None]) -> None:
    await item
