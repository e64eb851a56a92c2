"""What becomes of a task: which change is allowed from which state, and with which reason.

Nothing here reads or writes: each function gets a task as it is and returns it as it will be. See :mod:`..models` for
the diagram.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...errors import ConflictError
from ...models import MOST_AVOIDED
from ..models import FARM_REASONS, FINAL_STATES, OWN_REASONS, UNCOUNTED_REASONS, Task, TaskError, TaskReason, TaskState

#: From each state, the states that a task can come into next.
NEXT: Mapping[TaskState, frozenset[TaskState]] = {
    "scheduled": frozenset({"available", "cancelled", "discarded"}),
    "available": frozenset({"executing", "cancelled", "discarded"}),
    "executing": frozenset({"available", "retryable", "completed", "cancelled", "discarded"}),
    "retryable": frozenset({"available", "cancelled", "discarded"}),
    "completed": frozenset(),
    "cancelled": frozenset({"available", "scheduled"}),
    "discarded": frozenset({"available", "scheduled"}),
}
#: Reasons for which the end of an attempt is asked, and what its task comes into.
ENDINGS: Mapping[TaskReason, TaskState] = {
    "cancelled": "cancelled",
    "agent_retired": "cancelled",
    "agent_suspended": "available",
}
#: Reasons after which no attempt can be better.
HOPELESS: frozenset[TaskReason] = frozenset({"invalid_notebook", "kernel_not_found", "refused"})
#: Reasons for which the node may be to blame, so that the next attempt is made elsewhere where that can be.
BLAMED_REASONS: frozenset[TaskReason] = FARM_REASONS - {"quota"}
#: Everything that an attempt can end with.
OUTCOMES: frozenset[TaskReason] = FARM_REASONS | OWN_REASONS | HOPELESS | frozenset(ENDINGS) | {"completed"}


@dataclass(frozen=True)
class Ended:
    """How an attempt ended."""

    outcome: TaskReason
    detail: str = ""
    error: TaskError | None = None
    #: How long the task waits before another attempt.
    pause_seconds: float = 0
    #: Where the attempt was; None: on no node, or that is not known.
    node: str | None = None


def entered(task: Task, state: TaskState, reason: TaskReason, detail: str, now: float) -> Task:
    """Return a task as it comes into another state.

    Raises
    ------
    ConflictError
        There is no way from its state to that one.
    """
    if state not in NEXT[task.state]:
        raise ConflictError(f"task {task.id} is {task.state}: it cannot become {state}")
    ended_at = now if state in FINAL_STATES else None
    return replace(
        task, state=state, reason=reason, detail=detail, changed_at=now, ended_at=ended_at, ending=None
    )  # fmt: skip


def claimed(task: Task, now: float) -> Task:
    """Return an available task as its next attempt begins.

    Raises
    ------
    ConflictError
        It is not available.
    """
    number = task.attempt + 1
    begun = entered(task, "executing", "claimed", f"attempt {number}", now)
    return replace(begun, attempt=number, started_at=task.started_at or now)


def after_attempt(task: Task, ended: Ended, now: float) -> Task:
    """Return an executing task as it is after its attempt ended.

    - An attempt that was completed is completed, also when its end had been asked for.
    - Where its end had been asked for, the task goes where that leads, unless the notebook itself ended it first.
    - What the farm failed is tried again until there were enough attempts; so is the notebook's own failure with
      `retry_errors`.

    Raises
    ------
    ValueError
        No attempt can end with this outcome.
    """
    if ended.outcome not in OUTCOMES:
        raise ValueError(f"an attempt cannot end with {ended.outcome!r}")
    if ended.outcome == "completed":
        return replace(entered(task, "completed", "completed", ended.detail, now), error=None)
    ending = _ending(task, ended)
    if ending is not None:
        detail = task.detail if task.ending == ending else ended.detail
        return replace(entered(task, ENDINGS[ending], ending, detail, now), available_at=now)
    task = replace(task, error=ended.error)
    if _worth_another(task, ended.outcome):
        return _after_failure(task, ended, now)
    return replace(entered(task, "discarded", ended.outcome, ended.detail, now), failures=task.failures + 1)


def _ending(task: Task, ended: Ended) -> TaskReason | None:
    """Return for what reason the attempt was ended by somebody, or None."""
    if ended.outcome in ENDINGS:
        return task.ending or ended.outcome
    if task.ending == "agent_suspended" and ended.outcome not in FARM_REASONS:
        return None  # the notebook failed before the suspension reached it
    return task.ending


def _worth_another(task: Task, outcome: TaskReason) -> bool:
    return outcome in FARM_REASONS or (outcome in OWN_REASONS and task.request.retry_errors)


def _after_failure(task: Task, ended: Ended, now: float) -> Task:
    failures = task.failures if ended.outcome in UNCOUNTED_REASONS else task.failures + 1
    if ended.outcome not in UNCOUNTED_REASONS and failures >= task.allowed:
        times = "1 attempt" if failures == 1 else f"{failures} attempts"
        detail = f"{times} failed, the last one with {ended.outcome}: {ended.detail}"
        return replace(entered(task, "discarded", "attempts_exhausted", detail, now), failures=failures)
    waiting = entered(task, "retryable", ended.outcome, ended.detail, now)
    avoid = _avoided(task, ended.node) if ended.outcome in BLAMED_REASONS else task.avoid
    return replace(waiting, failures=failures, available_at=now + ended.pause_seconds, avoid=avoid)


def _avoided(task: Task, node: str | None) -> tuple[str, ...]:
    known = tuple(name for name in task.avoid if name != node)
    return known if node is None else (*known, node)[-MOST_AVOIDED:]


def asked_to_end(task: Task, reason: TaskReason, detail: str, now: float) -> Task:
    """Return a task after somebody asked for its end: at once, or when its attempt has ended.

    Raises
    ------
    ConflictError
        It has ended.
    """
    if task.ended:
        raise ConflictError(f"task {task.id} is {task.state} already")
    if task.state == "executing":
        return replace(task, ending=reason, detail=detail)
    return entered(task, ENDINGS[reason], reason, detail, now)


def allowed_again(task: Task, state: TaskState, detail: str, now: float) -> Task:
    """Return a cancelled or discarded task that may have one more attempt.

    Raises
    ------
    ConflictError
        It is in another state.
    """
    if task.state not in ("cancelled", "discarded"):
        raise ConflictError(f"task {task.id} is {task.state}: only one that was cancelled or discarded is tried again")
    again = entered(task, state, "retried", detail, now)
    return replace(again, allowed=max(task.allowed, task.failures) + 1, available_at=now)
