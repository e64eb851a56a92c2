"""The steps of tasks: each is one transaction, which reads, decides (:mod:`.states`), and writes."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from ...errors import ConflictError, InvalidField, QuotaExceeded
from ...records import to_json
from ..models import MAX_PRIORITY, Attempt, Task, TaskReason, TaskRequest, TaskState
from . import states
from .keeping_steps import check_kept
from .schema import TASK_COLUMNS, needs_table, tasks_table
from .states import Ended
from .tables import Tables, Why, task_of
from .texts import plain

_DETAIL_CHARACTERS = 4000
#: What may become known of an attempt while it goes on.
NOTABLE = frozenset({"phase", "node", "run_id", "running_at", "server_name", "detail"})


@dataclass(frozen=True)
class AgentBounds:
    """The most that there may be of an agent's tasks."""

    #: Those that have not ended.
    open: int = 10**9
    #: Of their notebooks and artifacts; 0: without bound.
    kept_bytes: int = 0


@dataclass(frozen=True)
class Submission:
    """A task that is asked for."""

    task_id: str
    request: TaskRequest
    agent: str
    by: str
    notebook: bytes | None
    #: What notebooks that are the same work have in common; "": only equal ones are the same.
    digest: str = ""
    #: Kernel that the notebook names; "": none, or it is not known.
    kernel: str = ""
    most: AgentBounds = AgentBounds()


@dataclass(frozen=True)
class Taking:
    """The taking over of a task."""

    #: The agent that is to execute it.
    agent: str
    by: str
    note: str = ""
    most: AgentBounds = AgentBounds()
    #: The highest priority that whoever asks may give a task of this agent.
    most_priority: int = MAX_PRIORITY


def new_id() -> str:
    """Return the id of a new task."""
    return secrets.token_hex(8)


def submit(tables: Tables, asked: Submission) -> Task:
    """Keep a new task, or return the one that the agent has under the same key."""
    digest = _digest(asked)
    known = _known(tables, asked, digest)
    if known is not None:
        return known
    size = None if asked.notebook is None else len(asked.notebook)
    _check_open(tables, asked.agent, asked.most.open)
    check_kept(tables, asked.agent, asked.most.kept_bytes, size or 1)
    # The notebook itself is in a file; that there is one shows in the empty mapping.
    request = asked.request if asked.notebook is None else replace(asked.request, notebook={})
    now = tables.now
    state, reason = _first_state(tables, request)
    available_at = max(now, request.not_before_at or 0)
    task = Task(asked.task_id, asked.agent, state, reason, "", request, now, asked.by, available_at, now,
                kernel=asked.kernel, allowed=request.max_attempts)  # fmt: skip
    tables.add_task(task, digest, Why(reason, by=asked.by), size)
    return task


def _check_open(tables: Tables, agent: str, most: int) -> None:
    table = tasks_table.c
    query = sa.select(sa.func.count()).where(table.agent == agent, table.state.in_(_OPEN))
    number = tables.connection.execute(query).scalar_one()
    if number >= most:
        known = {"quota": "tasks", "used": number, "limit": most}
        raise QuotaExceeded(f"{agent} has {number} tasks that have not ended, and may have no more", known)


def _digest(asked: Submission) -> str:
    request = to_json(replace(asked.request, notebook=None if asked.request.path else {}))
    text = json.dumps(request, sort_keys=True).encode()
    return hashlib.sha256(text + b"\0" + (asked.digest.encode() or asked.notebook or b"")).hexdigest()


def _known(tables: Tables, asked: Submission, digest: str) -> Task | None:
    if asked.request.idempotency_key is None:
        return None
    table = tasks_table.c
    same = (table.submitted_for == asked.agent, table.idempotency_key == asked.request.idempotency_key)
    found = tables.connection.execute(sa.select(table.digest, table.id, *TASK_COLUMNS).where(*same)).first()
    if found is None:
        return None
    if found.digest != digest:
        raise ConflictError(
            f"{asked.agent} has used the idempotency key {asked.request.idempotency_key!r} for something else, "
            f"task {found.id}"
        )
    return task_of(found)


