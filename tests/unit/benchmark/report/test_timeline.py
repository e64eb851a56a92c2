"""Samples as arrays: what each stands for, gaps, means over time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from benchmark_records import START, sample
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.report.timeline import (
    inside,
    merged,
    overlap_seconds,
    timelines,
    weighted_mean,
    weighted_quantile,
)

spans = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)).map(lambda s: (s[0], s[0] + s[1])), max_size=12)


def line_of(*moments: tuple[float, float], interval: float = 10) -> object:
    """Return a timeline of CPU utilisation at moments."""
    samples = [sample("n1", at, cpu_utilization_ratio=value) for at, value in moments]
    return timelines(samples, interval)["n1"]


def test_each_sample_stands_for_its_half_of_the_time_to_its_neighbours() -> None:
    """Samples at 0, 10 and 30 stand for 5, 15 and 10 seconds: together for the time between them."""
    line = line_of((0, 0.1), (10, 0.2), (30, 0.3))
    assert line.seconds.tolist() == [5, 15, 10]


def test_a_gap_is_not_stretched_over() -> None:
    """Nobody looked from 20 to 3,600: that time is a gap, and the samples beside it stand for their own time alone."""
    line = line_of((0, 0.2), (10, 0.2), (20, 0.2), (3600, 1.0), (3610, 1.0))
    assert line.gaps() == [(START + 20, START + 3600)]
    assert line.seconds.tolist() == [5, 10, 10, 10, 5]
    assert weighted_mean(line.of("cpu_utilization_ratio"), line.seconds) == pytest.approx((25 * 0.2 + 15) / 40)


def test_unknown_is_not_zero() -> None:
    """A sample that does not tell a quantity counts for nothing in its mean; a share of an unknown total is unknown."""
    samples = [
        sample("n1", 0, cpu_utilization_ratio=0.8),
        sample("n1", 10, up=0),
        sample("n1", 20, cpu_utilization_ratio=0.4),
    ]
    line = timelines(samples, 10)["n1"]
    assert weighted_mean(line.of("cpu_utilization_ratio"), line.seconds) == pytest.approx(0.6)
    assert weighted_mean(line.of("up"), line.seconds) == pytest.approx(1 / 2)
    assert np.isnan(line.share("memory")).all()
    assert weighted_mean(line.share("memory"), line.seconds) is None


def test_a_part_keeps_what_its_samples_stand_for() -> None:
    """Cutting a timeline does not change the weights of what is left."""
    line = line_of((0, 0.1), (10, 0.2), (30, 0.3))
    assert line.within(START + 10, START + 30).seconds.tolist() == [15, 10]
    assert line.within(START + 10, START + 30, with_end=False).seconds.tolist() == [15]


def test_one_sample_stands_for_an_interval() -> None:
    """A single sample stands for the interval at which samples were meant to be taken."""
    assert line_of((0, 0.5), interval=300).seconds.tolist() == [300]
    assert timelines([sample("n1", 0)])["n1"].seconds.tolist() == [1]


def test_quantiles_by_weight() -> None:
    """Half of the time at 0.9 and half at 0.1 in three samples: the median is 0.1, nine tenths are 0.9."""
    values, weights = np.array([0.9, 0.1, 0.1, np.nan]), np.array([10.0, 5.0, 5.0, 99.0])
    assert weighted_quantile(values, weights, 0.5) == 0.1
    assert weighted_quantile(values, weights, 0.9) == 0.9
    assert weighted_quantile(np.array([np.nan]), np.ones(1), 0.5) is None


@given(spans)
def test_merged_intervals_cover_the_same(intervals: list[tuple[float, float]]) -> None:
    """The union is disjoint, in order, and covers each moment that any of them covers."""
    union = merged(intervals)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(union))
    for start, end in intervals:
        if end > start:
            middle = (start + end) / 2
            assert inside(np.array([middle]), union)[0]
            assert overlap_seconds(union, start, end) == pytest.approx(end - start)
    assert not inside(np.array([-1.0, 1e6]), union).any()
