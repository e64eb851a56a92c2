"""The plan of a run: which nodes, and which phases; pure functions of the suite, the request and the farm.

What holds of every plan: each phase has at least one node, all of them are nodes of the run, no name is there twice;
the steps of a ramp are nested, each larger than the one before; the durations of timed phases add up to the duration
that was asked for; shared work adds up to the work of one node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConflictError, InvalidField
from .definition import Case, Suite, SuitePhase
from .models import Phase, RunNode, RunRequest

#: Name of the phase of a suite that says nothing of phases.
ONLY_PHASE = "main"

NodeViews = Mapping[str, Mapping[str, Any]]


def wanted_nodes(views: NodeViews, request: RunRequest, suite: Suite) -> list[str]:
    """Return the names of the nodes that a run is for, eligible or not, in order.

    Raises
    ------
    InvalidField
        A node is named that the farm does not have.
    ConflictError
        No node has the labels or the role.
    """
    targets = suite.targets
    if request.nodes is not None:
        return _named(views, request.nodes, "nodes")
    if request.labels:
        return _labelled(views, sorted(views), request.labels)
    names = _named(views, targets.nodes, "targets.nodes") if targets.nodes else sorted(views)
    selector = {**targets.labels, **({"role": targets.role} if targets.role else {})}
    return _labelled(views, names, selector)


def _named(views: NodeViews, names: Sequence[str], field: str) -> list[str]:
    known = ", ".join(sorted(views)) or "none: the farm has no nodes"
    if not names:
        raise InvalidField(field, f"names of nodes of this farm ({known})", [])
    for name in names:
        if name not in views:
            raise InvalidField(field, f"names of nodes of this farm ({known})", name)
    return sorted(set(names))


def _labelled(views: NodeViews, names: list[str], selector: Mapping[str, str]) -> list[str]:
    found = [name for name in names if selector.items() <= _labels(views[name]).items()]
    if names and not found:
        wanted = ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
        raise ConflictError(f"no node of the farm has {wanted} (they are: {', '.join(names)})")
    return found


def _labels(view: Mapping[str, Any]) -> dict[str, str]:
    return {**view["spec"]["labels"], "role": view["spec"]["role"]}


def phases_of(suite: Suite, request: RunRequest, nodes: Sequence[str]) -> tuple[Phase, ...]:
    """Return the phases of a run on `nodes`, those that take part.

    Raises
    ------
    ConflictError
        A phase of the suite needs more nodes than there are.
    """
    tables = _tables(suite, len(nodes))
    timed = [table.name for table in tables if _seconds(suite, request, table) is not None]
    return tuple(_phase(suite, request, table, nodes, len(timed)) for table in tables)


def _tables(suite: Suite, nodes: int) -> tuple[SuitePhase, ...]:
    if suite.mode == "ramp":
        return tuple(SuitePhase(f"nodes-{step}", step) for step in _steps(suite.ramp, nodes))
    return suite.phase_tables or (SuitePhase(ONLY_PHASE),)


def _steps(ramp: Sequence[int], nodes: int) -> list[int]:
    """Return the numbers of nodes of a ramp, none above what there is."""
    asked = ramp or [2**power for power in range(nodes.bit_length())] + [0]
    return sorted({min(step, nodes) or nodes for step in asked})


def _seconds(suite: Suite, request: RunRequest, table: SuitePhase) -> float | None:
    """Return the duration that a phase has its share of; None: it goes by repetitions."""
    if request.repeat is not None:
        return None
    if request.duration_seconds is not None:
        return request.duration_seconds
    return suite.duration_seconds if table.repeat is None else None


def _phase(suite: Suite, request: RunRequest, table: SuitePhase, nodes: Sequence[str], timed: int) -> Phase:
    if table.nodes > len(nodes):
        raise ConflictError(
            f"phase {table.name} of suite {suite.name} needs {table.nodes} nodes, {len(nodes)} take part"
        )
    names = tuple(nodes[: table.nodes or len(nodes)])
    seconds = _seconds(suite, request, table)
    return Phase(
        name=table.name,
        nodes=names,
        concurrency=table.concurrency or suite.concurrency,
        repetitions=(request.repeat or table.repeat or suite.repeat) if seconds is None else None,
        duration_seconds=None if seconds is None else seconds / timed,
        warm_up=suite.warm_up,
        parameters_factor=1 / len(names) if suite.work == "shared" else 1.0,
    )


def parameters_of(case: Case, given: Mapping[str, object], shared: Sequence[str], factor: float) -> dict[str, object]:
    """Return a case's parameters in a phase.

    Parameters
    ----------
    given
        Those of the request, over the case's own.
    shared, factor
        Names of the parameters that the nodes of the phase share, and each node's part. A whole number stays one, and
        at least 1.
    """
    values = {**case.parameters, **given}
    for name in shared:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            values[name] = max(1, round(value * factor))
        elif isinstance(value, float):
            values[name] = value * factor
    return values


def check_parameters(suite: Suite, given: Mapping[str, object]) -> None:
    """Refuse values of a request that the nodes cannot share.

    Raises
    ------
    InvalidField
        One is no number.
    """
    for name in suite.shared_parameters:
        value = given.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidField(f"parameters.{name}", "a number: the nodes share it", value)


def lanes_of(phase: Phase, node: RunNode) -> int:
    """Return how many cases a node executes at once in a phase."""
    return phase.concurrency * max(1, node.gpus)


def planned_cases(phases: Sequence[Phase], nodes: Mapping[str, RunNode], cases: int) -> int | None:
    """Return how many results will count; None where a phase goes on for a time."""
    total = 0
    for phase in phases:
        if phase.repetitions is None:
            return None
        total += phase.repetitions * cases * sum(lanes_of(phase, nodes[name]) for name in phase.nodes)
    return total


def deadline_seconds(suite: Suite, phases: Sequence[Phase]) -> float:
    """Return how long a run may take, from when it was asked for."""
    return suite.timeout_seconds + sum(phase.duration_seconds or 0 for phase in phases)
