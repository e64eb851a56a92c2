"""Laws of scaling, fitted to the throughput of growing numbers of nodes.

The Universal Scalability Law of N. Gunther ("Guerrilla Capacity Planning", 2007) says of the throughput of k nodes

    X(k) = λ·k / (1 + c·(k - 1) + κ·k·(k - 1)),

where λ is what one node delivers, c the share of the work that has to wait in one line (contention), and κ the cost
of keeping each pair of nodes in agreement (coherency). With κ = 0 it is Amdahl's law (1967) with the serial share c,
and no number of nodes delivers more than 1/c times one node. With κ > 0 throughput falls beyond √((1 - c)/κ) nodes.

k/X(k) is linear in 1/λ, c/λ and κ/λ: they are found by least squares of the relative errors with none below 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Different numbers of nodes that a fit needs: one more than it has parameters, so that it can be wrong.
AMDAHL_MIN_POINTS, USL_MIN_POINTS = 3, 4
#: Coefficients below this share of the first are rounding errors.
_NEGLIGIBLE = 1e-9

Point = tuple[int, float]


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law."""

    #: "usl" or "amdahl".
    name: str
    #: Throughput of one node by the fit.
    one_node: float
    #: c, the share that waits in one line.
    contention_ratio: float
    #: κ, the cost of agreement between each pair; 0 by Amdahl's law.
    coherency_ratio: float
    #: The largest error of the fit, as a share of what was measured.
    worst_error_ratio: float

    def throughput(self, nodes: float) -> float:
        """Return what so many nodes deliver by this law."""
        slowing = 1 + self.contention_ratio * (nodes - 1) + self.coherency_ratio * nodes * (nodes - 1)
        return self.one_node * nodes / slowing

    @property
    def best_nodes(self) -> float | None:
        """With more nodes than this throughput falls; None where it never does."""
        if self.coherency_ratio <= 0 or self.contention_ratio >= 1:
            return 1.0 if self.contention_ratio >= 1 else None
        return math.sqrt((1 - self.contention_ratio) / self.coherency_ratio)

    @property
    def most_times_one_node(self) -> float | None:
        """As many times one node is the most that any number delivers; None where there is no such bound."""
        if self.coherency_ratio > 0 and (best := self.best_nodes) is not None:
            return self.throughput(max(best, 1.0)) / self.one_node
        return 1 / self.contention_ratio if self.contention_ratio > 0 else None


def fit_law(points: Sequence[Point]) -> ScalingLaw | None:
    """Return the law for points of (nodes, throughput); None with too few different numbers of nodes.

    With three of them it is Amdahl's, with four or more the Universal Scalability Law.
    """
    usable = [(nodes, throughput) for nodes, throughput in points if nodes >= 1 and throughput > 0]
    different = len({nodes for nodes, _ in usable})
    if different < AMDAHL_MIN_POINTS:
        return None
    name = "usl" if different >= USL_MIN_POINTS else "amdahl"
    nodes, throughput = np.array(usable, float).T
    terms = [np.ones_like(nodes), nodes - 1, nodes * (nodes - 1)][: 3 if name == "usl" else 2]
    found = _least_squares(np.column_stack(terms), nodes / throughput)
    if found is None:
        return None
    first, second, third = (*found, 0.0)[:3]
    law = ScalingLaw(name, 1 / first, second / first, third / first, 0.0)
    errors = [abs(law.throughput(k) / x - 1) for k, x in usable]
    return ScalingLaw(name, law.one_node, law.contention_ratio, law.coherency_ratio, max(errors))


def _least_squares(matrix: np.ndarray, wanted: np.ndarray) -> list[float] | None:
    """Return coefficients of at least 0, the first above it, with the least sum of squared relative errors.

    With two or three of them, each combination of zeros is tried: the best that keeps the bounds is the solution.
    """
    relative = matrix / wanted[:, None]
    best: tuple[float, list[float]] | None = None
    width = matrix.shape[1]
    for rest in itertools.chain.from_iterable(itertools.combinations(range(1, width), n) for n in range(width)):
        chosen = [0, *rest]
        solved = np.linalg.lstsq(relative[:, chosen], np.ones(len(wanted)), rcond=None)[0]
        if solved[0] <= 0 or (solved < -_NEGLIGIBLE * solved[0]).any():
            continue
        found = np.zeros(width)
        found[chosen] = np.where(solved < _NEGLIGIBLE * solved[0], 0.0, solved)
        error = float(((relative @ found - 1) ** 2).sum())
        if best is None or error < best[0] * (1 - _NEGLIGIBLE):
            best = error, [float(value) for value in found]
    return best[1] if best else None
