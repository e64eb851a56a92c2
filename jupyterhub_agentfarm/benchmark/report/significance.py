"""Is one run's sample another than the other's? A rank test that compares each node only with itself.

The test is Mann and Whitney's, stratified: U of every node is added up, and the sum is compared with all the sums
that come about when the values of each node are dealt out anew between the two runs (a permutation test within
blocks; for equal blocks it is van Elteren's test). Nodes of different speed thus do not blur each other, and one
repetition on each of twenty nodes tells as much as twenty on one. Ties get mid-ranks.

With at most `EXACT_RANK_SUM` the distribution is computed exactly, by convolution; beyond that the normal
approximation with the variance of the ties and continuity correction is used.

Sources: H. B. Mann, D. R. Whitney, "On a test of whether one of two random variables is stochastically larger than
the other", Ann. Math. Stat. 18 (1947); P. van Elteren, Bull. Int. Stat. Inst. 37 (1960); S. Holm, "A simple
sequentially rejective multiple test procedure", Scand. J. Stat. 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from .robust import normal_p

#: Largest sum of doubled ranks, over all blocks, up to which the distribution is computed exactly.
EXACT_RANK_SUM = 20_000
#: The same for the values of one block: its table grows with their cube.
EXACT_BLOCK_VALUES = 60

Block = tuple[Sequence[float], Sequence[float]]


def stratified_rank_test(blocks: Iterable[Block]) -> float | None:
    """Return the two-sided p-value that the first and second samples of the blocks do not differ.

    Parameters
    ----------
    blocks
        For each node the values of one run and of the other; a block with an empty side says nothing.

    Returns
    -------
    None where no block has both.
    """
    told = [_Ranked(first, second) for first, second in blocks if len(first) and len(second)]
    if not told:
        return None
    exact = all(block.size <= EXACT_BLOCK_VALUES for block in told)
    if exact and sum(sum(block.ranks) for block in told) <= EXACT_RANK_SUM:
        return _exact(told)
    return _approximate(told)


def least_p_value(blocks: Iterable[Block]) -> float:
    """Return the smallest p-value that samples of these sizes can give, with no ties: what they could show at best."""
    ways = math.prod(
        math.comb(len(first) + len(second), len(first)) for first, second in blocks if len(first) and len(second)
    )
    return min(1.0, 2 / ways)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted for there being several of them (Holm's method); None stays None."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for done, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - done)))
        adjusted[place] = highest
    return adjusted


class _Ranked:
    """The doubled mid-ranks of one block, whole numbers also with ties."""

    def __init__(self, first: Sequence[float], second: Sequence[float]) -> None:
        values = np.concatenate([np.asarray(first, float), np.asarray(second, float)])
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        upper = np.cumsum(counts)
        doubled = (2 * upper - counts + 1)[inverse]
        self.size, self.drawn = len(values), len(first)
        self.ranks: list[int] = [int(rank) for rank in doubled]
        self.observed = sum(self.ranks[: self.drawn])
        self.mean = self.drawn * (self.size + 1)

    @property
    def variance(self) -> float:
        """Variance of the sum of `drawn` of the doubled ranks, drawn without putting back."""
        if self.size < 2:
            return 0.0
        population = float(np.var(self.ranks, ddof=1))
        return self.drawn * (self.size - self.drawn) / self.size * population

    def distribution(self) -> np.ndarray:
        """Return the probability of each sum of `drawn` of the ranks."""
        table = np.zeros((self.drawn + 1, sum(self.ranks) + 1))
        table[0, 0] = 1.0
        for seen, rank in enumerate(self.ranks, start=1):
            for many in range(min(seen, self.drawn), 0, -1):
                table[many, rank:] += table[many - 1, : table.shape[1] - rank]
        counts = table[self.drawn]
        return np.asarray(counts / counts.sum())


def _exact(blocks: Sequence[_Ranked]) -> float:
    sums = np.ones(1)
    for block in blocks:
        sums = np.convolve(sums, block.distribution())
    mean = sum(block.mean for block in blocks)
    away = abs(sum(block.observed for block in blocks) - mean)
    far = np.abs(np.arange(len(sums)) - mean) >= away
    return float(min(1.0, sums[far].sum()))


def _approximate(blocks: Sequence[_Ranked]) -> float:
    variance = sum(block.variance for block in blocks)
    away = abs(sum(block.observed - block.mean for block in blocks))
    return normal_p((away - 1) / math.sqrt(variance)) if variance > 0 else 1.0