def _first_state(tables: Tables, request: TaskRequest) -> tuple[TaskState, TaskReason]:
    """Return the state that a task begins in, and why."""
    if any(state != "completed" for state in _needed(tables, request).values()):
        return "scheduled", "dependencies"
    if (request.not_before_at or 0) > tables.now:
        return "scheduled", "not_before"
    return "available", "submitted"


def _needed(tables: Tables, request: TaskRequest) -> Mapping[str, TaskState]:
    """Return the states of the tasks that a task needs."""
    if not request.after:
        return {}
    query = sa.select(tasks_table.c.id, tasks_table.c.state).where(tasks_table.c.id.in_(request.after))
    found: dict[str, TaskState] = {row.id: row.state for row in tables.connection.execute(query)}
    for task_id in request.after:
        if task_id not in found:
            raise InvalidField("after", "ids of tasks that exist", task_id)
    return found


def server_name(task_id: str, number: int) -> str:
    """Return the name of the server that is started for an attempt."""
    return f"task-{task_id[:8]}-{number}"


def claim(tables: Tables, task_id: str, warm: str | None, agent: str | None = None) -> tuple[Task, Attempt]:
    """Begin an attempt, in a server that is there or one of its own; with `agent` only where the task is its still."""
    available = tables.task(task_id)
    if agent is not None and available.agent != agent:
        raise ConflictError(f"task {task_id} was handed over from {agent} to {available.agent}")
    task = states.claimed(available, tables.now)
    name = warm if warm is not None else server_name(task.id, task.attempt)
    task = replace(task, server_name=name)
    attempt = Attempt(task.id, task.attempt, 0, task.agent, name, "starting", tables.now)
    tables.change(task, Why("claimed", task.detail))
    return task, tables.add_attempt(attempt)


def note(tables: Tables, attempt: Attempt, changes: Mapping[str, Any]) -> Attempt:
    """Keep what became known of an attempt."""
    if not changes.keys() <= NOTABLE or changes.get("phase") == "ended":
        raise ValueError(f"of an attempt only {', '.join(sorted(NOTABLE))} may become known: {dict(changes)}")
    if "detail" in changes:
        changes = {**changes, "detail": plain(changes["detail"], _DETAIL_CHARACTERS)}
    return tables.save_attempt(replace(tables.current(attempt), **changes))


def move(tables: Tables, attempt: Attempt, kernel: str, why: str) -> tuple[Task, Attempt]:
    """Have an attempt begin anew in another server, which is to have a kernel that its notebook turned out to name."""
    executing, kept = tables.executing(attempt)
    name = server_name(executing.id, 0)  # no attempt has this number, and one task does this once
    moved = replace(kept, phase="starting", server_name=name, node=None, run_id=None, running_at=None, detail=why)
    task = replace(executing, kernel=kernel, server_name=name)
    return tables.change(task, Why("moved", plain(why, _DETAIL_CHARACTERS))), tables.save_attempt(moved)


def finish(tables: Tables, attempt: Attempt, ended: Ended) -> Task:
    """End an attempt."""
    executing, kept = tables.executing(attempt)
    ended = replace(ended, detail=plain(ended.detail, _DETAIL_CHARACTERS), node=kept.node)
    task = states.after_attempt(executing, ended, tables.now)
    over = replace(kept, phase="ended", ended_at=tables.now, outcome=ended.outcome, detail=ended.detail)
    tables.save_attempt(over)
    return tables.change(task, Why(task.reason, task.detail))


def cancel(tables: Tables, task_id: str, by: str) -> Task:
    """End a task, or ask for the end of its attempt."""
    task = tables.task(task_id)
    if task.ending == "cancelled":
        return task
    detail = f"{by} asked for its end"
    return tables.change(states.asked_to_end(task, "cancelled", detail, tables.now), Why("cancelled", detail, by))


def retry(tables: Tables, task_id: str, by: str) -> Task:
    """Allow one more attempt."""
    task = tables.task(task_id)
    # One that has executed had all that it needs, which may be forgotten by now.
    request = replace(task.request, after=()) if task.attempt else task.request
    hopeless = [other for other, state in _needed(tables, request).items() if state in ("cancelled", "discarded")]
    if hopeless and task.ended:
        raise ConflictError(f"task {task_id} needs {hopeless[0]}, which was not completed: have that tried again first")
    state, _ = _first_state(tables, request)
    detail = f"{by} asked for one more attempt"
    again = states.allowed_again(task, state, detail, tables.now)
    again = replace(again, available_at=max(tables.now, task.request.not_before_at or 0))
    return tables.change(again, Why("retried", detail, by))


