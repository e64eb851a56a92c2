"""The records of a suite: what its file says, checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import InvalidField, NotFoundError
from ..models import Role
from ..share import share_path

_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_NAME_FORM = "1-63 lower-case letters, digits, inner hyphens and underscores"

Mode = Literal["once", "repeat", "duration", "ramp"]
Work = Literal["each", "shared"]

#: The most repetitions, and the most cases at once for each GPU.
MAX_REPETITIONS, MAX_CONCURRENCY = 1_000_000, 64
#: The most nodes that a suite can name in a number.
MAX_NODES = 100_000


@dataclass(frozen=True)
class Case:
    """One measurement of a suite: a notebook with parameters."""

    name: str
    #: Path of the notebook, relative to the suite's file or to the shared folder of notebooks.
    notebook: str
    timeout_seconds: float = 600
    parameters: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        check_name("name", self.name)
        _check_seconds("timeout_seconds", self.timeout_seconds)
        path = Path(self.notebook)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".ipynb":
            raise InvalidField("notebook", "a relative path of an .ipynb file without ..", self.notebook)
        for key, value in self.parameters.items():
            _check_json(f"parameters.{key}", value)


@dataclass(frozen=True)
class Targets:
    """Which nodes a suite is for, where the request for a run does not say; all that are eligible by default."""

    #: Names of nodes; () is any.
    nodes: tuple[str, ...] = ()
    #: Labels that a node must have.
    labels: Mapping[str, str] = field(default_factory=dict)
    role: Role | None = None


@dataclass(frozen=True)
class SuitePhase:
    """A ``[[phase]]`` of a suite's file."""

    name: str
    #: How many nodes take part; 0 is all.
    nodes: int = 0
    #: Cases at once for each GPU; None: the suite's.
    concurrency: int | None = None
    #: Repetitions; None: as the suite's mode says.
    repeat: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        check_name("name", self.name)
        _check_whole("nodes", self.nodes, 0, MAX_NODES)
        if self.concurrency is not None:
            _check_whole("concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        if self.repeat is not None:
            _check_whole("repeat", self.repeat, 1, MAX_REPETITIONS)


@dataclass(frozen=True)
class Limits:
    """What a run must keep within to pass; what is None is not asked for."""

    #: Memory in use of a node's total, at any sample.
    max_memory_ratio: float | None = None
    #: Memory in use of a node's GPUs, at any sample.
    max_gpu_memory_ratio: float | None = None
    #: Succeeded cases of those tried; warm-up, skipped and cancelled ones do not count.
    min_succeeded_ratio: float = 1
    #: Succeeded cases of the farm per minute of its phases.
    min_cases_per_minute: float | None = None
    #: Nodes that were lost, whether or not they came back.
    max_nodes_lost: int | None = None
    #: Jain's index of the cases that each node completed per minute.
    min_balance_ratio: float | None = None
    #: Whether a limit that cannot hold any more ends the run.
    fail_fast: bool = False

    def __post_init__(self) -> None:
        """Refuse what no run can be held against."""
        for name in ("max_memory_ratio", "max_gpu_memory_ratio", "min_succeeded_ratio", "min_balance_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InvalidField(name, "a number from 0 to 1", value)
        if self.min_cases_per_minute is not None and not 0 <= self.min_cases_per_minute < math.inf:
            raise InvalidField("min_cases_per_minute", "a number of at least 0", self.min_cases_per_minute)
        if self.max_nodes_lost is not None:
            _check_whole("max_nodes_lost", self.max_nodes_lost, 0, MAX_NODES)


@dataclass(frozen=True)
class Suite:
    """A set of cases that a run executes on every node, phase by phase."""

    name: str
    title: str
    cases: tuple[Case, ...]
    description: str = ""
    #: GPUs that each server asks for; None ("auto" in the file): one where the node has any.
    gpus: int | None = None
    sample_interval_seconds: float = 300
    #: Deadline of the whole run, the servers' start included, beyond the duration that it is to go on for.
    timeout_seconds: float = 3600
    mode: Mode = "once"
    #: Repetitions of each case in mode "repeat", and in each step of "ramp".
    repeat: int = 1
    #: How long the phases of mode "duration" go on together; ``duration = "4h"`` in the file.
    duration_seconds: float | None = None
    #: Numbers of nodes in the steps of mode "ramp", 0 for all; () is 1, 2, 4 … all.
    ramp: tuple[int, ...] = ()
    targets: Targets = field(default_factory=Targets)
    #: Cases at once for each GPU of a server, or for the server where it has none. A server executes
    #: `RunBook.max_concurrent` of them, 4 unless its configuration says otherwise; the others wait on the node.
    concurrency: int = 1
    #: The file's ``[[phase]]`` tables; () is one phase on all nodes.
    phase_tables: tuple[SuitePhase, ...] = ()
    #: "each": every node does all the work; "shared": the nodes of a phase share it.
    work: Work = "each"
    #: Parameters that are divided by the number of nodes of the phase, where the work is shared.
    shared_parameters: tuple[str, ...] = ()
    #: Repetitions that each phase begins with and that do not count.
    warm_up: int = 0
    #: Whether the nodes are drained first and kept for the run.
    exclusive: bool = False
    limits: Limits = field(default_factory=Limits)
    #: SHA-256 of the file's text.
    sha256: str = ""
    #: Folder of the file.
    folder: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        check_name("name", self.name)
        _check_seconds("sample_interval_seconds", self.sample_interval_seconds)
        _check_seconds("timeout_seconds", self.timeout_seconds)
        if self.gpus is not None and not 0 <= self.gpus <= 16:
            raise InvalidField("gpus", '"auto" or a whole number from 0 to 16', self.gpus)
        if not self.cases:
            raise InvalidField("case", "at least one [[case]]", None)
        _check_different("case.name", [case.name for case in self.cases])
        _check_whole("concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        _check_whole("warm_up", self.warm_up, 0, MAX_REPETITIONS)
        self._check_mode()
        self._check_phases()
        self._check_work()

    def _check_mode(self) -> None:
        _check_whole("repeat", self.repeat, 1, MAX_REPETITIONS)
        if self.repeat != 1 and self.mode not in ("repeat", "ramp"):
            raise InvalidField("repeat", 'left out unless mode is "repeat" or "ramp"', self.repeat)
        if self.mode == "duration":
            _check_seconds("duration", 0 if self.duration_seconds is None else self.duration_seconds)
        elif self.duration_seconds is not None:
            raise InvalidField("duration", 'left out unless mode is "duration"', self.duration_seconds)
        if self.ramp and self.mode != "ramp":
            raise InvalidField("ramp", 'left out unless mode is "ramp"', list(self.ramp))
        steps = [MAX_NODES + 1 if step == 0 else step for step in self.ramp]
        if min(steps, default=1) < 1 or steps != sorted(set(steps)):
            raise InvalidField("ramp", 'growing numbers of nodes, with "all" or 0 only at the end', list(self.ramp))

    def _check_phases(self) -> None:
        names = [phase.name for phase in self.phase_tables]
        if names and self.mode == "ramp":
            raise InvalidField("phase", 'left out where mode is "ramp"', names)
        _check_different("phase.name", names)

    def _check_work(self) -> None:
        if self.work == "each" and self.shared_parameters:
            raise InvalidField("shared_parameters", 'left out unless work is "shared"', list(self.shared_parameters))
        if self.work == "shared" and not self.shared_parameters:
            raise InvalidField("shared_parameters", 'given where work is "shared": at least one name', [])
        for name in self.shared_parameters:
            values = [case.parameters[name] for case in self.cases if name in case.parameters]
            if not values:
                raise InvalidField("shared_parameters", "names of parameters of the suite's cases", name)
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise InvalidField(f"parameters.{name}", "a number: the nodes share it", value)

    def gpus_for(self, node_gpus: int) -> int:
        """Return how many GPUs the server on a node with `node_gpus` asks for."""
        return min(1, node_gpus) if self.gpus is None else self.gpus

    def notebook_path(self, case: Case) -> Path:
        """Return where a case's notebook lies.

        Raises
        ------
        NotFoundError
            It is neither beside the suite nor in the shared folder of notebooks.
        """
        places = (Path(self.folder), share_path("notebooks"))
        for place in places:
            if (place / case.notebook).is_file():
                return place / case.notebook
        looked = " and ".join(str(place) for place in places)
        raise NotFoundError(f"suite {self.name}, case {case.name}: there is no {case.notebook} in {looked}")


def check_name(key: str, name: str) -> None:
    """Refuse what cannot be the name of a suite, a case or a phase."""
    if not _NAME.fullmatch(name):
        raise InvalidField(key, _NAME_FORM, name)


def _check_seconds(key: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InvalidField(key, "a number of seconds above 0", value)


def _check_whole(key: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidField(key, f"a whole number from {least} to {most}", value)


def _check_different(key: str, names: Iterable[str]) -> None:
    listed = list(names)
    if twice := {name for name in listed if listed.count(name) > 1}:
        raise InvalidField(key, f"different in every {key.partition('.')[0]}", min(twice))


def _check_json(key: str, value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise InvalidField(key, "a value that JSON can carry: no date, no nan", value) from exc
