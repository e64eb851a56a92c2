"""The rank test, against tables and against brute force."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.report import significance
from jupyterhub_agentfarm.benchmark.report.significance import holm, least_p_value, stratified_rank_test

small = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=4)


def brute(blocks: list[tuple[list[float], list[float]]]) -> float:
    """Return the p-value by trying every way to deal the values of each block out anew."""

    def u_of(first: list[float], second: list[float]) -> float:
        return sum((a > b) + (a == b) / 2 for a in first for b in second)

    centre = sum(len(first) * len(second) / 2 for first, second in blocks)
    seen = abs(sum(u_of(*block) for block in blocks) - centre)
    options = []
    for first, second in blocks:
        values = first + second
        dealt = []
        for chosen in itertools.combinations(range(len(values)), len(first)):
            rest = [values[place] for place in range(len(values)) if place not in chosen]
            dealt.append(u_of([values[place] for place in chosen], rest))
        options.append(dealt)
    sums = [sum(way) for way in itertools.product(*options)]
    return sum(abs(one - centre) >= seen - 1e-9 for one in sums) / len(sums)


def test_mann_whitney_by_the_table() -> None:
    """Three below three: U is 0 in 1 of 20 ways on each side, so p is 0.1; four below four: 2/70."""
    assert stratified_rank_test([([1, 2, 3], [4, 5, 6])]) == pytest.approx(0.1)
    assert stratified_rank_test([([1, 2, 3, 4], [5, 6, 7, 8])]) == pytest.approx(2 / 70)
    assert stratified_rank_test([([1.0, 4.0], [2.0, 3.0])]) == 1


def test_one_repetition_on_many_nodes_is_the_sign_test() -> None:
    """Ten nodes of very different speed, each a little slower now: p is 2 / 2¹⁰."""
    blocks = [([0.97 * speed], [speed]) for speed in range(10, 1010, 100)]
    assert stratified_rank_test(blocks) == pytest.approx(2 / 2**10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(small, small), min_size=1, max_size=3))
def test_exact_is_what_brute_force_finds(blocks: list[tuple[list[float], list[float]]]) -> None:
    """With ties and several blocks, the p-value is the share of ways that are as extreme."""
    assert stratified_rank_test(blocks) == pytest.approx(brute(blocks))


@settings(deadline=None)
@given(st.lists(st.tuples(small, small), min_size=1, max_size=3))
def test_it_does_not_matter_which_run_is_first(blocks: list[tuple[list[float], list[float]]]) -> None:
    """The test is two-sided, at most 1, and never below what such sizes can show."""
    p_value = stratified_rank_test(blocks)
    assert p_value is not None
    assert p_value == pytest.approx(stratified_rank_test([(b, a) for a, b in blocks]))
    assert least_p_value(blocks) / 2 - 1e-12 <= p_value <= 1  # with ties the tails differ, and one may be empty


def test_the_approximation_is_near_the_exact_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """For twenty against twenty both ways to compute it agree within a hundredth."""
    wave = random.Random(5)  # noqa: S311
    blocks = [([wave.gauss(0.4, 1) for _ in range(20)], [wave.gauss(0, 1) for _ in range(20)])]
    exact = stratified_rank_test(blocks)
    monkeypatch.setattr(significance, "EXACT_RANK_SUM", 0)
    assert stratified_rank_test(blocks) == pytest.approx(exact, abs=0.01)


def test_many_repetitions_are_quick_and_clear() -> None:
    """A shift of half a standard deviation in 2,000 repetitions is certain; no shift is not found."""
    wave = random.Random(6)  # noqa: S311
    one, other = ([wave.gauss(0, 1) for _ in range(2000)] for _ in range(2))
    shifted = stratified_rank_test([([value + 0.5 for value in one], other)])
    same = stratified_rank_test([(one, other)])
    assert shifted is not None
    assert same is not None
    assert shifted < 1e-20
    assert same > 0.05


def test_nothing_to_compare() -> None:
    """Without values on both sides there is no p-value; of equal values it is 1."""
    assert stratified_rank_test([([1.0], []), ([], [2.0])]) is None
    assert stratified_rank_test([([2.0, 2.0], [2.0, 2.0])]) == 1


def test_holm_by_hand() -> None:
    """0.01, 0.04 and 0.03 of three become 0.03, 0.06 and 0.06; what is not known stays so."""
    assert holm([0.01, 0.04, None, 0.03]) == [pytest.approx(0.03), pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([]) == []
