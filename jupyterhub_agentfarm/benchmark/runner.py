"""One run from start to end, over as many lives of the service as it takes.

::

    exclusive:  drain the nodes, wait until they are empty
    each phase: start the servers of its nodes at the same moment, wait until each is ready or is not
                warm-up, then what counts, as :mod:`.lanes` says
    in every outcome: stop and forget the servers, give the nodes back, then say how the run ended

What was decided is written down before it is done, and where the run is at every step. A service that is started anew
makes the same :class:`Runner` from that and calls the same `execute`: servers that run are taken over, cases that
execute are found again by their keys, phases go on for what is left of them, and an end that was begun is finished.
Samples are taken from the first step to the last, at every start and end of a phase too.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import aiohttp
from traitlets.config import LoggingConfigurable

from ..controller.farm_watch import FarmWatch
from ..errors import AgentFarmError, ConflictError
from ..traitlets import Seconds
from .cases import CaseOnNode
from .clock import moment, seconds_since
from .exclusive import NodeKeeper
from .lanes import Lane, Lanes, Work, all_of
from .ledger import Ledger
from .models import BenchmarkRun, Ending, LimitOutcome, Outcome, Phase, RunEvent, RunNode
from .plan import deadline_seconds, lanes_of, parameters_of
from .seats import Seat, SeatTimes
from .servers import NodeServers

#: How often a run says that its service is there, in seconds: as exact is the length of a gap.
BEAT_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a run needs of the world."""

    servers: NodeServers
    keeper: NodeKeeper
    farm: FarmWatch
    #: Gives the session for requests to the servers.
    session: Callable[[], aiohttp.ClientSession]


