"""The records of a benchmark run.

States of a run::

    starting ──▶ running ──▶ completed
        │           ├──────▶ failed        the suite's deadline passed, or no node's server started
        ├───────────┼──────▶ cancelled     by a user
        └───────────┴──────▶ interrupted   the service was away until the run's deadline had passed

A run is completed when every phase was carried out, whatever came out: outcomes belong to the results, and whether
the suite's limits held is told by `passed`. A service that ends in the middle goes on with its runs at the next start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InvalidField
from ..records import from_json

RunState = Literal["starting", "running", "completed", "failed", "cancelled", "interrupted"]
Outcome = Literal["succeeded", "failed", "timed_out", "cancelled", "lost", "skipped"]
SampleScope = Literal["node", "role", "farm"]
EventKind = Literal[
    "run_started",
    "phase_started",
    "phase_ended",
    "node_lost",
    "node_back",
    "server_restarted",
    "service_gap",
    "drained",
    "limit_exceeded",
    "cancelled",
]

#: States in which a run goes on.
GOING: tuple[RunState, ...] = ("starting", "running")


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for."""

    suite: str
    #: Names of the nodes wanted; None: those of the suite's targets, or else all that are eligible.
    nodes: tuple[str, ...] | None = None
    #: Parameters of notebooks, over those of the suite's cases.
    parameters: Mapping[str, object] = field(default_factory=dict)
    #: Labels that a node must have; the key "role" is the node's role. Given, they replace the suite's targets.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: How long the phases go on together, in seconds; None: what the suite says.
    duration_seconds: float | None = None
    #: Repetitions of every case in every phase; None: what the suite says.
    repeat: int | None = None
    #: Seconds between two rounds of samples; None: what the suite says.
    sample_interval_seconds: float | None = None
    #: Whether the nodes are drained first and kept for the run, whatever the suite says.
    exclusive: bool = False

    def __post_init__(self) -> None:
        """Refuse what no run can have."""
        if self.nodes is not None and self.labels:
            raise InvalidField("labels", "left out where nodes are given", dict(self.labels))
        for name in ("duration_seconds", "sample_interval_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidField(name, "a number of seconds above 0", value)
        if self.repeat is not None and self.repeat < 1:
            raise InvalidField("repeat", "a whole number of at least 1", self.repeat)
        if self.repeat is not None and self.duration_seconds is not None:
            raise InvalidField("repeat", "left out where duration_seconds is given", self.repeat)


@dataclass(frozen=True)
class Phase:
    """A part of a run: the suite's cases on some of its nodes, again and again or for a time."""

    name: str
    #: Names of the nodes that take part.
    nodes: tuple[str, ...]
    #: Cases at once for each GPU of a node's server, or for the server where it has none.
    concurrency: int = 1
    #: How often each case is counted; None: until `duration_seconds` have passed.
    repetitions: int | None = 1
    #: How long the phase goes on, its warm-up not counted; None: until all repetitions are through.
    duration_seconds: float | None = None
    #: Repetitions that are run first and not counted.
    warm_up: int = 0
    #: What the suite's shared parameters are multiplied by: 1 / number of nodes for shared work.
    parameters_factor: float = 1.0


@dataclass(frozen=True)
class CaseError:
    """Why a case did not succeed, where it can be said."""

    message: str
    #: Number of the cell, from 0.
    cell: int | None = None
    traceback: str = ""


@dataclass(frozen=True)
class CaseResult:
    """What came out of one case on one node."""

    node: str
    case: str
    outcome: Outcome
    #: Why it was skipped, lost, timed out …; "" when it succeeded.
    reason: str = ""
    started_at: float | None = None
    duration_seconds: float | None = None
    #: What the notebook published: numbers with their units in the names.
    figures: Mapping[str, object] = field(default_factory=dict)
    #: Name of the figure that stands for the case.
    primary: str | None = None
    #: What it computed on, as the notebook says: "cpu", a GPU's name.
    device: str = ""
    error: CaseError | None = None
    #: Name of the run's phase.
    phase: str = ""
    #: Which of the node's cases at once, from 0.
    lane: int = 0
    #: Which repetition in its phase and lane, from 1, those of the warm-up included.
    repetition: int = 1
    #: Whether it belongs to the warm-up, and so does not count.
    warm_up: bool = False
    ended_at: float | None = None

    @property
    def primary_value(self) -> float | None:
        """The primary figure, when it is a number."""
        value = self.figures.get(self.primary or "")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Sample:
    """One sample of a node, of all nodes of a role, or of the farm."""

    at: float
    scope: SampleScope
    #: The node's name, the role, or "farm".
    name: str
    #: Quantities with their units in the names; what is not known is left out.
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunEvent:
    """Something that happened in a run, at a time."""

    at: float
    kind: EventKind
    #: The node it is about; "" when it is about the run.
    node: str = ""
    #: What happened, in words; of a phase its name.
    detail: str = ""
    #: How long it took, where that can be said: of a `service_gap` its length.
    seconds: float | None = None


@dataclass(frozen=True)
class LimitOutcome:
    """What came out against one limit of the suite."""

    #: The limit's key in the suite's ``[limits]``.
    name: str
    wanted: float
    #: What was measured; None when it could not be.
    got: float | None
    held: bool


@dataclass(frozen=True)
class RunNode:
    """A node's part in a run."""

    name: str
    role: str
    #: Why it takes no part; "" when it does.
    skipped: str = ""
    #: GPUs that its server asks for.
    gpus: int = 0
    #: The node as the controller told it at the start: facts, GPUs, labels.
    about: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """A time, by the wall clock and by one that no one sets."""

    #: Seconds since the epoch.
    at: float
    #: Which start of this machine it was; "" is not known.
    boot_id: str = ""
    #: Seconds since that start.
    boot_seconds: float = 0.0


@dataclass(frozen=True)
class Ending:
    """How a run ended, or is to end."""

    state: RunState
    detail: str
    #: Outcome of the cases that there is no result of.
    missing: Outcome = "failed"


@dataclass(frozen=True)
class Cursor:
    """Where a run is: what a service that is started anew goes on from."""

    created: Moment
    #: When the service last said that it was there.
    alive: Moment
    #: Number of the phase, from 0.
    phase: int = 0
    #: When what counts of the phase began; None: not yet.
    phase_began: Moment | None = None
    #: Nodes that were drained for the run.
    drained: tuple[str, ...] = ()
    #: How it is to end, once that was decided.
    ending: Ending | None = None


@dataclass(frozen=True)
class BenchmarkRun:
    """One execution of a suite."""

    id: str
    suite: str
    state: RunState
    #: Why it is in that state.
    detail: str
    requested_by: str
    created_at: float
    #: The suite as it was read, with the hash of its text.
    definition: Mapping[str, object] = field(default_factory=dict)
    nodes: tuple[RunNode, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    #: Versions, commit, host: under which conditions it was made.
    provenance: Mapping[str, object] = field(default_factory=dict)
    started_at: float | None = None
    ended_at: float | None = None
    #: Whether it was completed and every limit held; None while it goes.
    passed: bool | None = None
    #: The suite's limits and what came out, when it has ended.
    limits: tuple[LimitOutcome, ...] = ()
    #: Labels that its nodes were chosen by.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Seconds between two rounds of samples.
    sample_interval_seconds: float | None = None
    #: Whether its nodes were drained first and are kept for it.
    exclusive: bool = False

    @property
    def going(self) -> bool:
        """Whether it has not ended."""
        return self.state in GOING

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the suite's cases in their order."""
        cases = self.definition.get("cases")
        return tuple(str(case["name"]) for case in cases) if isinstance(cases, list | tuple) else ()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases in their order; () of a run from before there were any."""
        phases = self.definition.get("phases")
        return tuple(from_json(Phase, phase) for phase in phases) if isinstance(phases, list | tuple) else ()

    @property
    def taking_part(self) -> tuple[RunNode, ...]:
        """The nodes that the cases run on."""
        return tuple(node for node in self.nodes if not node.skipped)
