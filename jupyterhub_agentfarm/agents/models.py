"""The records of agents and their tasks.

States of a task::

    scheduled ──▶ available ──▶ executing ──▶ completed
      waits for a    │  ▲  ▲       │  │
      time or for    │  │  └───────┘  │         the attempt was no attempt: agent suspended, service stopped early
      other tasks    │  │             ├──▶ retryable ──▶ available      the farm failed it; it waits before the next
                     │  └─────────────┘
                     └──▶ cancelled, discarded                          out of every state that is not final

`completed`, `cancelled` and `discarded` are final; a person or agent may ask for one more attempt of a task that was
discarded or cancelled, which makes it available again. Every change has a time and a reason of :data:`TaskReason`.

An attempt is one try, with a number that counts from 1 within its task, and a fencing token that grows over all
attempts of all tasks. Whatever is told about an attempt that is not the newest of an executing task is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import InvalidField
from ..models import UserOptions, check_node_name

AgentState = Literal["active", "suspended", "retired"]
TaskState = Literal["scheduled", "available", "executing", "retryable", "completed", "cancelled", "discarded"]
#: What an attempt does at the moment; each is written down before it begins.
AttemptPhase = Literal["starting", "running", "collecting", "ended"]

#: Why a task is in its state, and why an attempt ended.
TaskReason = Literal[
    "submitted",
    "not_before",
    "dependencies",
    "due",
    "claimed",
    "moved",
    "completed",
    "cancelled",
    "retried",
    "handed_over",
    "tidied",
    # the farm's: another attempt is made, unless there were enough
    "node_lost",
    "server_lost",
    "start_failed",
    "kernel_died",
    "output_lost",
    "quota",
    "internal",
    # the task's own: no other attempt is made, unless `retry_errors`
    "cell_error",
    "cell_timeout",
    "run_timeout",
    # never again
    "invalid_notebook",
    "kernel_not_found",
    "refused",
    "dependency_failed",
    "attempts_exhausted",
    # the agent's
    "agent_suspended",
    "agent_retired",
]

#: States that a task does not leave by itself.
FINAL_STATES: tuple[TaskState, ...] = ("completed", "cancelled", "discarded")
#: Reasons that are the farm's fault, and worth another attempt.
FARM_REASONS: frozenset[TaskReason] = frozenset(
    {"node_lost", "server_lost", "start_failed", "kernel_died", "output_lost", "quota", "internal"}
)
#: Reasons that are the notebook's own, and worth another attempt only when it was asked for.
OWN_REASONS: frozenset[TaskReason] = frozenset({"cell_error", "cell_timeout", "run_timeout"})
#: An attempt that ended so does not count towards `max_attempts`.
UNCOUNTED_REASONS: frozenset[TaskReason] = frozenset({"agent_suspended", "quota"})

MAX_PRIORITY = 100
MAX_ATTEMPTS = 20
MAX_DEPENDENCIES = 100
_TEXT_CHARACTERS = 200
_DESCRIPTION_CHARACTERS = 2000
_YEAR_SECONDS = 366 * 86400.0


def _check_text(text: str, where: str, most: int = _TEXT_CHARACTERS) -> None:
    if len(text) > most or "\0" in text:
        raise InvalidField(where, f"at most {most} characters, none of them null", text)


def check_user_name(name: str, where: str) -> None:
    """Refuse what no user of the Hub can be called.

    Raises
    ------
    InvalidField
        It is a path, or has characters that do not print.
    """
    if "/" in name or name in (".", "..") or not name.isprintable():
        raise InvalidField(where, "the name of a user, without slashes", name)


# ---- agents -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AgentLimits:
    """The most that an agent may have at a time, and of GPU-hours within the farm's window."""

    servers: int = 2
    gpus: int = 1
    #: None: what the site allows everybody.
    gpu_hours: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        if not 0 <= self.servers <= 1000:
            raise InvalidField("limits.servers", "a whole number from 0 to 1000", self.servers)
        if not 0 <= self.gpus <= 1000:
            raise InvalidField("limits.gpus", "a whole number from 0 to 1000", self.gpus)
        if self.gpu_hours is not None and not 0 <= self.gpu_hours <= 1e6:
            raise InvalidField("limits.gpu_hours", "a number of hours from 0 to 1000000, or null", self.gpu_hours)


