"""Scorers say which of the nodes that pass the filters is best.

A scorer is a pure function of a node and a request that returns 0 (worst) to 1 (best). A node's score is their
weighted mean. What was granted so lately that telemetry does not show it is counted, so that ten requests at the same
moment do not all go to the node that was idle before the first.

Further scorers come from the entry point group ``agentfarm.scorers``; the entry point's name is the scorer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from ..errors import ConfigError
from ..models import PlacementRequest, Telemetry
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
    return 0.0 if report is None else _clip(1 - _busy(report) - view.promised.unseen_spoken_cpus / report.cpus)


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
    return 1 / (1 + (report.load1 + view.promised.unseen_spoken_cpus) / report.cpus)


def spread(view: NodeView, request: PlacementRequest) -> float:
    """Prefer nodes of whose cores few are spoken for, whether by what is busy or by the farm's servers.

    A server counts with the cores that it was promised, one at least. The larger of both counts, not the sum: so idle
    servers count although nothing is busy, and those that are busy are not counted twice. Falls on and on.
    """
    report, promised = view.node.telemetry, view.promised
    if report is None:
        return 0.0
    busy = _busy(report) + view.promised.unseen_spoken_cpus / report.cpus
    return 1 / (1 + max(busy, promised.spoken_cpus / report.cpus))


SCORERS: Mapping[str, Scorer] = {
    "gpu_headroom": gpu_headroom,
    "cpu": cpu,
    "memory": memory,
    "load": load,
    "spread": spread,
}


#: Of these, those that look at the node alone, whatever is asked for: their part of a score can be kept.
OF_THE_NODE: frozenset[Scorer] = frozenset({cpu, memory, load, spread})
#: A request for scorers that do not look at it.
ANYTHING = PlacementRequest("", "")


@dataclass(frozen=True)
class Weighing:
    """The scorers that count and their weights; a score is their weighted mean.

    It is the sum of the node's own part and the part that the request asks for, in this order, so that a part that
    was kept gives the same number as one that is worked out anew.
    """

    scorers: Mapping[str, tuple[Scorer, float]]
    total: float
    _own: tuple[tuple[Scorer, float], ...]
    _asked: tuple[tuple[Scorer, float], ...]

    @classmethod
    def of(cls, scorers: Mapping[str, Scorer], weights: Mapping[str, float]) -> Weighing:
        """Return the weighing of these scorers; one that no weight is given for counts with 1."""
        weighted = {name: (scorer, float(weights.get(name, 1.0))) for name, scorer in scorers.items()}
        counted = {name: item for name, item in weighted.items() if item[1] > 0}
        own = tuple(item for item in counted.values() if item[0] in OF_THE_NODE)
        asked = tuple(item for item in counted.values() if item[0] not in OF_THE_NODE)
        return cls(counted, sum(weight for _, weight in counted.values()), own, asked)

    @property
    def indexable(self) -> bool:
        """Whether nodes can be kept in order: not when another package's scorer may look at anything."""
        return all(scorer in SCORERS.values() for scorer, _ in self.scorers.values())

    def own(self, view: NodeView) -> float:
        """Return the part of the score that does not depend on the request."""
        return sum(scorer(view, ANYTHING) * weight for scorer, weight in self._own)

    def asked(self, view: NodeView, request: PlacementRequest) -> float:
        """Return the part of the score that depends on the request."""
        return sum(scorer(view, request) * weight for scorer, weight in self._asked)

    def whole(self, own: float, asked: float) -> float:
        """Return the score of these parts, 0-1; never less for a larger part."""
        return (own + asked) / self.total

    def score(self, view: NodeView, request: PlacementRequest) -> float:
        """Return the node's score for the request, 0-1."""
        return self.whole(self.own(view), self.asked(view, request))

    def parts(self, view: NodeView, request: PlacementRequest) -> dict[str, float]:
        """Return each scorer's score."""
        return {name: scorer(view, request) for name, (scorer, _) in self.scorers.items()}


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


def _busy(report: Telemetry) -> float:
    """Return the share of the cores that was busy when the node reported."""
    busy = report.cpu_utilization_ratio
    return min(1.0, report.load1 / report.cpus) if busy is None else busy


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
