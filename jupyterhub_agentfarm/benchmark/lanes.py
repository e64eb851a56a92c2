"""The work of one phase: its cases, in every lane of every node.

A lane is one of the cases that a node executes at once. What a lane does next follows from how many results it has in
the phase: position p is case p mod n of repetition p div n + 1. So a service that is started anew goes on from the
results that are kept, and every position gets exactly one result.

Repetitions are *steps*: a case begins in all lanes at once and the next when it has ended everywhere, so what is
measured is the farm under that load, and not one node while its neighbours idle. For a duration the lanes are *free*:
each goes on by itself until the time is over, so that a slow node holds up no other.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cases import CaseOnNode, Order
from .definition import Case
from .models import CaseResult, Outcome, Phase
from .seats import Seat

#: The longest pause of a lane whose cases end badly at once.
MAX_PAUSE_SECONDS = 30.0
#: A case that ended badly within so many seconds is followed by a pause.
HASTY_SECONDS = 1.0

Keep = Callable[[CaseResult], Awaitable[None]]


@dataclass(frozen=True)
class Work:
    """What every lane of a phase does."""

    run_id: str
    phase: Phase
    #: The suite's cases with the parameters that they have in the phase.
    cases: tuple[Case, ...]
    #: By case.
    notebooks: Mapping[str, Mapping[str, Any]]

    def order(self, seat: Seat, lane: int, position: int) -> Order:
        """Return what a lane does at a position."""
        node, gpus = seat.name, seat.gpus()
        case, repetition = self.cases[position % len(self.cases)], position // len(self.cases) + 1
        place = f"{node}/{self.phase.name}/{lane}/{repetition}/{case.name}"
        # Lanes of a server with several GPUs have one each; a single one needs no words.
        environment = {"CUDA_VISIBLE_DEVICES": gpus[lane % len(gpus)]} if len(gpus) > 1 else {}
        return Order(
            case=case,
            notebook=self.notebooks[case.name],
            key=f"{self.run_id}-{hashlib.sha256(place.encode()).hexdigest()[:32]}",
            phase=self.phase.name,
            lane=lane,
            repetition=repetition,
            warm_up=repetition <= self.phase.warm_up,
            environment=environment,
        )


class Lane:
    """One of the cases that a node executes at once."""

    def __init__(self, seat: Seat, number: int, done: int) -> None:
        self.seat, self.number = seat, number
        #: Results that it has in the phase.
        self.done = done
        self.pause_seconds = 0.0


class Lanes:
    """All lanes of a phase.

    Parameters
    ----------
    work
        What they do.
    lanes
        The lanes.
    cases_on
        Executes cases, by node.
    keep
        Takes every result.
    rejoin_seconds
        How long repetitions wait when no node is left.
    """

    def __init__(
        self,
        work: Work,
        lanes: Sequence[Lane],
        cases_on: Mapping[str, CaseOnNode],
        keep: Keep,
        rejoin_seconds: float,
    ) -> None:
        self._work, self._lanes, self._cases_on, self._keep = work, lanes, cases_on, keep
        self._rejoin_seconds = rejoin_seconds
        self._seats = list({lane.seat.name: lane.seat for lane in lanes}.values())

    # ---- repetitions ----

    async def steps(self, end: int) -> None:
        """Carry out every position before `end` that is not done yet, one after the other in all lanes at once."""
        for position in range(min((lane.done for lane in self._lanes), default=end), end):
            await all_of(seat.until_settled() for seat in self._seats)
            await self._wait_for_any()
            await all_of(self._step(lane, position) for lane in self._lanes if lane.done <= position)

    async def _wait_for_any(self) -> None:
        """When there is no node left, wait for one, but not for ever."""
        if any(seat.ready for seat in self._seats):
            return
        waiting = [asyncio.ensure_future(seat.until_ready()) for seat in self._seats]
        try:
            await asyncio.wait(waiting, timeout=self._rejoin_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _step(self, lane: Lane, position: int) -> None:
        if lane.seat.ready:
            await self._measure(lane, position)
            return
        order = self._work.order(lane.seat, lane.number, position)
        outcome: Outcome = "lost" if lane.seat.seen else "failed"
        await self._keep(order.result(lane.seat.name, outcome, lane.seat.why or "its server is not ready"))
        lane.done += 1

    # ---- durations ----

    async def free(self, seconds: float, *, resumed: bool = False) -> None:
        """Let every lane go on by itself for so long; what is under way then is finished.

        Parameters
        ----------
        resumed
            Whether lanes may have been at something when the service ended: they take that up, also when no time is
            left.
        """
        until = time.monotonic() + seconds
        await all_of(self._free(lane, until, resumed=resumed) for lane in self._lanes)

    async def _free(self, lane: Lane, until: float, *, resumed: bool) -> None:
        if resumed and lane.seat.ready:
            await self._measure(lane, lane.done)
        while await _ready_before(lane.seat, until):
            await self._measure(lane, lane.done)
            await asyncio.sleep(lane.pause_seconds)

    async def _measure(self, lane: Lane, position: int) -> None:
        cases = self._cases_on[lane.seat.name]
        order = self._work.order(lane.seat, lane.number, position)
        result = await cases.measure(order)
        await self._keep(result)
        lane.done += 1
        lane.pause_seconds = _pause_after(result, lane.pause_seconds)
        await cases.forget(order)


async def _ready_before(seat: Seat, until: float) -> bool:
    """Return whether the server runs before `until`, by the monotonic clock; that moment is not now any more."""
    left = until - time.monotonic()
    if left <= 0:
        return False
    try:
        async with asyncio.timeout(left):
            await seat.until_ready()
    except TimeoutError:
        return False
    return True


def _pause_after(result: CaseResult, before_seconds: float) -> float:
    """Return how long a lane rests: a notebook that fails at once must not fail a thousand times a minute."""
    bad = result.outcome not in ("succeeded", "lost")
    if not bad or (result.duration_seconds or 0) > HASTY_SECONDS:
        return 0.0
    return min(MAX_PAUSE_SECONDS, max(HASTY_SECONDS, 2 * before_seconds))


async def all_of(work: Iterable[Awaitable[None]]) -> None:
    """Do everything at once; return when all is done, also when one is cancelled."""
    async with asyncio.TaskGroup() as group:
        for item in work:
            group.create_task(_awaited(item))


async def _awaited(item: Awaitable[None]) -> None:
    await item
