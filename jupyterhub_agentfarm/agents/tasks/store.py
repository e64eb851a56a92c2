"""Tasks in a database: transactions that change them, and queries.

The tables are reached through :class:`~..inventory.database.Database`, which works on one thread. While a transaction
is on that thread further changes gather, and the next transaction makes all of them: a caller returns after the commit
of its own change, and many callers at a time pay for few commits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ...errors import DiskFull, FarmUnavailable, InvalidField
from ...faults import Edge
from ...inventory.database import Database
from ..models import FINAL_STATES, Artifact, Attempt, Change, Task, TaskState
from .schema import (
    ATTEMPT_COLUMNS,
    CHANGE_COLUMNS,
    TASK_COLUMNS,
    artifacts_table,
    attempts_table,
    changes_table,
    kept_table,
    needs_table,
    tasks_table,
)
from .tables import Tables, Told, attempt_of, no_task, task_of

T = TypeVar("T")
#: A step, and who waits for what it returns.
Asked = tuple[Callable[[Tables], Any], asyncio.Future[Any]]
log = logging.getLogger(__name__)

#: Changes in one transaction.
_TOGETHER = 100
#: Tasks that are forgotten in one transaction.
_FORGOTTEN = 500


@dataclass(frozen=True)
class Viewer:
    """Whoever sees some tasks only: those that they submitted or were asked to look at, and these."""

    name: str
    #: Tasks of these agents, and offered to them.
    agents: tuple[str, ...] = ()
    #: Tasks of these projects.
    projects: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskFilter:
    """Which tasks are wanted; what is None or empty leaves all."""

    #: Who looks; None sees all.
    viewer: Viewer | None = None
    states: tuple[TaskState, ...] = ()
    agent: str | None = None
    project: str | None = None
    #: A part of the name, compared without case.
    name: str = ""
    limit: int = 100
    #: Id of a task: only those that were submitted before it.
    cursor: str | None = None


class TaskStore:
    """The database of tasks.

    Parameters
    ----------
    database
        SQLite or PostgreSQL.
    tell
        Called on the event loop, after each commit, with what was done.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        tell: Callable[[Sequence[Told]], None] = lambda _told: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._tell = tell
        self._clock = clock
        self._waiting: list[Asked] = []
        self._working: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the tables.

        Raises
        ------
        ConfigError
            The database cannot be opened.
        """
        await self._database.open()
        await self._run(_count_kept)

    async def aclose(self) -> None:
        """Return when every change that was asked for is made; a second call does nothing."""
        while self._working is not None:
            await asyncio.wait({self._working})

    # ---- changes ----

    async def do(self, step: Callable[[Tables], T]) -> T:
        """Return what `step` returns, which is done in a transaction and committed.

        A step that raises leaves nothing behind. One whose caller is cancelled is done all the same, and told.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="changes of tasks")
        return await future

    async def _work(self) -> None:
        """Do what waits until nothing does."""
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:_TOGETHER], self._waiting[_TOGETHER:]
                await self._together(asked)
        finally:
            self._working = None

    async def _together(self, asked: list[Asked]) -> None:
        """Make changes in one transaction; when one of them fails, each in one of its own."""
        now = self._clock()
        try:
            done = await self._run(lambda connection: [_done(connection, now, step) for step, _ in asked])
        except Exception as exc:  # noqa: BLE001 - whoever asked for a step is given what it raised
            await self._failed(asked, exc)
            return
        for (_, future), (result, told) in zip(asked, done, strict=True):
            self._tell_safely(told)
            if not future.done():
                future.set_result(result)

    async def _failed(self, asked: list[Asked], exc: Exception) -> None:
        if len(asked) > 1 and not isinstance(exc, FarmUnavailable):
            for each in asked:
                await self._together([each])
            return
        for _, future in asked:
            if not future.done():
                future.set_exception(exc)

    def _tell_safely(self, told: Sequence[Told]) -> None:
        """Tell what is committed: a fault of those who hear of it is not one of the change."""
        with Edge(log, "a change of a task was not told to all"):
            self._tell(told)

    async def check_current(self, attempt: Attempt) -> None:
        """Refuse an attempt that is over.

        Raises
        ------
        Fenced
            It is over.
        """
        await self._run(lambda connection: Tables(connection, 0).current(attempt))

    async def old(self, before: float) -> list[str]:
        """Return the ids of some tasks that ended before this time and that no other task still needs."""
        table = tasks_table.c
        query = sa.select(table.id).where(*_forgettable(), table.changed_at < before)
        return [row.id for row in await self._rows(query.order_by(table.number).limit(_FORGOTTEN))]

    async def forget(self, ids: list[str]) -> set[str]:
        """Forget those of some tasks that have ended, unless another task still needs them; return their ids."""

        def _forget(connection: Connection) -> set[str]:
            table, tables = tasks_table.c, Tables(connection, 0)
            query = sa.select(table.id, table.agent).where(table.id.in_(ids), *_forgettable()).with_for_update()
            found: dict[str, str] = {row.id: row.agent for row in connection.execute(query)}
            for task_id, agent in found.items():
                tables.add_kept(agent, -tables.kept_of_task(task_id))
            connection.execute(tasks_table.delete().where(table.id.in_(found)))
            return set(found)

        return await self._run(_forget)

    async def with_artifacts(self, agent: str) -> list[tuple[str, int]]:
        """Return the ids of an agent's tasks that have ended and left artifacts, with their bytes, the oldest first.

        Those that another task still needs are none of them.
        """
        table, size = tasks_table.c, sa.func.sum(artifacts_table.c.size_bytes)
        query = sa.select(table.id, size).join(artifacts_table, artifacts_table.c.task == table.id)
        query = query.where(table.agent == agent, *_forgettable()).group_by(table.id, table.changed_at, table.number)
        rows = await self._rows(query.order_by(table.changed_at, table.number))
        return [(row[0], int(row[1])) for row in rows]

    # ---- queries ----

    async def task(self, task_id: str) -> Task:
        """Return a task.

        Raises
        ------
        NotFoundError
            There is none with this id.
        """
        rows = await self._rows(sa.select(*TASK_COLUMNS).where(tasks_table.c.id == task_id))
        if not rows:
            raise no_task(task_id)
        return task_of(rows[0])

    async def known(self, ids: list[str]) -> set[str]:
        """Return those of some ids that tasks have."""
        return {row.id for row in await self._rows(sa.select(tasks_table.c.id).where(tasks_table.c.id.in_(ids)))}

    async def tasks(self, wanted: TaskFilter) -> list[Task]:
        """Return the tasks that are wanted, the newest first.

        Raises
        ------
        InvalidField
            The cursor is no task's id.
        """
        table = tasks_table.c
        query = sa.select(*TASK_COLUMNS).where(*_conditions(wanted)).order_by(table.number.desc()).limit(wanted.limit)
        if wanted.cursor is not None:
            numbers = await self._rows(sa.select(table.number).where(table.id == wanted.cursor))
            if not numbers:
                raise InvalidField("cursor", "the id of the last task of the page before", wanted.cursor)
            query = query.where(table.number < numbers[0].number)
        return await self._made(query, task_of)

    async def available(self, limit: int, skip: int = 0) -> list[Task]:
        """Return the available tasks of each agent, by priority and then by age: after `skip`, at most `limit`."""
        table = tasks_table.c
        order = (table.priority.desc(), table.number)
        rank = sa.func.row_number().over(partition_by=table.agent, order_by=order).label("rank")
        ranked = (
            sa.select(*TASK_COLUMNS, rank, table.number, table.priority).where(table.state == "available").subquery()
        )
        best = sa.select(ranked.c.request, ranked.c.record).where(ranked.c.rank > skip, ranked.c.rank <= skip + limit)
        return await self._made(best.order_by(ranked.c.priority.desc(), ranked.c.number), task_of)

    async def executing(self) -> list[tuple[Task, Attempt]]:
        """Return all attempts that go on, the oldest first."""
        attempts = attempts_table.c
        query = sa.select(*TASK_COLUMNS, *ATTEMPT_COLUMNS)
        query = query.join(attempts_table, attempts.task == tasks_table.c.id).where(attempts.ended.is_(False))
        return await self._made(query.order_by(attempts.fence), lambda row: (task_of(row), attempt_of(row)))

    async def attempts(self, task_id: str) -> list[Attempt]:
        """Return the attempts of a task, the first one first."""
        table = attempts_table.c
        query = sa.select(*ATTEMPT_COLUMNS).where(table.task == task_id).order_by(table.fence)
        return [attempt_of(row) for row in await self._rows(query)]

    async def changes(self, task_id: str, after: int = 0) -> list[Change]:
        """Return the changes of a task with a number above `after`, in their order."""
        table = changes_table.c
        query = sa.select(*CHANGE_COLUMNS).where(table.task == task_id, table.number > after).order_by(table.number)
        return [Change(*row) for row in await self._rows(query)]

    async def changes_of_all(self, after: int, limit: int, viewer: Viewer | None) -> list[tuple[Task, Change]]:
        """Return the first changes with a number above `after` of the tasks that a viewer sees, with the tasks."""
        table = changes_table.c
        query = sa.select(*TASK_COLUMNS, *CHANGE_COLUMNS).join(tasks_table, table.task == tasks_table.c.id)
        first = query.where(table.number > after, *_seen(viewer)).order_by(table.number).limit(limit)
        return await self._made(first, lambda row: (task_of(row), Change(*row[len(TASK_COLUMNS) :])))

    async def artifacts(self, task_id: str) -> list[Artifact]:
        """Return the artifacts of a task, by attempt and path."""
        table = artifacts_table.c
        columns = (table.task, table.attempt, table.path, table.size_bytes, table.sha256)
        query = sa.select(*columns).where(table.task == task_id).order_by(table.attempt, table.path)
        return [Artifact(*row) for row in await self._rows(query)]

    async def kept_bytes(self) -> dict[str, int]:
        """Return the bytes of notebooks and artifacts that are kept of each agent's tasks."""
        return {row.agent: row.bytes for row in await self._rows(sa.select(kept_table.c.agent, kept_table.c.bytes))}

    async def busy(self) -> set[str]:
        """Return the names of agents with tasks that have not ended."""
        table = tasks_table.c
        query = sa.select(table.agent).where(table.state.not_in(FINAL_STATES)).distinct()
        return {row.agent for row in await self._rows(query)}

    async def counts(self) -> dict[str, dict[TaskState, int]]:
        """Return how many tasks each agent has in each state that some are in."""
        query = sa.select(tasks_table.c.agent, tasks_table.c.state, sa.func.count())
        found: dict[str, dict[TaskState, int]] = {}
        for agent, state, count in await self._rows(query.group_by(tasks_table.c.agent, tasks_table.c.state)):
            found.setdefault(agent, {})[state] = count
        return found

    async def queued(self) -> dict[int, int]:
        """Return how many tasks are available, by their priority."""
        table = tasks_table.c
        query = sa.select(table.priority, sa.func.count()).where(table.state == "available").group_by(table.priority)
        return dict(await self._rows(query))

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, done in a transaction.

        Raises
        ------
        DiskFull
            The database's disk is.
        FarmUnavailable
            The database does not answer, or not in time.
        """
        try:
            return await self._database.run(work)
        except sa.exc.OperationalError as exc:
            if "full" in str(exc.orig) or "No space left" in str(exc.orig):
                raise DiskFull(f"the database of tasks cannot grow: {exc.orig}") from exc
            raise FarmUnavailable(f"the database of tasks does not answer: {exc.orig}") from exc

    async def _made(self, query: sa.Select[Any], make: Callable[[Any], T]) -> list[T]:
        """Return what is made of each row, on the database's thread: many records take a while."""
        return await self._run(lambda connection: [make(row) for row in connection.execute(query)])

    async def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        return await self._run(lambda connection: connection.execute(query).all())


