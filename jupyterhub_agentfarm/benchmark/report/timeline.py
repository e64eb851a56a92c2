"""The samples of one node as arrays: each sample stands for a time, and a gap for none.

A sample stands for half the time to the sample before it and half the time to the one after it. Where these are
further apart than `GAP_INTERVALS` sampling intervals, nobody looked: that time is a gap, and the samples beside it
stand for half an interval on its side. So a mean over time neither counts what was not seen as 0 nor stretches the
last value over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..models import Sample

#: From this many sampling intervals on, the time between two samples is a gap.
GAP_INTERVALS = 2.5
Interval = tuple[float, float]


@dataclass(frozen=True)
class Timeline:
    """What one node was seen to do."""

    name: str
    #: When the samples were taken, in seconds since the epoch.
    at: np.ndarray
    #: Seconds between two samples, as it was meant.
    interval_seconds: float
    #: Quantities by name; NaN where a sample does not tell.
    columns: dict[str, np.ndarray] = field(repr=False)

    def of(self, key: str) -> np.ndarray:
        """Return a quantity at each sample, NaN where it is not told."""
        return self.columns.get(key, np.full(len(self.at), np.nan))

    def share(self, what: str) -> np.ndarray:
        """Return ``{what}_used_bytes`` as a share of ``{what}_total_bytes``."""
        total = self.of(f"{what}_total_bytes")
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(total > 0, self.of(f"{what}_used_bytes") / total, np.nan))

    @cached_property
    def seconds(self) -> np.ndarray:
        """For how long each sample stands."""
        if len(self.at) < 2:
            return np.full(len(self.at), self.interval_seconds)
        apart = np.diff(self.at)
        half = np.where(apart > GAP_INTERVALS * self.interval_seconds, self.interval_seconds, apart) / 2
        return np.asarray(np.append(half, 0.0) + np.insert(half, 0, 0.0))

    def gaps(self) -> list[Interval]:
        """Return the times of which there are no samples, between the first and the last."""
        places = np.flatnonzero(np.diff(self.at) > GAP_INTERVALS * self.interval_seconds)
        return [(float(self.at[place]), float(self.at[place + 1])) for place in places]

    def within(self, start: float, end: float, *, with_end: bool = True) -> Timeline:
        """Return the part from `start` to `end`, with or without a sample at its end."""
        first, last = np.searchsorted(self.at, (start, end), side="left")
        if with_end:
            last = np.searchsorted(self.at, end, side="right")
        return self.where(slice(int(first), int(last)))

    def where(self, chosen: np.ndarray | slice) -> Timeline:
        """Return the samples that are chosen, each standing for what it stood for."""
        part = Timeline(
            self.name, self.at[chosen], self.interval_seconds, {key: v[chosen] for key, v in self.columns.items()}
        )
        part.__dict__["seconds"] = self.seconds[chosen]
        return part


def timelines(samples: Iterable[Sample], interval_seconds: float | None = None) -> dict[str, Timeline]:
    """Return a timeline for each node that was sampled.

    Parameters
    ----------
    interval_seconds
        Seconds between two samples as it was meant; None: the median of what it was.
    """
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.scope == "node":
            by_name.setdefault(sample.name, []).append(sample)
    return {name: _timeline(name, own, interval_seconds) for name, own in by_name.items()}


def _timeline(name: str, samples: list[Sample], interval_seconds: float | None) -> Timeline:
    samples.sort(key=lambda sample: sample.at)
    at = np.array([sample.at for sample in samples])
    keys = {key for sample in samples for key in sample.values}
    nan = float("nan")
    columns = {key: np.array([sample.values.get(key, nan) for sample in samples], float) for key in keys}
    if interval_seconds is None:
        interval_seconds = float(np.median(np.diff(at))) if len(at) > 1 else 1.0
    return Timeline(name, at, interval_seconds, columns)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float | None:
    """Return Σwx / Σw over the values that are known; None when none is."""
    known = ~np.isnan(values) & ~np.isnan(weights) & (weights > 0)
    return float(np.average(values[known], weights=weights[known])) if known.any() else None


def weighted_quantile(values: np.ndarray, weights: np.ndarray, ratio: float) -> float | None:
    """Return the least value below or at which `ratio` of the weight lies; None when no value is known."""
    known = ~np.isnan(values) & (weights > 0)
    if not known.any():
        return None
    order = np.argsort(values[known])
    sums = np.cumsum(weights[known][order])
    place = int(np.searchsorted(sums, ratio * sums[-1] * (1 - 1e-12)))
    return float(values[known][order][min(place, len(order) - 1)])


def peak(values: np.ndarray) -> float | None:
    """Return the largest value that is known."""
    return float(np.nanmax(values)) if not np.isnan(values).all() else None


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of intervals as disjoint ones, in order."""
    done: list[Interval] = []
    for start, end in sorted(interval for interval in intervals if interval[1] > interval[0]):
        if done and start <= done[-1][1]:
            done[-1] = (done[-1][0], max(done[-1][1], end))
        else:
            done.append((start, end))
    return done


def overlap_seconds(intervals: Sequence[Interval], start: float, end: float) -> float:
    """Return how much of the time from `start` to `end` lies in the disjoint `intervals`."""
    return sum(max(0.0, min(end, stop) - max(start, begin)) for begin, stop in intervals)


def inside(at: np.ndarray, intervals: Sequence[Interval]) -> np.ndarray:
    """Return for each instant whether it lies in one of the disjoint intervals, which are in order."""
    if not intervals:
        return np.zeros(len(at), bool)
    starts, ends = np.array(intervals).T
    place = np.searchsorted(starts, at, side="right") - 1
    return np.asarray((place >= 0) & (at <= ends[np.maximum(place, 0)]))
