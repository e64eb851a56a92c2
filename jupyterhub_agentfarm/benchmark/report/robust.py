"""Statistics that one bad value does not upset, as pure functions of numbers.

Sources: R. Jain, D. Chiu, W. Hawe, "A quantitative measure of fairness and discrimination", DEC-TR-301 (1984);
B. Iglewicz, D. Hoaglin, "How to detect and handle outliers" (1993); H. Theil (1950) and P. K. Sen (1968) on the
median slope; H. B. Mann (1945) and M. Kendall (1975) on trends.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: The modified z-score from which on Iglewicz and Hoaglin call a value an outlier.
OUTLIER_SCORE = 3.5
#: A value has to be this far from the median, too: with next to no spread everything would be an outlier.
OUTLIER_RATIO = 0.05
#: With fewer values a median has too little to say about one of them.
OUTLIER_MIN_VALUES = 4
#: Slopes of pairs are a square number: longer series are thinned evenly to this many points.
MAX_TREND_POINTS = 200


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it, of `count` values."""

    count: int
    median: float
    low: float
    high: float
    least: float
    most: float

    @property
    def relative(self) -> float | None:
        """The distance of the quartiles as a share of the median: 0 when all are equal."""
        return (self.high - self.low) / abs(self.median) if self.median else None


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of `values`; None of none. Quartiles are interpolated linearly (NumPy's default)."""
    if not values:
        return None
    least, low, median, high, most = (float(q) for q in np.quantile(np.asarray(values, float), (0, 0.25, 0.5, 0.75, 1)))
    return Spread(len(values), median, low, high, least, most)


def jain_index(values: Sequence[float]) -> float | None:
    """Return Jain's fairness index, (Σx)² / (n·Σx²): 1/n when one does all, 1 when all do the same.

    None below two values, and when all are 0: nobody did anything, which is neither fair nor unfair.
    """
    largest = max(map(abs, values), default=0.0)
    if len(values) < 2 or largest == 0:
        return None
    scaled = [value / largest for value in values]  # squares neither overflow nor vanish
    return sum(scaled) ** 2 / (len(scaled) * sum(value * value for value in scaled))


def balance_words(index: float) -> str:
    """Return what a value of Jain's index means."""
    return "evenly" if index >= 0.99 else "somewhat unevenly" if index >= 0.95 else "unevenly"


def modified_z_scores(values: Sequence[float]) -> list[float]:
    """Return (x - median) / (1.4826 · MAD) of each value; MAD is the median absolute deviation.

    Where more than half of the values are equal, MAD is 0 and 1.2533 times the mean absolute deviation takes its
    place; where all are equal, every score is 0.
    """
    if not values:
        return []
    middle = statistics.median(values)
    away = [abs(value - middle) for value in values]
    scale = 1.4826 * statistics.median(away) or math.sqrt(math.pi / 2) * statistics.fmean(away)
    return [(value - middle) / scale if scale else 0.0 for value in values]


def outlying(values: Sequence[float]) -> list[int]:
    """Return the places of the outliers: far from the median as the spread goes and by 5 %, not in the middle half.

    The last matters where values come in two heaps: neither heap is full of outliers.
    """
    around = spread(values)
    if around is None or around.count < OUTLIER_MIN_VALUES:
        return []
    return [
        place
        for place, (value, score) in enumerate(zip(values, modified_z_scores(values), strict=True))
        if abs(score) > OUTLIER_SCORE
        and abs(value - around.median) >= OUTLIER_RATIO * abs(around.median)
        and not around.low <= value <= around.high
    ]


@dataclass(frozen=True)
class Trend:
    """How a quantity went over time: the median slope per hour, and how likely chance alone makes one like it."""

    per_hour: float
    p_value: float


def trend(at_seconds: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Return the Theil-Sen slope per hour with the p-value of the Mann-Kendall test; None below 8 points.

    The test's normal approximation (with ties) wants about ten points; with eight it is a little too generous.
    Points close in time depend on each other, as samples of a machine do: a small p says less about them than about
    independent measurements.
    """
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_TREND_POINTS)).round().astype(int))
    if len(places) < 8:
        return None
    x, y = np.asarray(at_seconds, float)[places], np.asarray(values, float)[places]
    first, second = np.triu_indices(len(x), 1)
    run, rise = x[second] - x[first], y[second] - y[first]
    if not (run > 0).any():
        return None
    slope = float(np.median(rise[run > 0] / run[run > 0]))
    return Trend(3600 * slope, _kendall_p(float(np.sign(rise[run > 0]).sum()), y))


def _kendall_p(score: float, values: np.ndarray) -> float:
    n = len(values)
    _, ties = np.unique(values, return_counts=True)
    variance = (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    if variance <= 0:
        return 1.0
    return normal_p((abs(score) - 1) / math.sqrt(variance)) if score else 1.0


def normal_p(z_score: float) -> float:
    """Return how likely a standard normal variable is at least this far from 0."""
    return math.erfc(max(z_score, 0.0) / math.sqrt(2))
