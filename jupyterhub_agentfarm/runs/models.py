"""The records of the API of runs. Times are ISO 8601 in UTC, durations seconds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import RunFailed

State = Literal["queued", "executing", "completed", "failed", "cancelled"]

#: Why a run ended without being completed. `internal` is a fault of this software or a full disk; `detail` says more.
Reason = Literal[
    "cell_error",
    "kernel_died",
    "cell_timeout",
    "run_timeout",
    "cancelled",
    "server_stopped",
    "output_lost",
    "invalid_notebook",
    "kernel_not_found",
    "internal",
]

#: The states that a run does not leave.
FINAL_STATES: frozenset[State] = frozenset({"completed", "failed", "cancelled"})

#: Longest time for which an answer about a run is held back until it has ended.
MOST_WAIT_SECONDS = 30.0

#: The MIME type by which a notebook publishes results.
RESULT_MIME = "application/vnd.agentfarm.result+json"


@dataclass(frozen=True)
class RunRequest:
    """What is to be executed: exactly one of `notebook` and `path` is given."""

    #: The notebook as a JSON object.
    notebook: Mapping[str, Any] | None = None
    #: A notebook's path, relative to the server's root directory.
    path: str | None = None
    #: Values for the notebook, injected after the cell tagged `parameters`.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: The kernel; None takes the one that the notebook names.
    kernel_name: str | None = None
    #: Limit of the whole run, from the start of the kernel.
    timeout_seconds: float | None = None
    #: Limit of each cell.
    cell_timeout_seconds: float | None = None
    #: Where to write the executed notebook at the end, relative to the server's root directory.
    output_path: str | None = None
    #: A name for people.
    name: str = ""
    #: The same key is answered with the same run.
    idempotency_key: str | None = None
    #: Extra variables of the kernel's environment; they are not kept.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CellTiming:
    """When a cell was executed; `index` counts all cells of the executed notebook from 0."""

    index: int
    started_at: str
    duration_seconds: float


@dataclass(frozen=True)
class CellError:
    """The exception that ended a run."""

    #: Index of the cell in the executed notebook.
    cell: int
    #: Line in the cell, from 1; None where the kernel does not tell.
    line: int | None
    #: That line's text; where the line is not known, the first of the cell that is not empty.
    source_line: str | None
    ename: str
    evalue: str
    #: Lines without terminal colours.
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One execution of a notebook, as the API answers it."""

    id: str
    name: str
    state: State
    kernel_name: str
    created_at: str
    #: Code cells that there are to execute, and those that have ended well.
    cells_total: int
    cells_done: int = 0
    #: Index of the cell that executes now, or that was executing when the run ended early.
    current_cell: int | None = None
    reason: Reason | None = None
    #: One sentence for people.
    detail: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    #: From `started_at` to `ended_at`, by the monotonic clock.
    duration_seconds: float | None = None
    cell_timings: tuple[CellTiming, ...] = ()
    error: CellError | None = None
    #: Sentences that say which output is not in the notebook.
    cut: tuple[str, ...] = ()
    output_path: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the run is in a state that it does not leave."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class RunArtifact:
    """A file that the notebook left in the folder that $AGENTFARM_ARTIFACTS names."""

    #: Relative, with slashes.
    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Artifacts:
    """What a run left so far."""

    artifacts: tuple[RunArtifact, ...] = ()
    #: Sentences that say which files are left out, and why.
    refused: tuple[str, ...] = ()


class RunEnded(RunFailed):
    """The run ends here, and `why` it does is known."""

    def __init__(self, why: Reason, detail: str) -> None:
        self.why: Reason = why
        super().__init__(detail)

    def facts(self) -> dict[str, object]:
        """Return why the run ended."""
        return {"why": self.why}


def utc_now() -> str:
    """Return the time of day, ISO 8601 in UTC with milliseconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age_seconds(moment: str) -> float:
    """Return the seconds since `moment`, a time that :func:`utc_now` gave."""
    then = dt.datetime.fromisoformat(moment)
    return (dt.datetime.now(dt.UTC) - then).total_seconds()