@dataclass(frozen=True)
class AgentRequest:
    """What an admin registers."""

    #: Name of the Hub user: 1-63 lower-case letters, digits and inner hyphens.
    name: str
    description: str = ""
    #: Hub user who answers for it, and may watch it; "": whoever registers.
    owner: str = ""
    #: Labels that every node it runs on must have.
    labels: Mapping[str, str] = field(default_factory=dict)
    limits: AgentLimits = field(default_factory=AgentLimits)
    #: Kernels that its tasks may use; empty: any.
    kernels: tuple[str, ...] = ()
    #: Projects whose workspace it shares: Hub groups of that name.
    projects: tuple[str, ...] = ()
    #: After this many seconds it is retired; None: never.
    expires_in_seconds: float | None = None
    #: How long its token is good; it ends with the agent in any case.
    token_expires_in_seconds: float = 7 * 86400.0

    def __post_init__(self) -> None:
        """Refuse what no agent can be."""
        check_node_name(self.name)
        _check_text(self.description, "description", _DESCRIPTION_CHARACTERS)
        check_user_name(self.owner, "owner")
        if self.expires_in_seconds is not None and not 0 < self.expires_in_seconds <= 10 * _YEAR_SECONDS:
            raise InvalidField("expires_in_seconds", "a number of seconds above 0, at most ten years, or null",
                               self.expires_in_seconds)  # fmt: skip
        check_token_seconds(self.token_expires_in_seconds, "token_expires_in_seconds")


def check_token_seconds(seconds: float, where: str) -> float:
    """Return how long a token may be good.

    Raises
    ------
    InvalidField
        It is not from a minute to a year.
    """
    if not 60 <= seconds <= _YEAR_SECONDS:
        raise InvalidField(where, "a number of seconds from 60 to a year", seconds)
    return seconds


@dataclass(frozen=True)
class Agent:
    """A registered agent."""

    name: str
    description: str
    owner: str
    labels: Mapping[str, str]
    limits: AgentLimits
    kernels: tuple[str, ...]
    projects: tuple[str, ...]
    state: AgentState
    #: Why it is in that state, when somebody or its expiry brought it there.
    detail: str
    created_at: float
    created_by: str
    expires_at: float | None = None
    #: When it last made a request here, or was active at the Hub.
    last_seen_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True)
class NewToken:
    """A token, shown this once."""

    agent: str
    token: str = field(repr=False)
    expires_at: float = 0.0


# ---- tasks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaskRequest:
    """What is to be executed: exactly one of `notebook` and `path` is given."""

    #: The agent that is to do it; None: whoever asks.
    agent: str | None = None
    #: For people.
    name: str = ""
    #: The notebook as a JSON object.
    notebook: Mapping[str, Any] | None = None
    #: A notebook in the agent's workspace, relative to its server's root directory.
    path: str | None = None
    #: Values for the notebook, injected after the cell tagged `parameters`.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: What its server needs, as in the Hub's `user_options`; its priority and restart are the task's own business.
    options: UserOptions = field(default_factory=UserOptions)
    #: Higher goes first, -100 to 100; above 0 only for those who manage agents.
    priority: int = 0
    #: Limit of each attempt, from the start of its kernel.
    timeout_seconds: float = 3600.0
    #: Attempts that the farm may fail before the task is discarded.
    max_attempts: int = 3
    #: Try again also after an error or timeout of the notebook's own.
    retry_errors: bool = False
    #: Not before this time (seconds since the epoch).
    not_before_at: float | None = None
    #: The same key of the same agent is answered with the same task.
    idempotency_key: str | None = None
    #: Tasks that must be completed before; when one of them never will be, this one is discarded.
    after: tuple[str, ...] = ()
    #: Project whose members see the task and may take it over.
    project: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a task."""
        if (self.notebook is None) == (self.path is None):
            raise InvalidField("notebook", "given, or `path`, and not both", "both" if self.notebook else None)
        if self.path is not None and not self.path.endswith(".ipynb"):
            raise InvalidField("path", "the path of a notebook, which ends in .ipynb", self.path)
        for where, text in (("name", self.name), ("idempotency_key", self.idempotency_key or "")):
            _check_text(text, where)
        if self.options.priority or self.options.restart != "never":
            raise InvalidField("options", "without priority and restart: a task has its own `priority`, and starts "
                               "elsewhere by itself", "one with them")  # fmt: skip
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not -MAX_PRIORITY <= self.priority <= MAX_PRIORITY:
            raise InvalidField("priority", f"a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}", self.priority)
        if not 0 < self.timeout_seconds <= 30 * 86400:
            raise InvalidField("timeout_seconds", "a number of seconds above 0, at most 30 days", self.timeout_seconds)
        if not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise InvalidField("max_attempts", f"a whole number from 1 to {MAX_ATTEMPTS}", self.max_attempts)
        if len(self.after) > MAX_DEPENDENCIES:
            raise InvalidField("after", f"at most {MAX_DEPENDENCIES} tasks", f"{len(self.after)} tasks")


@dataclass(frozen=True)
class HandOver:
    """To whom a task is handed over."""

    #: An agent: it executes the task where you act for it, and is offered it otherwise. Or a person, who is asked to
    #: look at it.
    to: str
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no name, or too long."""
        if not self.to:
            raise InvalidField("to", "the name of an agent or of a person", self.to)
        _check_text(self.to, "to")
        check_user_name(self.to, "to")
        _check_text(self.note, "note", _DESCRIPTION_CHARACTERS)


