"""From how a run ended to how its attempt did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import InvalidField
from ...models import KERNEL_NAME, UserOptions
from ...runs.client import RunRefused
from ..models import TaskError, TaskReason
from .told import ToldRun

#: What a run's reason is for a task. A run that somebody cancelled in the server was cancelled.
REASONS: Mapping[str, TaskReason] = {
    "cell_error": "cell_error",
    "kernel_died": "kernel_died",
    "cell_timeout": "cell_timeout",
    "run_timeout": "run_timeout",
    "cancelled": "cancelled",
    "server_stopped": "server_lost",
    "output_lost": "output_lost",
    "invalid_notebook": "invalid_notebook",
    "kernel_not_found": "kernel_not_found",
    "internal": "internal",
}
#: After these the server, or the GPU that it holds, may be what failed.
_UNSOUND: frozenset[TaskReason] = frozenset({"server_lost", "internal", "kernel_died"})
#: What it means when the server refuses to take or to tell a run.
_REFUSALS: Mapping[int, TaskReason] = {
    400: "invalid_notebook",
    404: "server_lost",
    409: "server_lost",
    413: "invalid_notebook",
}


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    reason: TaskReason
    #: For people.
    detail: str = ""
    error: TaskError | None = None
    #: Whether its server may be used for another task.
    sound: bool = False
    #: Whether everything that it left is kept, so that its server need not keep it.
    complete: bool = False


class Over(Exception):
    """The attempt cannot go on; the outcome says why."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(outcome.detail)


def outcome_of(run: ToldRun, notes: tuple[str, ...] = ()) -> Outcome:
    """Return the outcome of a run that has ended.

    Parameters
    ----------
    run
        As the server tells it.
    notes
        Sentences about what of it is not kept.
    """
    reason: TaskReason = "completed" if run.state == "completed" else REASONS.get(run.reason or "", "internal")
    detail = " ".join([*filter(None, [run.detail]), *run.cut, *notes])
    return Outcome(reason, detail, run.error, sound=reason not in _UNSOUND, complete=not notes)


def missing_kernel(run: ToldRun, options: UserOptions) -> str:
    """Return the kernel that a run lacked because nobody knew of it when its server was asked for; "": none.

    A notebook that is read on its server names its kernel only there.
    """
    unknown = run.reason == "kernel_not_found" and not options.kernel
    return run.kernel_name if unknown and KERNEL_NAME.fullmatch(run.kernel_name) else ""


def garbled(exc: InvalidField) -> Outcome:
    """Return the outcome where a server's answer is none of a farm's server."""
    return Outcome("internal", f"what its server tells cannot be read: {exc.message}")


def refused_run(refusal: RunRefused) -> Outcome:
    """Return the outcome where the server refuses to take the run, or does not know it."""
    reason = _REFUSALS.get(refusal.status, "internal")
    return Outcome(reason, refusal.message, sound=reason == "invalid_notebook")