def hand_over(tables: Tables, task_id: str, to: str, by: str, note: str) -> Task:
    """Ask a person to look at a task, or offer it to an agent."""
    return tables.change(replace(tables.task(task_id), assignee=to), Why("handed_over", _to(to, note), by))


def take_over(tables: Tables, task_id: str, taking: Taking) -> Task:
    """Give a task to another agent, which executes it from now on."""
    task = tables.task(task_id)
    if task.state in ("executing", "completed"):
        raise ConflictError(f"task {task_id} is {task.state}: another agent takes over only what still has to be done")
    if task.agent != taking.agent:
        _move_to(tables, task, taking)
    task = replace(task, agent=taking.agent, assignee=None if task.assignee == taking.agent else task.assignee)
    if task.request.priority > taking.most_priority:
        task = tables.set_priority(task, taking.most_priority)
    return tables.change(task, Why("handed_over", _to(taking.agent, taking.note), taking.by))


def _move_to(tables: Tables, task: Task, taking: Taking) -> None:
    """Count a task as another agent's, if that one may have it."""
    size = tables.kept_of_task(task.id)
    if not task.ended:
        _check_open(tables, taking.agent, taking.most.open)
    check_kept(tables, taking.agent, taking.most.kept_bytes, size)
    tables.add_kept(task.agent, -size)
    tables.add_kept(taking.agent, size)


def _to(name: str, note: str) -> str:
    return f"to {name}: {note}" if note else f"to {name}"


def hold(tables: Tables, agent: str, reason: TaskReason) -> list[Task]:
    """Ask for the end of an agent's attempts; end its other tasks too when it is retired."""
    if reason not in ("agent_suspended", "agent_retired"):
        raise ValueError(f"an agent's tasks are not held because of {reason!r}")
    retired = reason == "agent_retired"
    concerned = ("scheduled", "available", "retryable", "executing") if retired else ("executing",)
    found = tables.tasks(tasks_table.c.agent == agent, tasks_table.c.state.in_(concerned))
    detail = f"the agent was {'retired' if retired else 'suspended'}"
    held = []
    for task in found:
        if task.ending is None or (task.ending == "agent_suspended" and retired):
            ending = states.asked_to_end(task, reason, detail, tables.now)
            held.append(tables.change(ending, Why(reason, detail)))
    return held


def promote(tables: Tables, now: float) -> float | None:
    """Make available what is due, discard what will never be, and return when the next is due."""
    while _discard_hopeless(tables):
        pass  # those that need what was discarded a moment ago
    for task in tables.tasks(_waiting(), tasks_table.c.available_at <= now, ~_needs("scheduled", *_GOING)):
        tables.change(states.entered(task, "available", "due", "", now), Why("due"))
    query = sa.select(sa.func.min(tasks_table.c.available_at)).where(_waiting(), tasks_table.c.available_at > now)
    return tables.connection.execute(query).scalar()


def _discard_hopeless(tables: Tables) -> bool:
    found = tables.tasks(tasks_table.c.state == "scheduled", _needs("cancelled", "discarded"))
    for task in found:
        detail = "a task that it needs was not completed"
        gone = states.entered(task, "discarded", "dependency_failed", detail, tables.now)
        tables.change(gone, Why("dependency_failed", detail))
    return bool(found)


_GOING = ("available", "executing", "retryable")
_OPEN = ("scheduled", *_GOING)


def _waiting() -> sa.ColumnElement[bool]:
    return tasks_table.c.state.in_(("scheduled", "retryable"))


def _needs(*which: str) -> sa.ColumnElement[bool]:
    """Whether a task needs one that is in one of these states."""
    other = tasks_table.alias()
    joined = sa.select(needs_table.c.task).join(other, other.c.id == needs_table.c.needs)
    return joined.where(needs_table.c.task == tasks_table.c.id, other.c.state.in_(which)).exists()