class Runner(LoggingConfigurable):
    """Carries out one run, or goes on with it.

    Parameters
    ----------
    ledger
        What is written down of the run.
    notebooks
        The cases' notebooks.
    world
        What the run needs of the world.
    resumed
        Whether an earlier life of the service began it.
    """

    patience = Seconds(
        60,
        help="How long a server that the Hub takes for running may not be reachable before its case is lost and the "
        "server started anew, in seconds. Smaller: a dead server costs less time; larger: longer faults of the network "
        "do no harm. A node that the controller reports as down is given up at once, a Hub that is away is waited for.",
    ).tag(config=True)
    poll_interval = Seconds(
        1,
        help="Time between two looks at how far a running notebook is, in seconds; its end is known at once. Smaller: "
        "progress is smoother; larger: fewer requests. Durations are measured on the node and do not depend on it.",
    ).tag(config=True)
    rejoin = Seconds(
        120,
        help="How long repetitions wait for a node to come back when none is left, in seconds. Then their cases are "
        "lost. Runs for a duration wait until it is over.",
    ).tag(config=True)

    def __init__(
        self,
        ledger: Ledger,
        notebooks: Mapping[str, Mapping[str, Any]],
        world: Surroundings,
        *,
        resumed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ledger, self._notebooks, self._world, self._resumed = ledger, notebooks, world, resumed
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._seats: dict[str, Seat] = {}
        self._keeping: dict[str, asyncio.Task[None]] = {}
        self._cases: dict[str, CaseOnNode] = {}
        ledger.on_broken = self._limits_broken

    @property
    def run(self) -> BenchmarkRun:
        """The run as it is now."""
        return self.ledger.run

    # ---- what others do ----

    async def end(self, ending: Ending) -> None:
        """Have the run end; the first who asks decides how, also when the service is killed in the middle of it."""
        if self._ending.done() or self.ledger.cursor.ending is not None:
            return
        await self.ledger.point(ending=ending)
        if not self._ending.done():
            self._ending.set_result(ending)

    def _limits_broken(self, broken: tuple[LimitOutcome, ...]) -> None:
        if self.ledger.suite.limits.fail_fast and not self._ending.done():
            names = " and ".join(outcome.name for outcome in broken)
            self._ending.set_result(Ending("failed", f"{names} cannot hold any more", "cancelled"))

    async def execute(self) -> BenchmarkRun:
        """Carry the run out and return it, ended.

        Cancelled, it leaves servers and nodes as they are, for the next life of the service to go on with.
        """
        await self._begin()
        async with self._world.session() as session:
            beside = [self._beside(self._sample(), "samples"), self._beside(self._beat(), "beat")]
            try:
                ending = await self._until_end(session)
            finally:
                await _cancelled([*beside, *self._keeping.values()])
        return await self.finish(ending)

    async def finish(self, ending: Ending) -> BenchmarkRun:
        """Clean up, and return the run as it ended; also for a run that a fault ended."""
        await self.ledger.point(ending=ending)
        if ending.state == "cancelled":
            await self.ledger.note("cancelled", ending.detail)
        names = [node.name for node in self.run.taking_part]
        left = await self._world.servers.stop_all(names)
        if self.run.exclusive:
            left += await self._world.keeper.give_back(names)
        return await self.ledger.end(ending, left, lambda node: self._missing(node, ending))

    def _missing(self, node: str, ending: Ending) -> tuple[Outcome, str]:
        seat = self._seats.get(node)
        if seat is None or not seat.why:
            return ending.missing, ending.detail
        return ("lost" if seat.seen else "failed"), seat.why

    # ---- from start to end ----

    async def _begin(self) -> None:
        if not self._resumed:
            await self.ledger.note("run_started", f"asked for by {self.run.requested_by}")
            return
        gap = await self.ledger.restore()
        await self.ledger.note("service_gap", "the benchmark service was away", gap)
        await self.ledger.beat()

    async def _until_end(self, session: aiohttp.ClientSession) -> Ending:
        """Return how the run ends: by its work, its deadline, a limit, or because somebody asked."""
        if self.ledger.cursor.ending is not None:
            return self.ledger.cursor.ending
        allowed = deadline_seconds(self.ledger.suite, self.run.phases)
        left = allowed - self.ledger.elapsed_seconds()
        if left <= 0:
            return Ending("interrupted", "the benchmark service was away until the run's deadline had passed", "lost")
        work = asyncio.create_task(self._work(session), name=f"work-{self.run.id}")
        try:
            await asyncio.wait({work, self._ending}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for seat in self._seats.values():
                seat.leaving = True
            if self._ending.done():
                return self._ending.result()
            if work.done():
                return work.result()
            return Ending("failed", f"the run's deadline of {allowed:g} s passed", "timed_out")
        finally:
            await _cancelled([work])
            await self.ledger.take_samples()  # the last round knows what the last case came to

    async def _work(self, session: aiohttp.ClientSession) -> Ending:
        try:
            if self.run.exclusive:
                await self._drain()
        except ConflictError as exc:
            return Ending("failed", exc.message)
        for number, phase in enumerate(self.run.phases):
            if number < self.ledger.cursor.phase:
                continue
            if not await self._phase(number, phase, session):
                return Ending("failed", "no node's server became ready")
        return Ending("completed", "")

    # ---- exclusive nodes ----

    async def _drain(self) -> None:
        names = [node.name for node in self.run.taking_part if node.name not in self.ledger.cursor.drained]
        for name in names:
            await self._insist_on_drain(name)
        await all_of(self._until_empty(name) for name in names)

    async def _until_empty(self, node: str) -> None:
        begun = time.monotonic()
        await self._world.keeper.until_empty(node, lambda why: self.ledger.seated(node, "draining", why))
        seconds = time.monotonic() - begun
        await self.ledger.point(drained=tuple(sorted({*self.ledger.cursor.drained, node})))
        await self.ledger.happened(RunEvent(time.time(), "drained", node, "it is kept for the run", seconds))

    async def _insist_on_drain(self, node: str) -> None:
        """Have the controller drain a node, also when it is away for a while."""
        reason = f"benchmark run {self.run.id} of suite {self.run.suite}, by {self.run.requested_by}"
        while True:
            try:
                return await self._world.keeper.drain(node, reason)
            except ConflictError:
                raise
            except AgentFarmError as exc:
                self.ledger.seated(node, "draining", exc.message)
            await asyncio.sleep(self.poll_interval)

    # ---- phases ----

    async def _phase(self, number: int, phase: Phase, session: aiohttp.ClientSession) -> bool:
        """Carry out a phase; return False when it is the first and no server became ready."""
        seats = [self._seat(name, session) for name in phase.nodes]
        await all_of(seat.until_settled() for seat in seats)
        if self.run.state == "starting":
            if not any(seat.ready for seat in seats):
                return False
            await self.ledger.change(state="running", started_at=time.time(), detail="")
        lanes = await self._lanes(phase, seats)
        await lanes.steps(phase.warm_up * len(self.run.cases))
        resumed = await self._begin_phase(phase)
        await self._measured(phase, lanes, resumed=resumed)
        await self._end_phase(number, phase)
        return True

    async def _begin_phase(self, phase: Phase) -> bool:
        """Begin what counts of a phase; return whether an earlier life of the service did."""
        if self.ledger.cursor.phase_began is not None:
            return True
        await self.ledger.take_samples()
        await self.ledger.note("phase_started", phase.name)
        await self.ledger.point(phase_began=moment())
        return False

    async def _measured(self, phase: Phase, lanes: Lanes, *, resumed: bool) -> None:
        if phase.repetitions is not None:
            await lanes.steps((phase.warm_up + phase.repetitions) * len(self.run.cases))
        else:
            left = (phase.duration_seconds or 0) - self._phase_seconds()
            await lanes.free(left, resumed=resumed)

    def _phase_seconds(self) -> float:
        began = self.ledger.cursor.phase_began
        return 0.0 if began is None else seconds_since(began)

    async def _end_phase(self, number: int, phase: Phase) -> None:
        await self.ledger.take_samples()
        await self.ledger.note("phase_ended", phase.name, self._phase_seconds())
        await self.ledger.point(phase=number + 1, phase_began=None)

    async def _lanes(self, phase: Phase, seats: list[Seat]) -> Lanes:
        done = await self.ledger.positions(phase.name)
        numbered = ((seat, lane) for seat in seats for lane in range(lanes_of(phase, seat.node)))
        lanes = [Lane(seat, lane, done.get((seat.name, lane), 0)) for seat, lane in numbered]
        suite, given = self.ledger.suite, self.run.parameters
        shared, factor = suite.shared_parameters, phase.parameters_factor
        cases = tuple(
            dataclasses.replace(case, parameters=parameters_of(case, given, shared, factor)) for case in suite.cases
        )
        work = Work(self.run.id, phase, cases, self._notebooks)
        return Lanes(work, lanes, self._cases, self.ledger.keep, self.rejoin)

    def _seat(self, name: str, session: aiohttp.ClientSession) -> Seat:
        """Return a node's place; its server is started with the first phase that needs it, and stays."""
        if name not in self._seats:
            node, world = self._node(name), self._world
            times = SeatTimes(self.patience, self.poll_interval)
            seat = self._seats[name] = Seat(node, world.servers, world.farm, session, self.ledger, times)
            self._cases[name] = CaseOnNode(
                name, seat, self.ledger.progressed, self.poll_interval, lambda: _skew(world.farm, name)
            )
            keeping = seat.keep(fresh=not self._resumed, lost_at=self.ledger.tally.away.get(name))
            self._keeping[name] = self._beside(keeping, name)
        return self._seats[name]

    def _node(self, name: str) -> RunNode:
        return next(node for node in self.run.nodes if node.name == name)

    # ---- beside the work ----

    def _beside(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """Have something done while the run goes; a fault of it ends the run."""
        task = asyncio.create_task(work, name=f"{what}-{self.run.id}")
        task.add_done_callback(self._fault)
        return task

    def _fault(self, task: asyncio.Task[None]) -> None:
        fault = None if task.cancelled() else task.exception()
        if fault is not None and not self._ending.done():
            self._ending.set_exception(fault)

    async def _sample(self) -> None:
        while True:
            await self.ledger.take_samples()
            await asyncio.sleep(self.run.sample_interval_seconds or self.ledger.suite.sample_interval_seconds)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await self.ledger.beat()


def _skew(farm: FarmWatch, node: str) -> float:
    """Return the service's clock minus a node's, as the controller told it last."""
    return float((farm.nodes.get(node) or {}).get("clock_skew_seconds") or 0.0)


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when they have ended, whatever came of them."""
    listed = list(tasks)
    for task in listed:
        task.cancel()
    await asyncio.gather(*listed, return_exceptions=True)
