"""The service's own samples and counts beside those of a Prometheus that scraped the metrics page.

Both look at the same nodes at different instants, so means of something that fluctuates differ by chance. Two means
agree when they are apart by no more than `TOLERANCE_RATIO`, or by twice the standard error of their difference, the
samples taken as independent (they are not quite, so this is a little too strict). Counts agree when they are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .evidence import Evidence
from .timeline import weighted_mean

#: Means of shares that are no further apart than this agree.
TOLERANCE_RATIO = 0.02
FARM = "the whole farm"
_GAUGES = {"cpu": "CPU utilisation", "memory": "memory in use", "gpu": "GPU utilisation", "up": "up"}
COMPLETED = "cases completed"


@dataclass(frozen=True)
class Observed:
    """What Prometheus has of one node: by quantity the values over the run, and how often each case succeeded."""

    values: Mapping[str, np.ndarray]
    completed: int | None


@dataclass(frozen=True)
class CheckRow:
    """One quantity of one node, or of the farm, from both sides."""

    name: str
    quantity: str
    #: Shares of 0-1, or counts; None where that side has none.
    ours: float | None
    theirs: float | None
    #: The least difference that does not agree.
    tolerance: float

    @property
    def difference(self) -> float | None:
        """Prometheus' value less ours."""
        return None if self.ours is None or self.theirs is None else self.theirs - self.ours

    @property
    def agrees(self) -> bool | None:
        """Whether both say the same; None where one says nothing."""
        return None if self.difference is None else abs(self.difference) <= self.tolerance


@dataclass(frozen=True)
class CrossCheck:
    """What came of the comparison."""

    #: Where Prometheus is, without a password.
    url: str
    #: Why there is no comparison; "" when there is one.
    problem: str
    rows: tuple[CheckRow, ...] = ()
    #: Seconds between the values that Prometheus was asked for.
    step_seconds: float | None = None

    @property
    def compared(self) -> list[CheckRow]:
        """The rows with both sides."""
        return [row for row in self.rows if row.difference is not None]

    @property
    def differing(self) -> list[CheckRow]:
        """The rows in which the sides differ, the largest difference first for its tolerance."""
        apart = [row for row in self.rows if row.agrees is False]
        return sorted(apart, key=lambda row: abs(row.difference or 0.0) / (row.tolerance or 1e-9), reverse=True)


def cross_check(evidence: Evidence, url: str, step_seconds: float, observed: Mapping[str, Observed]) -> CrossCheck:
    """Return the comparison of the run with what Prometheus has of each node."""
    if not any(len(values) for seen in observed.values() for values in seen.values.values()):
        return CrossCheck(url, "it has no samples of this run's nodes: does it scrape the metrics page of this farm?")
    nothing = Observed({}, None)
    rows = [row for name in evidence.names for row in _node_rows(evidence, name, observed.get(name, nothing))]
    return CrossCheck(url, "", (*_farm_rows(evidence, observed), *rows), step_seconds)


def _node_rows(evidence: Evidence, name: str, seen: Observed) -> list[CheckRow]:
    rows = []
    for key, title in _GAUGES.items():
        theirs = seen.values.get(key, np.empty(0))
        own, seconds = _own(evidence, name, key)
        tolerance = _tolerance(_variance(own) + _variance(theirs))
        rows.append(CheckRow(name, title, weighted_mean(own, seconds), _mean(theirs), tolerance))
    return [*rows, CheckRow(name, COMPLETED, _completed(evidence, name), seen.completed, 0)]


def _own(evidence: Evidence, name: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    line = evidence.timeline(name)
    columns = {"cpu": "cpu_utilization_ratio", "gpu": "gpu_utilization_ratio", "up": "up"}
    return (line.share("memory") if key == "memory" else line.of(columns[key])), line.seconds


def _farm_rows(evidence: Evidence, observed: Mapping[str, Observed]) -> list[CheckRow]:
    rows = []
    for key, title in _GAUGES.items():
        own = [_own(evidence, name, key) for name in evidence.names]
        theirs = [_theirs(observed, name, key) for name in evidence.names]
        sizes = _sizes(evidence, key)
        shares = sizes / (sizes.sum() or 1.0)
        variances = [_variance(values) + _variance(seen) for (values, _), seen in zip(own, theirs, strict=True)]
        ours = _over_nodes([weighted_mean(*pair) for pair in own], sizes)
        tolerance = _tolerance(float((shares**2 * np.array(variances)).sum()))
        rows.append(CheckRow(FARM, title, ours, _over_nodes([_mean(seen) for seen in theirs], sizes), tolerance))
    counts = [seen.completed for seen in observed.values() if seen.completed is not None]
    total = sum(_completed(evidence, name) for name in evidence.names)
    return [*rows, CheckRow(FARM, COMPLETED, total, sum(counts) if counts else None, 0)]


def _theirs(observed: Mapping[str, Observed], name: str, key: str) -> np.ndarray:
    return observed[name].values.get(key, np.empty(0)) if name in observed else np.empty(0)


def _sizes(evidence: Evidence, key: str) -> np.ndarray:
    """Return what a share of each node is a share of: processors, bytes, GPUs; a node where it is of none."""
    column = {"cpu": "cpus", "memory": "memory_total_bytes", "gpu": "gpus"}.get(key)
    told = [evidence.timeline(name).of(column) if column else np.empty(0) for name in evidence.names]
    return np.array([1.0 if np.isnan(values).all() else float(np.nanmax(values)) for values in told])


def _over_nodes(means: Sequence[float | None], sizes: np.ndarray) -> float | None:
    return weighted_mean(np.array([math.nan if mean is None else mean for mean in means]), sizes)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _variance(values: np.ndarray) -> float:
    """Return the variance of the mean of values, the square of its standard error."""
    known = values[~np.isnan(values)]
    return float(known.var(ddof=1)) / len(known) if len(known) > 1 else 0.0


def _tolerance(variance: float) -> float:
    """Return how far two means may be apart by chance, when their difference has this variance."""
    return max(TOLERANCE_RATIO, 2 * math.sqrt(variance))


def _completed(evidence: Evidence, name: str) -> int:
    """Return how many cases succeeded on a node as the metrics page counts them: warm-ups too."""
    return sum(result.node == name and result.outcome == "succeeded" for result in evidence.results)
