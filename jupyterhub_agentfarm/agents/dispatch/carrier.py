"""Carrier: one attempt, from its claim to its outcome.

::

    starting     the task's server is asked for, and is ready
    running      the notebook is submitted, under the attempt's key, and followed until its run has ended
    collecting   the executed notebook and the artifacts are fetched
    ended        what becomes of the task is decided; the server waits for the next task, or ends

Each phase is written down before it begins, and each may be entered again: a server that is there is not started, a key
that the server knows is the run that it has, and what was fetched is fetched anew. So a service that was killed takes
an attempt up where it was. Whatever is told about an attempt that is over raises `Fenced`, and its carrier ends.

A notebook in the workspace is read on the server, and may turn out to name a kernel that this one lacks: then the
attempt goes on, once, in a server that has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import AgentFarmError, DiskFull, FarmUnavailable, Fenced, InvalidField, NoSpace, RunFailed
from ...faults import Edge
from ...logs import LogLine
from ...models import UserOptions
from ...runs.client import AnswerTooLong, RunRefused
from ..models import Attempt, Task, TaskReason
from .collecting import Collector
from .outcomes import Outcome, Over, garbled, missing_kernel, outcome_of, refused_run
from .patient_server import PatientServer
from .servers import StartFailed
from .submission import submission
from .told import ToldRun, told_run

if TYPE_CHECKING:
    from .carriers import Carriers

T = TypeVar("T")
log = logging.getLogger(__name__)

#: How often a server's place in the line is looked at.
_PLACE_SECONDS = 1.0


@dataclass(frozen=True)
class Carried:
    """A task in the server of its attempt."""

    task: Task
    #: Options that the server has, or is to have.
    options: UserOptions


class Carrier:
    """Carries one attempt; :meth:`carry` returns when it is over.

    Parameters
    ----------
    carried
        The task.
    attempt
        Its newest attempt, as it is written down.
    parts
        What all carriers use.
    """

    def __init__(self, carried: Carried, attempt: Attempt, parts: Carriers) -> None:
        self.task, self.options, self.attempt = carried.task, carried.options, attempt
        self._parts, self._book = parts, parts.book
        self._ending: asyncio.Future[TaskReason] = asyncio.get_running_loop().create_future()
        self._server = PatientServer(attempt, parts)

    def end(self, reason: TaskReason) -> None:
        """Ask for the attempt's end; the first reason counts."""
        if not self._ending.done():
            self._ending.set_result(reason)

    async def carry(self) -> tuple[Task, TaskReason] | None:
        """Carry the attempt to its end; return its task and its outcome, or None when it was over already."""
        try:
            outcome = await self._outcome()
            task = await self._finish(outcome)
        except Fenced as exc:
            log.info("%s", LogLine("attempt given up", **self._about(), detail=exc.message))
            self._parts.servers.stop(self.attempt.agent, self.attempt.server_name)
            return None
        self._leave(outcome)
        log.info("%s", LogLine("attempt ended", **self._about(), outcome=outcome.reason, detail=outcome.detail))
        return task, outcome.reason

    def _about(self) -> dict[str, object]:
        attempt = self.attempt
        return {"task": attempt.task, "attempt": attempt.number, "agent": attempt.agent, "server": attempt.server_name}

    # ---- from phase to phase ----

    async def _outcome(self) -> Outcome:
        """Return how the attempt ended: by its work, or because somebody asked."""
        work = asyncio.create_task(self._work(), name=f"work on {self.attempt.key}")
        try:
            ends: set[asyncio.Future[Any]] = {work, self._ending}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
        finally:
            work.cancel()
            await asyncio.wait({work})
        if not work.cancelled():  # it came to its end while it was to be cancelled
            return work.result()
        return await self._ended_early(self._ending.result())

    async def _work(self) -> Outcome:
        with Edge(log, f"carrying {self.attempt.key} failed", (Fenced,)) as edge:
            try:
                return await self._phases()
            except Over as over:
                return over.outcome
            except StartFailed as exc:
                return Outcome(self._ended_with_its_agent() or exc.outcome, exc.message)
            except AnswerTooLong as exc:
                return Outcome("output_lost", exc.message)
            except RunFailed as exc:
                return Outcome("internal", exc.message)
        return Outcome("internal", f"the agents service failed, see its log: {edge.fault}")

    def _ended_with_its_agent(self) -> TaskReason | None:
        """Return the reason where the attempt is to end, or its agent may do nothing more: both make starts fail."""
        if self._ending.done():
            return self._ending.result()
        return self._parts.inactive(self.attempt.agent)

    async def _phases(self) -> Outcome:
        if self.attempt.phase == "starting":
            await self._start()
        run = await self._follow(await self._submitted())
        if kernel := missing_kernel(run, self.options):
            await self._move(kernel)
            return await self._phases()
        await self._note(phase="collecting")
        try:
            notes = await self._collector().collect(self.attempt, run.id)
        except DiskFull as exc:
            where = f"they are left on {self.attempt.node}, in its run {run.id}"
            return Outcome("internal", f"there is no room for the results, {where}: {exc.message}", sound=True)
        except NoSpace as exc:
            return Outcome("internal", f"the results cannot be kept: {exc.message}", sound=True)
        except InvalidField as exc:
            return garbled(exc)
        except RunRefused as exc:
            return Outcome("output_lost", exc.message)
        return outcome_of(run, notes)

    async def _start(self) -> None:
        agent, name = self.attempt.agent, self.attempt.server_name
        telling = asyncio.create_task(self._tell_place(), name=f"place of {self.attempt.key}")
        try:
            await self._parts.servers.start(agent, name, self.options)
        except StartFailed:
            await self._note(node=self._server.node())  # for the next attempt to avoid
            raise
        finally:
            telling.cancel()
            await asyncio.wait({telling})
        await self._note(phase="running", node=self._server.started(), detail="")

    async def _tell_place(self) -> None:
        """Write down what the server waits for, as long as it does."""
        while True:
            await asyncio.sleep(_PLACE_SECONDS)
            place = self._parts.farm.waiting_for(self.attempt.agent, self.attempt.server_name)
            with Edge(log, f"the place of {self.attempt.key} in the line is not written down"):
                await self._tell(place)

    async def _move(self, kernel: str) -> None:
        """Go on in another server, which has the kernel that the notebook's file on this one turned out to name."""
        lacking = f"the notebook names the kernel {kernel}, which the server on {self.attempt.node} does not have"
        left = self.attempt.server_name
        self.task, self.attempt = await self._written(lambda: self._book.move(self.attempt, kernel, lacking))
        log.info("%s", LogLine("attempt goes on in another server", **self._about(), kernel=kernel))
        self._parts.servers.stop(self.attempt.agent, left)
        self.options = replace(self.options, kernel=kernel)
        self._server = PatientServer(self.attempt, self._parts)

    async def _submitted(self) -> str:
        """Return the id of the attempt's run, which is submitted unless it is known to be."""
        if self.attempt.run_id is not None:
            return self.attempt.run_id
        body = await submission(self.task, self.attempt, self._book.files)
        run = await self._run(lambda: self._server.runs.submit(body))
        await self._note(run_id=run.id, running_at=time.time(), node=self.attempt.node or self._server.node())
        return run.id

    async def _follow(self, run_id: str) -> ToldRun:
        """Return the run when it has ended."""
        # A server that is asked to wait is silent meanwhile, and silence is what losses are told by.
        wait = min(self._parts.poll_interval, self._parts.loss_grace / 2)
        while True:
            run = await self._run(lambda: self._server.runs.get(run_id, wait))
            self._book.progress(self.attempt, run.cells_done, run.cells_total, run.current_cell)
            if run.ended:
                return replace(run, id=run_id)

    async def _run(self, question: Callable[[], Awaitable[dict[str, Any]]]) -> ToldRun:
        """Return the run that the server tells of."""
        try:
            return told_run(await self._server.ask(question))
        except RunRefused as exc:
            raise Over(refused_run(exc)) from exc
        except InvalidField as exc:
            raise Over(garbled(exc)) from exc

    def _collector(self) -> Collector:
        server = self._server
        return Collector(self._book, server.runs, server.ask, server.heard, self._tell, self._parts.disk_patience)

    # ---- what is written down ----

    async def _tell(self, detail: str) -> None:
        """Write down what the attempt waits for, if that can be written down now."""
        if detail != self.attempt.detail:
            with contextlib.suppress(FarmUnavailable, NoSpace):
                self.attempt = await self._book.note(self.attempt, detail=detail)

    async def _note(self, **changes: Any) -> None:
        """Write down what became known."""
        self.attempt = await self._written(lambda: self._book.note(self.attempt, **changes))

    async def _written(self, writing: Callable[[], Awaitable[T]]) -> T:
        """Return what is written down; a database that is away is waited for."""
        said = False
        while True:
            try:
                return await writing()
            except (FarmUnavailable, NoSpace) as exc:
                log.log(logging.DEBUG if said else logging.WARNING, "%s waits: %s", self.attempt.key, exc.message)
                said = True
            await asyncio.sleep(self._parts.retry_interval)

    # ---- the end ----

    async def _ended_early(self, reason: TaskReason) -> Outcome:
        """End the run, and keep what there is of it: in `cancel_timeout`, and no later."""
        sound = False
        if self.attempt.run_id is not None:
            with (
                Edge(log, f"what {self.attempt.key} left is not kept"),
                contextlib.suppress(TimeoutError, AgentFarmError, Over),
            ):
                async with asyncio.timeout(self._parts.cancel_timeout):
                    await self._server.runs.cancel(self.attempt.run_id)
                    await self._follow(self.attempt.run_id)
                    sound = True
                    await self._collector().notebook(self.attempt, self.attempt.run_id)
        return Outcome(reason, self.task.detail if self.task.ending else reason.replace("_", " "), sound=sound)

    async def _finish(self, outcome: Outcome) -> Task:
        """Have it written down how the attempt ended; a database that is away is waited for."""
        pause = await self._parts.pause_after(outcome, self.task)
        detail = f"{outcome.detail}; it is tried again {_when(pause)}" if outcome.reason == "quota" else outcome.detail
        while True:
            with Edge(log, f"the end of {self.attempt.key} is not written down yet", (Fenced,)):
                return await self._book.finish(self.attempt, outcome.reason, detail, outcome.error, pause)
            await asyncio.sleep(self._parts.retry_interval)

    def _leave(self, outcome: Outcome) -> None:
        """Leave the server to the next task, or end it; what is not all kept stays on its node for some days."""
        agent, name = self.attempt.agent, self.attempt.server_name
        if outcome.complete:
            self._parts.tidy(self._server.runs, self.attempt.run_id)
        if outcome.sound:
            self._parts.warm.keep(agent, name, self.options)
        else:
            self._parts.servers.stop(agent, name)


def _when(pause_seconds: float) -> str:
    at = dt.datetime.fromtimestamp(time.time() + pause_seconds, dt.UTC)
    return f"in {pause_seconds:.0f} s, on {at:%A %d %B %H:%M:%S} UTC"
