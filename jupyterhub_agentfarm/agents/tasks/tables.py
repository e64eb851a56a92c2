"""What one transaction sees of the tables of tasks (:mod:`.schema`), and does to them.

A transaction that decides about a task holds its row from the reading on: SQLite has one writer at a time, PostgreSQL
locks the row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ...errors import Fenced, InvalidField, NotFoundError
from ...records import from_json, to_json
from ..models import Artifact, Attempt, Change, Task, TaskError, TaskReason, TaskRequest
from .schema import (
    ATTEMPT_COLUMNS,
    TASK_COLUMNS,
    artifacts_table,
    attempts_table,
    changes_table,
    kept_table,
    needs_table,
    tasks_table,
)


@dataclass(frozen=True)
class Told:
    """What a transaction did, for those who follow."""

    task: Task | None = None
    change: Change | None = None
    attempt: Attempt | None = None
    artifact: Artifact | None = None


@dataclass(frozen=True)
class Why:
    """Why a task changes, and who asked for it."""

    reason: TaskReason
    detail: str = ""
    by: str = ""


@dataclass(frozen=True)
class Tables:
    """The tables in one transaction; `told` gets what is to be told after its commit."""

    connection: Connection
    #: The transaction's time, seconds since the epoch.
    now: float
    told: list[Told] = field(default_factory=list)

    # ---- tasks ----

    def task(self, task_id: str) -> Task:
        """Return a task, which nobody else changes until the end of the transaction.

        Raises
        ------
        NotFoundError
            There is none with this id.
        """
        row = self.connection.execute(_TASK, {"_id": task_id}).first()
        if row is None:
            raise no_task(task_id)
        return task_of(row)

    def tasks(self, *wanted: sa.ColumnElement[bool]) -> list[Task]:
        """Return tasks in the order of submission; nobody else changes them until the end of the transaction."""
        query = sa.select(*TASK_COLUMNS).where(*wanted).order_by(tasks_table.c.number).with_for_update()
        return [task_of(row) for row in self.connection.execute(query)]

    def add_task(self, task: Task, digest: str, why: Why, notebook_bytes: int | None = None) -> None:
        """Keep a new task, and what it needs."""
        request = task.request
        row = _task_row(task) | {"id": task.id, "digest": digest, "submitted_for": task.agent, "name": request.name}
        row |= {"request": json.dumps(to_json(request)), "created_by": task.created_by, "project": request.project}
        row |= {"idempotency_key": request.idempotency_key, "priority": request.priority}
        row |= {"notebook_bytes": notebook_bytes}
        self.add_kept(task.agent, notebook_bytes or 0)
        self.connection.execute(_insert(tasks_table), row)
        if request.after:
            needs = [{"task": task.id, "needs": other} for other in sorted(set(request.after))]
            self.connection.execute(needs_table.insert(), needs)
        self._add_change(task, why)

    def change(self, task: Task, why: Why) -> Task:
        """Keep a task as it is now, and the change that made it so."""
        self.connection.execute(_SAVE_TASK, _task_row(task) | {"_id": task.id})
        self._add_change(task, why)
        return task

    def set_priority(self, task: Task, priority: int) -> Task:
        """Keep another priority of a task; return it."""
        task = replace(task, request=replace(task.request, priority=priority))
        row = {"priority": priority, "request": json.dumps(to_json(task.request))}
        self.connection.execute(tasks_table.update().where(tasks_table.c.id == task.id), row)
        return task

    def _add_change(self, task: Task, why: Why) -> None:
        row: dict[str, Any] = {"task": task.id, "at": self.now, "state": task.state, "attempt": task.attempt}
        row |= {"reason": why.reason, "detail": why.detail, "by": why.by}
        number = _inserted(self.connection, changes_table, row)
        self.told.append(Told(task=task, change=Change(number=number, **row)))

    # ---- attempts ----

    def add_attempt(self, attempt: Attempt) -> Attempt:
        """Keep a new attempt; return it with its fencing token."""
        row = {"task": attempt.task, "number": attempt.number, "ended": False, "record": vars(attempt)}
        begun = replace(attempt, fence=_inserted(self.connection, attempts_table, row))
        self.told.append(Told(attempt=begun))
        return begun

    def current(self, attempt: Attempt) -> Attempt:
        """Return what is kept of an attempt that goes on, which nobody else ends until the end of the transaction.

        Raises
        ------
        Fenced
            It is over.
        """
        row = self.connection.execute(_CURRENT, {"_fence": attempt.fence}).first()
        if row is None:
            raise Fenced(attempt.task, attempt.number)
        return attempt_of(row)

    def executing(self, attempt: Attempt) -> tuple[Task, Attempt]:
        """Return what is kept of an attempt that goes on, and of its task; both are held as by `task` and `current`.

        Raises
        ------
        Fenced
            It is over.
        """
        row = self.connection.execute(_EXECUTING, {"_fence": attempt.fence}).first()
        if row is None:
            raise Fenced(attempt.task, attempt.number)
        return task_of(row), attempt_of(row)

    def save_attempt(self, attempt: Attempt) -> Attempt:
        """Keep an attempt as it is now."""
        row = {"_fence": attempt.fence, "ended": attempt.phase == "ended", "record": vars(attempt)}
        self.connection.execute(_SAVE_ATTEMPT, row)
        self.told.append(Told(attempt=attempt))
        return attempt

    # ---- artifacts ----

    def add_artifact(self, artifact: Artifact, agent: str) -> None:
        """Keep what is known of an artifact of an agent's task, in place of one of the same path."""
        table = artifacts_table.c
        same = (table.task == artifact.task, table.attempt == artifact.attempt, table.path == artifact.path)
        before = self.connection.execute(sa.select(table.size_bytes).where(*same)).scalar() or 0
        self.connection.execute(artifacts_table.delete().where(*same))
        self.connection.execute(artifacts_table.insert(), to_json(artifact))
        self.add_kept(agent, artifact.size_bytes - before)
        self.told.append(Told(artifact=artifact))

    def artifacts_of(self, attempt: Attempt) -> tuple[int, int]:
        """Return how many artifacts an attempt has, and their bytes."""
        table = artifacts_table.c
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(table.size_bytes), 0))
        row = self.connection.execute(query.where(table.task == attempt.task, table.attempt == attempt.number)).one()
        return int(row[0]), int(row[1])

    def drop_artifacts(self, task: Task) -> int:
        """Forget the artifacts of a task; return their bytes."""
        mine = artifacts_table.c.task == task.id
        size = self._sum(artifacts_table.c.size_bytes, mine)
        self.connection.execute(artifacts_table.delete().where(mine))
        self.add_kept(task.agent, -size)
        return size

    # ---- bytes that are kept ----

    def kept_of_agent(self, agent: str) -> int:
        """Return the bytes that are kept of an agent's tasks."""
        return self._sum(kept_table.c.bytes, kept_table.c.agent == agent)

    def kept_of_task(self, task_id: str) -> int:
        """Return the bytes that are kept of a task."""
        tasks, attempts, artifacts = tasks_table.c, attempts_table.c, artifacts_table.c
        notebooks = self._sum(tasks.notebook_bytes, tasks.id == task_id)
        executed = self._sum(attempts.notebook_bytes, attempts.task == task_id)
        return notebooks + executed + self._sum(artifacts.size_bytes, artifacts.task == task_id)

    def set_notebook(self, attempt: Attempt, size_bytes: int) -> None:
        """Note how large the notebook is that an attempt has executed so far."""
        mine, size = attempts_table.c.fence == attempt.fence, attempts_table.c.notebook_bytes
        before = self._sum(size, mine)
        self.connection.execute(attempts_table.update().where(mine), {"notebook_bytes": size_bytes})
        self.add_kept(attempt.agent, size_bytes - before)

    def add_kept(self, agent: str, more_bytes: int) -> None:
        """Count more bytes, or fewer, as kept of an agent's tasks."""
        if not more_bytes:
            return
        table = kept_table.c
        more = kept_table.update().where(table.agent == agent).values(bytes=table.bytes + more_bytes)
        if not self.connection.execute(more).rowcount:
            self.connection.execute(kept_table.insert(), {"agent": agent, "bytes": more_bytes})

    def _sum(self, column: sa.ColumnElement[Any], where: sa.ColumnElement[bool]) -> int:
        return int(
            self.connection.execute(sa.select(sa.func.coalesce(sa.func.sum(column), 0)).where(where)).scalar_one()
        )


