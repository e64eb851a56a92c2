"""A quantity over time made small enough to draw: means of equal times, a gap stays a gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .evidence import Evidence
from .robust import outlying
from .timeline import GAP_INTERVALS, Timeline, weighted_mean

#: As many points a line has at most: of one node, and of a band over many.
MAX_LINE_POINTS, MAX_BAND_POINTS = 120, 240
#: Up to this many nodes each has a line of its own; more are drawn as bands.
MAX_LINES = 8
#: As many outliers are drawn over the bands.
MAX_OUTLIERS = 3


@dataclass(frozen=True)
class Trace:
    """One quantity of several nodes at the same instants; NaN is not known."""

    #: Seconds since the start of the window.
    at_seconds: np.ndarray
    #: A row for each name.
    rows: Mapping[str, np.ndarray]

    @property
    def known(self) -> bool:
        """Whether there is anything to draw."""
        return any(not np.isnan(row).all() for row in self.rows.values())

    def bands(self) -> dict[str, np.ndarray]:
        """Return the least, the tenth part, the median, nine tenths and the most over the nodes at each instant."""
        table = np.array(list(self.rows.values()))
        known = ~np.isnan(table).all(axis=0)
        made = np.full((5, table.shape[1]), np.nan)
        made[:, known] = np.nanquantile(table[:, known], (0, 0.1, 0.5, 0.9, 1), axis=0)
        return dict(zip(("least", "low", "median", "high", "most"), made, strict=True))

    def outliers(self) -> list[str]:
        """Return the nodes whose mean is furthest from the others', if any is an outlier."""
        means = {name: weighted_mean(row, np.ones(len(row))) for name, row in self.rows.items()}
        known = {name: mean for name, mean in means.items() if mean is not None}
        names, values = list(known), list(known.values())
        middle = float(np.median(values)) if values else 0.0
        apart = sorted(outlying(values), key=lambda place: -abs(values[place] - middle))
        return [names[place] for place in apart[:MAX_OUTLIERS]]


def trace(evidence: Evidence, names: Sequence[str], key: str) -> Trace:
    """Return a quantity of nodes over time; ``memory`` and ``gpu_memory`` are shares of the total."""
    start, end = evidence.window
    lines = [evidence.timeline(name) for name in names]
    longest = max((len(line.at) for line in lines), default=0)
    most = MAX_LINE_POINTS if len(names) <= MAX_LINES else MAX_BAND_POINTS
    if longest <= most:
        at = np.unique(np.concatenate([*(line.at for line in lines), np.empty(0)]))
        return _with_breaks(at - start, {line.name: _placed(line, key, at) for line in lines}, lines)
    edges = np.linspace(start, end, most + 1)
    return Trace((edges[1:] + edges[:-1]) / 2 - start, {line.name: _binned(line, key, edges) for line in lines})


def _values(line: Timeline, key: str) -> np.ndarray:
    return line.share(key) if key in ("memory", "gpu_memory") else line.of(key)


def _placed(line: Timeline, key: str, at: np.ndarray) -> np.ndarray:
    row = np.full(len(at), np.nan)
    row[np.searchsorted(at, line.at)] = _values(line, key)
    return row


def _with_breaks(at_seconds: np.ndarray, rows: dict[str, np.ndarray], lines: Sequence[Timeline]) -> Trace:
    """Return a trace with an unknown point in each gap, so that no line is drawn across."""
    interval = next((line.interval_seconds for line in lines), 1.0)
    places = np.flatnonzero(np.diff(at_seconds) > GAP_INTERVALS * interval) + 1
    middles = (at_seconds[places] + at_seconds[places - 1]) / 2 if len(places) else np.empty(0)
    return Trace(
        np.insert(at_seconds, places, middles), {name: np.insert(row, places, np.nan) for name, row in rows.items()}
    )


def _binned(line: Timeline, key: str, edges: np.ndarray) -> np.ndarray:
    values, bins = _values(line, key), len(edges) - 1
    known = ~np.isnan(values)
    place = np.clip(np.searchsorted(edges, line.at[known], side="right") - 1, 0, bins - 1)
    weights = np.bincount(place, weights=line.seconds[known], minlength=bins)
    sums = np.bincount(place, weights=line.seconds[known] * values[known], minlength=bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(weights > 0, sums / weights, np.nan))
