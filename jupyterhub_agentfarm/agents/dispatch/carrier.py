"""Carrier: one attempt, from its claim to its outcome.

::

    starting     the task's server is asked for, and is ready
    running      the notebook is submitted, under the attempt's key, and followed until its run has ended
    collecting   the executed notebook and the artifacts are fetched
    ended        what becomes of the task is decided; the server waits for the next task, or ends

Each phase is written down before it begins, and each may be entered again: a server that is there is not started, a key
that the server knows is the run that it has, and what was fetched is fetched anew. So a service that was killed takes
an attempt up where it was. Whatever is told about an attempt that is over raises `Fenced`, and its carrier ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import (
    AgentFarmError,
    ConflictError,
    FarmUnavailable,
    Fenced,
    HubApiError,
    InvalidField,
    NodeUnreachable,
    NoSpace,
    NotFoundError,
    RunFailed,
)
from ...faults import Edge
from ...logs import LogLine
from ...models import UserOptions
from ...runs.client import AnswerTooLong, RunRefused, ServerRuns, ServerUnready
from ..models import Attempt, Task, TaskReason
from .collecting import Collector
from .loss import LossWatch
from .outcomes import Outcome, outcome_of, refused_run
from .servers import StartFailed
from .told import ToldRun, told_run

if TYPE_CHECKING:
    from .carriers import Carriers

T = TypeVar("T")
log = logging.getLogger(__name__)

_FIRST_POLL_SECONDS = 0.1
#: How often a server's place in the line is looked at.
_PLACE_SECONDS = 1.0
#: How often a refused token is replaced before the refusal counts.
_MOST_TOKENS = 3


class Over(Exception):
    """The attempt cannot go on; the outcome says why."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(outcome.detail)


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
        server = (attempt.agent, attempt.server_name)
        self._loss = LossWatch(server, parts.farm, parts.news, parts.servers, parts.loss_patience)
        self._heard_at = time.monotonic()
        self._runs = self._server_runs(attempt.node or "its node")

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
        await self._note(phase="collecting")
        try:
            notes = await self._collector().collect(self.attempt, run.id)
        except NoSpace as exc:
            return Outcome("internal", f"the results cannot be kept: {exc.message}", sound=True)
        except InvalidField as exc:
            return _garbled(exc)
        except RunRefused as exc:
            return Outcome("output_lost", exc.message)
        return outcome_of(run, notes)

    async def _start(self) -> None:
        agent, name = self.attempt.agent, self.attempt.server_name
        telling = asyncio.create_task(self._tell_place(), name=f"place of {self.attempt.key}")
        try:
            await self._parts.servers.start(agent, name, self.options)
        finally:
            telling.cancel()
            await asyncio.wait({telling})
        node = self._loss.node()
        self._runs = self._server_runs(node or "its node")
        self._heard()
        await self._note(phase="running", node=node, detail="")

    async def _tell_place(self) -> None:
        """Write down what the server waits for, as long as it does."""
        while True:
            await asyncio.sleep(_PLACE_SECONDS)
            place = self._parts.farm.waiting_for(self.attempt.agent, self.attempt.server_name)
            with Edge(log, f"the place of {self.attempt.key} in the line is not written down"):
                if place != self.attempt.detail:
                    await self._note(detail=place)

    async def _submitted(self) -> str:
        """Return the id of the attempt's run, which is submitted unless it is known to be."""
        if self.attempt.run_id is not None:
            return self.attempt.run_id
        body = await self._request()
        try:
            run = told_run(await self._ask(lambda: self._runs.submit(body)))
        except RunRefused as exc:
            raise Over(refused_run(exc)) from exc
        except InvalidField as exc:
            raise Over(_garbled(exc)) from exc
        await self._note(run_id=run.id, running_at=time.time(), node=self.attempt.node or self._loss.node())
        return run.id

    async def _request(self) -> Mapping[str, Any]:
        asked, attempt = self.task.request, self.attempt
        try:
            text = await self._book.files.notebook(self.task.id)
            source = {"notebook": await asyncio.to_thread(json.loads, text)}
        except NotFoundError:
            source = {"path": asked.path}
        except ValueError as exc:
            raise Over(Outcome("invalid_notebook", f"the notebook is no JSON: {exc}", sound=True)) from exc
        return {
            **source,
            "parameters": dict(asked.parameters),
            "kernel_name": asked.options.kernel or None,
            "timeout_seconds": asked.timeout_seconds,
            "name": (asked.name or f"task {self.task.id}")[:200],
            "idempotency_key": attempt.key,
            "environment": {
                "AGENTFARM_TASK_ID": self.task.id,
                "AGENTFARM_ATTEMPT": str(attempt.number),
                "AGENTFARM_FENCE": str(attempt.fence),
            },
        }

    async def _follow(self, run_id: str) -> ToldRun:
        """Return the run when it has ended."""
        pause = _FIRST_POLL_SECONDS
        while True:
            try:
                run = told_run(await self._ask(lambda: self._runs.get(run_id)))
            except RunRefused as exc:
                raise Over(refused_run(exc)) from exc
            except InvalidField as exc:
                raise Over(_garbled(exc)) from exc
            self._book.progress(self.attempt, run.cells_done, run.cells_total, run.current_cell)
            if run.ended:
                return replace(run, id=run_id)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, self._parts.poll_interval)

    async def _note(self, **changes: Any) -> None:
        """Write down what became known; a database that is away is waited for."""
        said = False
        while True:
            try:
                self.attempt = await self._book.note(self.attempt, **changes)
            except (FarmUnavailable, NoSpace) as exc:
                log.log(logging.DEBUG if said else logging.WARNING, "%s waits: %s", self.attempt.key, exc.message)
                said = True
            else:
                return
            await asyncio.sleep(self._parts.retry_interval)

    # ---- the server ----

    def _server_runs(self, node: str) -> ServerRuns:
        url = self._parts.servers.url(self.attempt.agent, self.attempt.server_name)
        return ServerRuns(self._parts.session, url, node, self._headers, self._parts.request_timeout)

    async def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"token {await self._parts.tokens.get(self.attempt.agent)}"}

    def _collector(self) -> Collector:
        return Collector(self._book, self._runs, self._ask, self._heard)

    def _heard(self) -> float:
        """Note that the server, or somebody else that matters, answered now; return the time."""
        self._heard_at = time.monotonic()
        return self._heard_at

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Return the server's answer, which may take a while; end the attempt when the server is lost."""
        tokens = 0
        unready_at: float | None = None
        began_at = self._heard()
        while True:
            try:
                return await self._unless_lost(question())
            except ServerUnready as exc:
                unready_at = self._bear(exc, self._heard() if unready_at is None else unready_at)
            except NodeUnreachable:
                unready_at = None
            except FarmUnavailable:  # the database, where what the server gave is to be kept
                self._heard()
            except RunRefused as exc:
                tokens += 1
                if exc.status != 403 or tokens > _MOST_TOKENS:
                    raise
                self._parts.tokens.forget(self.attempt.agent)
            except Fenced:
                raise
            except (HubApiError, ConflictError) as exc:
                self._without_token(exc, began_at)
            await self._check_loss()
            await asyncio.sleep(self._parts.retry_interval)

    def _bear(self, exc: ServerUnready, since: float) -> float:
        """Bear that the server is there and fails, as long as patience lasts; return since when."""
        if self._heard() - since > self._parts.patience:
            raise Over(Outcome("server_lost", f"for {self._parts.patience:g} s it could do nothing: {exc.message}"))
        return since

    def _without_token(self, exc: HubApiError | ConflictError, began_at: float) -> None:
        """Bear that there is no token for the server: the Hub is away, or the agent is not active.

        Whoever ended the agent's activity ends its attempts too.
        """
        late = self._heard() - began_at > self._parts.patience
        if late and isinstance(exc, ConflictError):
            raise Over(Outcome("agent_suspended", exc.message)) from exc
        if late and isinstance(exc, HubApiError) and 400 <= exc.status < 500:
            raise Over(Outcome("internal", f"there is no token for its server: {exc.message}")) from exc

    async def _unless_lost(self, question: Awaitable[T]) -> T:
        """Return an answer; while there is none, look whether there will be."""
        asking = asyncio.ensure_future(question)
        try:
            while not (await asyncio.wait({asking}, timeout=self._parts.retry_interval))[0]:
                if time.monotonic() - self._heard_at > self._parts.loss_grace:
                    await self._check_loss()
            answer = asking.result()
            self._heard()
            return answer
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, AgentFarmError):
                await asking

    async def _check_loss(self) -> None:
        lost = await self._loss.verdict(time.monotonic() - self._heard_at)
        if lost is not None:
            raise Over(Outcome(lost.reason, lost.detail))

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
                    await self._runs.cancel(self.attempt.run_id)
                    await self._follow(self.attempt.run_id)
                    sound = True
                    await self._collector().notebook(self.attempt, self.attempt.run_id)
        return Outcome(reason, self.task.detail if self.task.ending else reason.replace("_", " "), sound=sound)

    async def _finish(self, outcome: Outcome) -> Task:
        """Have it written down how the attempt ended; a database that is away is waited for."""
        pause = self._parts.pause_after(outcome, self.task.failures)
        while True:
            with Edge(log, f"the end of {self.attempt.key} is not written down yet", (Fenced,)):
                ended = (outcome.reason, outcome.detail, outcome.error, pause, self._missing_kernel(outcome))
                return await self._book.finish(self.attempt, *ended)
            await asyncio.sleep(self._parts.retry_interval)

    def _missing_kernel(self, outcome: Outcome) -> str:
        """Return the kernel that was not asked for because only the notebook's file on the server names it."""
        return "" if self.options.kernel else outcome.kernel

    def _leave(self, outcome: Outcome) -> None:
        agent, name = self.attempt.agent, self.attempt.server_name
        if outcome.sound:
            self._parts.tidy(self._runs, self.attempt.run_id)
            self._parts.warm.keep(agent, name, self.options)
        else:
            self._parts.servers.stop(agent, name)


def _garbled(exc: InvalidField) -> Outcome:
    """Return the outcome where a server's answer is none of a farm's server."""
    return Outcome("internal", f"what its server tells cannot be read: {exc.message}")