_SELECTED_BY = ("agent", "state", "assignee", "available_at", "changed_at")
_GOES_ON = (attempts_table.c.fence == sa.bindparam("_fence"), attempts_table.c.ended.is_(False))
_TASK = sa.select(*TASK_COLUMNS).where(tasks_table.c.id == sa.bindparam("_id")).with_for_update()
_CURRENT = sa.select(*ATTEMPT_COLUMNS).where(*_GOES_ON).with_for_update()
_EXECUTING = (
    sa.select(*TASK_COLUMNS, *ATTEMPT_COLUMNS)
    .join(attempts_table, attempts_table.c.task == tasks_table.c.id)
    .where(*_GOES_ON)
    .with_for_update()
)
_SAVE_TASK = tasks_table.update().where(tasks_table.c.id == sa.bindparam("_id"))
_SAVE_ATTEMPT = attempts_table.update().where(attempts_table.c.fence == sa.bindparam("_fence"))


def task_of(row: Any) -> Task:
    """Return the task of a row of `TASK_COLUMNS`."""
    record = dict(row.record)
    error, avoid = record.pop("error"), tuple(record.pop("avoid", ()))
    return Task(**record, avoid=avoid, request=_request(row.request), error=None if error is None else _error(error))


def _error(kept: object) -> TaskError:
    """Return the error that a notebook ended with; one that cannot be read must not hide its task, and all others."""
    try:
        return from_json(TaskError, kept)
    except InvalidField as exc:
        return TaskError("", f"what is kept of the error cannot be read: {exc.message}")


@lru_cache(maxsize=256)
def _request(text: str) -> TaskRequest:
    return from_json(TaskRequest, json.loads(text))


def attempt_of(row: Any) -> Attempt:
    """Return the attempt of a row of `ATTEMPT_COLUMNS`; its record was made before its fencing token was known."""
    return Attempt(**{**row.attempt, "fence": row.fence})


def no_task(task_id: str) -> NotFoundError:
    """Return the error that says so; it is the same for what may not be seen."""
    return NotFoundError(f"there is no task {task_id!r}")


def _task_row(task: Task) -> dict[str, Any]:
    record = {**vars(task), "error": to_json(task.error)}
    del record["request"]
    return {name: record[name] for name in _SELECTED_BY} | {"record": record}


def _inserted(connection: Connection, table: sa.Table, row: dict[str, Any]) -> int:
    """Insert a row; return the number that the database gave it."""
    key = connection.execute(_insert(table), row).inserted_primary_key
    assert key is not None  # for one row there is one
    return int(key[0])


@lru_cache
def _insert(table: sa.Table) -> sa.Insert:
    """Return the statement, made once: SQLAlchemy finds what it has compiled by the statement's structure."""
    return table.insert()