def _done(connection: Connection, now: float, step: Callable[[Tables], T]) -> tuple[T, list[Told]]:
    tables = Tables(connection, now)
    return step(tables), tables.told


def _count_kept(connection: Connection) -> None:
    """Count what is kept, once: an earlier version did not. The notebooks of its tasks are left out."""
    if connection.execute(sa.select(kept_table.c.agent).limit(1)).first() is not None:
        return
    joined = artifacts_table.join(tasks_table, artifacts_table.c.task == tasks_table.c.id)
    sizes = sa.select(tasks_table.c.agent, sa.func.sum(artifacts_table.c.size_bytes)).select_from(joined)
    connection.execute(kept_table.insert().from_select(["agent", "bytes"], sizes.group_by(tasks_table.c.agent)))


def _forgettable() -> tuple[sa.ColumnElement[bool], ...]:
    """Whether a task has ended, and no task that has not needs it."""
    other = tasks_table.alias()
    needed = sa.select(needs_table.c.needs).join(other, other.c.id == needs_table.c.task)
    needed = needed.where(other.c.state.not_in(FINAL_STATES), needs_table.c.needs == tasks_table.c.id)
    return tasks_table.c.state.in_(FINAL_STATES), ~needed.exists()


def _conditions(wanted: TaskFilter) -> list[sa.ColumnElement[bool]]:
    table = tasks_table.c
    conditions = _seen(wanted.viewer)
    if wanted.states:
        conditions.append(table.state.in_(wanted.states))
    if wanted.agent is not None:
        conditions.append(table.agent == wanted.agent)
    if wanted.project is not None:
        conditions.append(table.project == wanted.project)
    if wanted.name:
        conditions.append(table.name.icontains(wanted.name, autoescape=True))
    return conditions


def _seen(viewer: Viewer | None) -> list[sa.ColumnElement[bool]]:
    """Whether a task is one that the viewer sees."""
    if viewer is None:
        return []
    table = tasks_table.c
    mine = (table.created_by == viewer.name, table.assignee.in_((viewer.name, *viewer.agents)))
    return [sa.or_(*mine, table.agent.in_(viewer.agents), table.project.in_(viewer.projects))]