@dataclass(frozen=True)
class TaskError:
    """The exception that a notebook ended with."""

    ename: str
    evalue: str
    #: Index of the cell in the executed notebook, from 0.
    cell: int | None = None
    #: Line in the cell, from 1; None: the kernel does not tell.
    line: int | None = None
    #: That line's text; where the line is not known, the first of the cell that is not empty.
    source_line: str | None = None
    traceback: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A unit of work of an agent."""

    #: 16 hex digits.
    id: str
    agent: str
    state: TaskState
    reason: TaskReason
    #: `reason` for people, with what is known.
    detail: str
    #: As it was asked for; the notebook itself is kept in a file.
    request: TaskRequest
    created_at: float
    #: Hub user who submitted it; of a service "service/NAME", of the Hub's machine itself "local/local".
    created_by: str
    #: When it may be taken: its time, or the end of the pause after a failed attempt.
    available_at: float
    #: When it came into its state.
    changed_at: float
    #: Number of the newest attempt; 0: there was none.
    attempt: int = 0
    #: Kernel that its notebook names; "": none, or the notebook is in the workspace and was not read there yet.
    kernel: str = ""
    #: Nodes on which attempts were lost or failed, the newest last: others are taken where they can be.
    avoid: tuple[str, ...] = ()
    #: Name of the Hub server of the newest attempt, which may be one that an earlier task left; None: there was none.
    server_name: str | None = None
    #: Attempts that count towards `max_attempts`.
    failures: int = 0
    #: Attempts that the task may have: `max_attempts`, and one more for each retry that was asked for.
    allowed: int = 1
    #: Person who was asked to look at it, or agent that it is offered to; None: nobody.
    assignee: str | None = None
    #: Why its attempt is to end: "cancelled", "agent_suspended" or "agent_retired"; None: it goes on.
    ending: TaskReason | None = None
    started_at: float | None = None
    ended_at: float | None = None
    error: TaskError | None = None

    @property
    def ended(self) -> bool:
        """Whether it is in a state that it does not leave by itself."""
        return self.state in FINAL_STATES

    @property
    def cancelling(self) -> bool:
        """Whether somebody asked for the end of its attempt."""
        return self.ending is not None


@dataclass(frozen=True)
class Attempt:
    """One try of a task."""

    task: str
    #: From 1 within the task.
    number: int
    #: The fencing token: grows over all attempts.
    fence: int
    agent: str
    #: Name of the Hub server that it runs in.
    server_name: str
    phase: AttemptPhase
    started_at: float
    node: str | None = None
    #: The run in the server's runs extension.
    run_id: str | None = None
    #: When the run was taken by the server.
    running_at: float | None = None
    ended_at: float | None = None
    outcome: TaskReason | None = None
    detail: str = ""

    @property
    def key(self) -> str:
        """What makes the submission of its run the same run, however often it is made."""
        return f"task-{self.task}-{self.number}"


@dataclass(frozen=True)
class Progress:
    """How far an attempt is."""

    attempt: int
    cells_done: int
    cells_total: int
    #: Index of the cell that executes now, counting all cells from 0.
    current_cell: int | None = None


@dataclass(frozen=True)
class Change:
    """A change of a task's state."""

    #: Grows over all changes of all tasks: what followers resume from.
    number: int
    task: str
    at: float
    state: TaskState
    reason: TaskReason
    detail: str
    attempt: int
    #: Hub user or service that asked for it; "" is the farm itself.
    by: str = ""


@dataclass(frozen=True)
class Artifact:
    """A file that an attempt left in its artifacts folder."""

    task: str
    attempt: int
    #: Relative, with slashes.
    path: str
    size_bytes: int
    sha256: str
