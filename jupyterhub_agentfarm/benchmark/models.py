"""The records of a benchmark run.

States of a run::

    starting ──▶ running ──▶ completed
        │           ├──────▶ failed        the suite's deadline passed, or no node's server started
        ├───────────┼──────▶ cancelled     by a user
        └───────────┴──────▶ interrupted   the service ended in the middle

A run is completed when every case was tried on every node, whatever came out: outcomes belong to the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

RunState = Literal["starting", "running", "completed", "failed", "cancelled", "interrupted"]
Outcome = Literal["succeeded", "failed", "timed_out", "cancelled", "lost", "skipped"]
SampleScope = Literal["node", "role", "farm"]

#: States in which a run goes on.
GOING: tuple[RunState, ...] = ("starting", "running")


@dataclass(frozen=True)
class RunRequest:
    """What a user asks for."""

    suite: str
    #: Names of the nodes wanted; None: all that are eligible.
    nodes: tuple[str, ...] | None = None
    #: Parameters of notebooks, over those of the suite's cases.
    parameters: Mapping[str, object] = field(default_factory=dict)


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
    def taking_part(self) -> tuple[RunNode, ...]:
        """The nodes that the cases run on."""
        return tuple(node for node in self.nodes if not node.skipped)
