"""Statistics, against values computed by hand and by what must always hold."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.report.robust import jain_index, modified_z_scores, outlying, spread, trend

numbers = st.floats(0.01, 1e6)


def test_spread_by_hand() -> None:
    """Quartiles of 1 … 5 are 2 and 4; of one value all are that value; of none there is none."""
    found = spread([5.0, 1.0, 3.0, 2.0, 4.0])
    assert found is not None
    assert (found.count, found.least, found.low, found.median, found.high, found.most) == (5, 1, 2, 3, 4, 5)
    assert found.relative == pytest.approx(2 / 3)
    alone = spread([7.0])
    assert alone is not None
    assert (alone.low, alone.median, alone.high, alone.relative) == (7, 7, 7, 0)
    assert spread([]) is None


@given(st.lists(numbers, min_size=2, max_size=30), st.floats(0.1, 100))
def test_jains_index(values: list[float], factor: float) -> None:
    """It lies between 1/n and 1, and does not depend on the unit or the order."""
    index = jain_index(values)
    assert index is not None
    assert 1 / len(values) - 1e-9 <= index <= 1 + 1e-9
    assert jain_index([factor * value for value in reversed(values)]) == pytest.approx(index)


def test_jains_index_by_hand() -> None:
    """(100 + 50)² / (2 · (100² + 50²)) = 0.9; one who does all of three gives 1/3; alone or idle there is none."""
    assert jain_index([100, 50]) == pytest.approx(0.9)
    assert jain_index([6, 0, 0]) == pytest.approx(1 / 3)
    assert jain_index([3.0, 3.0]) == 1
    assert jain_index([1e200, 1e200]) == 1
    assert jain_index([5.0]) is None
    assert jain_index([0.0, 0.0]) is None


def test_modified_z_scores_by_hand() -> None:
    """Of 1 2 3 4 100 the median is 3 and the MAD is 1: 100 has the score 97 / 1.4826."""
    assert modified_z_scores([1, 2, 3, 4, 100])[4] == pytest.approx(97 / 1.4826)
    assert modified_z_scores([5, 5, 5]) == [0, 0, 0]
    # MAD is 0: 1.2533 times the mean absolute deviation (2) takes its place.
    assert modified_z_scores([5, 5, 5, 5, 15])[4] == pytest.approx(10 / (1.2533141 * 2))
    assert modified_z_scores([]) == []


def test_outliers_are_far_in_spread_and_in_percent() -> None:
    """A value far out is found; one within 5 % of the median is not, however small the spread; three are too few."""
    assert outlying([100, 101, 99, 100, 60]) == [4]
    assert outlying([100, 100.01, 99.99, 100, 101]) == []
    assert outlying([100, 100, 10]) == []


@given(st.lists(numbers, min_size=4, max_size=25))
def test_no_outlier_among_the_middle_half(values: list[float]) -> None:
    """What lies between the quartiles is never called an outlier."""
    found = spread(values)
    assert found is not None
    assert not [place for place in outlying(values) if found.low <= values[place] <= found.high]


def test_trend_of_a_line() -> None:
    """A line that rises by 2 each hour has that slope, certainly; one value among many does not change it."""
    at = [600.0 * number for number in range(40)]
    values = [10 + 2 * moment / 3600 for moment in at]
    values[7] = 1e6
    found = trend(at, values)
    assert found is not None
    assert found.per_hour == pytest.approx(2, rel=1e-6)
    assert found.p_value < 1e-6


def test_trend_of_noise_and_of_too_little() -> None:
    """Noise has no significant trend, what is constant has none at all, and seven points are too few."""
    wave = random.Random(3)  # noqa: S311
    at = [60.0 * number for number in range(300)]
    noise = trend(at, [wave.gauss(5, 1) for _ in at])
    flat = trend(at, [5.0 for _ in at])
    assert noise is not None
    assert flat is not None
    assert noise.p_value > 0.01
    assert (flat.per_hour, flat.p_value) == (0, 1)
    assert trend(at[:7], [1.0] * 7) is None
