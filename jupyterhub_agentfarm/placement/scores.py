"""Scorers say which of the nodes that pass the filters is best.

A scorer is a pure function of a node and a request that returns 0 (worst) to 1 (best). A node's score is their
weighted mean. What was granted so lately that telemetry does not show it is counted, so that ten requests at the same
moment do not all go to the node that was idle before the first.

Further scorers come from the entry point group ``agentfarm.scorers``; the entry point's name is the scorer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from ..errors import ConfigError
from ..models import PlacementRequest
from .view import NodeView, free_gpus

Scorer = Callable[[NodeView, PlacementRequest], float]

ENTRY_POINTS = "agentfarm.scorers"


def gpu_headroom(view: NodeView, request: PlacementRequest) -> float:
    """Prefer nodes that keep GPUs free; and for a request without GPUs, nodes that have none."""
    total = len(view.gpus)
    if not request.options.gpus:
        return 0.0 if total else 1.0
    return (len(free_gpus(view, request.options)) - request.options.gpus) / total if total else 0.0


def cpu(view: NodeView, request: PlacementRequest) -> float:
    """Prefer nodes whose cores are idle."""
    report = view.node.telemetry
    if report is None:
        return 0.0
    busy = report.cpu_utilization_ratio
    if busy is None:
        busy = min(1.0, report.load1 / report.cpus)
    return _clip(1 - busy - _unseen_cpus(view) / report.cpus)


def memory(view: NodeView, request: PlacementRequest) -> float:
    """Prefer nodes with available memory."""
    report = view.node.telemetry
    if report is None or not report.memory_total_bytes:
        return 0.0
    return _clip((report.memory_available_bytes - view.promised.unseen_memory_bytes) / report.memory_total_bytes)


def load(view: NodeView, request: PlacementRequest) -> float:
    """Prefer nodes with few runnable processes per core; falls on and on above one per core."""
    report = view.node.telemetry
    if report is None:
        return 0.0
    return 1 / (1 + (report.load1 + _unseen_cpus(view)) / report.cpus)


def spread(view: NodeView, request: PlacementRequest) -> float:
    """Prefer nodes with few servers of the farm."""
    return 1 / (1 + view.promised.leases)


SCORERS: Mapping[str, Scorer] = {
    "gpu_headroom": gpu_headroom,
    "cpu": cpu,
    "memory": memory,
    "load": load,
    "spread": spread,
}


def load_scorers() -> dict[str, Scorer]:
    """Return the built-in scorers and those of installed packages.

    Raises
    ------
    ConfigError
        A package's scorer has the name of a built-in one, or cannot be imported.
    """
    scorers = dict(SCORERS)
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in scorers:
            raise ConfigError(
                f"the scorer {entry.name} of {entry.value} has the name of another: rename its entry point"
            )
        try:
            scorers[entry.name] = entry.load()
        except (ImportError, AttributeError) as exc:
            raise ConfigError(f"the scorer {entry.name} cannot be imported from {entry.value}: {exc}") from exc
    return scorers


def _unseen_cpus(view: NodeView) -> float:
    """Return the cores that new servers will use: one each, when nothing else is known."""
    return max(view.promised.unseen_cpus, view.promised.unseen_leases)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
