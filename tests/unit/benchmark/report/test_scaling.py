"""Laws of scaling and what runs say about them."""

from __future__ import annotations

import pytest
from benchmark_records import phase_json, run_node, run_record, success
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.models import CaseResult, Phase
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence
from jupyterhub_agentfarm.benchmark.report.laws import ScalingLaw, fit_law
from jupyterhub_agentfarm.benchmark.report.scaling import Scaling, scalings

NODES = [run_node(f"n{number}") for number in range(8)]


@given(st.floats(1, 1000), st.floats(0, 0.3), st.floats(0, 0.01))
def test_the_fit_finds_the_law_that_made_the_points(one: float, contention: float, coherency: float) -> None:
    """Points of a Universal Scalability Law give its coefficients back."""
    law = ScalingLaw("usl", one, contention, coherency, 0.0)
    found = fit_law([(nodes, law.throughput(nodes)) for nodes in (1, 2, 4, 8, 16)])
    assert found is not None
    assert found.one_node == pytest.approx(one, rel=1e-6)
    assert found.contention_ratio == pytest.approx(contention, abs=1e-6)
    assert found.coherency_ratio == pytest.approx(coherency, abs=1e-6)
    assert found.worst_error_ratio < 1e-6


def test_amdahl_by_hand() -> None:
    """With a serial tenth, 2 nodes deliver 1/(0.1 + 0.9/2) and no number more than ten times one."""
    found = fit_law([(nodes, 5 / (0.1 + 0.9 / nodes)) for nodes in (1, 2, 4)])
    assert found is not None
    assert (found.name, found.coherency_ratio) == ("amdahl", 0)
    assert found.contention_ratio == pytest.approx(0.1)
    assert found.most_times_one_node == pytest.approx(10)
    assert found.best_nodes is None


def test_the_best_number_of_nodes() -> None:
    """With c = 0.04 and k = 0.0004, throughput is highest at √(0.96 / 0.0004) = 49 nodes."""
    law = ScalingLaw("usl", 1, 0.04, 0.0004, 0)
    assert law.best_nodes == pytest.approx(48.99, abs=0.01)
    assert law.throughput(49) > max(law.throughput(40), law.throughput(60))
    assert law.most_times_one_node == pytest.approx(law.throughput(48.99), rel=1e-4)


def test_ideal_and_better_than_ideal_scaling() -> None:
    """Coefficients are never negative: perfect scaling and luck both have none, and no bound."""
    for points in ([(1, 3.0), (2, 6.0), (4, 12.0), (8, 24.0)], [(1, 3.0), (2, 6.5), (4, 13.0), (8, 27.0)]):
        found = fit_law(points)
        assert found is not None
        assert (found.contention_ratio, found.coherency_ratio, found.most_times_one_node) == (0, 0, None)


def test_too_few_points() -> None:
    """Two numbers of nodes are no law, however often they were measured."""
    assert fit_law([(1, 5.0), (2, 9.0), (2, 9.1), (1, 5.1)]) is None
    assert fit_law([]) is None


def ramp(seconds_of: dict[int, float], work: str, rate: float | None = None) -> Scaling:
    """Return the scaling of phases of so many nodes that each took so long."""
    phases, results, at = [], [], 0.0
    for nodes, seconds in seconds_of.items():
        names = tuple(node.name for node in NODES[:nodes])
        phases.append(phase_json(Phase(f"n{nodes}", names)))
        for place, name in enumerate(names):
            # The last node of each phase is the slowest: the repetition lasts as long as it does.
            took = seconds if place == nodes - 1 else seconds * 0.9
            results.append(success(name, "train", at, took, phase=f"n{nodes}", rate=rate))
        at += seconds + 1
    run = run_record(NODES, ["train"], at, definition={"phases": phases, "work": work, "mode": "ramp"})
    (found,) = scalings(Evidence(run, results))
    return found


def test_strong_scaling_is_timed_to_the_slowest_node() -> None:
    """One unit of work in 100, 55 and 30 s: speed-ups of 1.82 and 3.33, efficiencies of 91 % and 83 %."""
    found = ramp({1: 100, 2: 55, 4: 30}, "shared")
    assert (found.kind, found.figure) == ("strong", "")
    assert [point.speedup for point in found.points] == pytest.approx([1, 100 / 55, 100 / 30])
    assert [point.efficiency_ratio for point in found.points] == pytest.approx([1, 50 / 55, 25 / 30])
    assert found.law is not None
    assert found.law.name == "amdahl"
    assert "only Amdahl's law" in found.caveat


def test_weak_scaling_adds_up_rates() -> None:
    """Nodes that deliver 100 records/s each deliver 400 together, also in a notebook that works for a fixed time."""
    found = ramp({1: 60, 2: 60, 4: 60}, "each", rate=100)
    assert (found.kind, found.figure) == ("weak", "records_per_second")
    assert [point.throughput for point in found.points] == [100, 200, 400]
    assert [point.efficiency_ratio for point in found.points] == [1, 1, 1]


def test_weak_scaling_without_rates_counts_cases() -> None:
    """Two cases in 80 s where one took 60 are 1.5 times as much."""
    found = ramp({1: 60, 2: 80}, "each")
    assert [point.speedup for point in found.points] == pytest.approx([1, 1.5])
    assert found.law is None
    assert "2 different numbers of nodes are too few" in found.caveat


def test_a_repetition_that_failed_somewhere_does_not_count() -> None:
    """What three of four nodes delivered is no throughput of four nodes."""
    phases = [Phase("one", ("n0",)), Phase("two", ("n0", "n1"))]
    results = [
        success("n0", "train", 0, 10, phase="one"),
        success("n0", "train", 20, 10, phase="two"),
        CaseResult("n1", "train", "failed", "raised", phase="two"),
    ]
    definition = {"phases": [phase_json(phase) for phase in phases], "work": "each"}
    assert scalings(Evidence(run_record(NODES[:2], ["train"], 40, definition=definition), results)) == []


def test_a_run_of_one_size_does_not_scale() -> None:
    """Without phases of different size there is nothing to say."""
    run = run_record(NODES[:2], ["train"], 40)
    assert scalings(Evidence(run, [success("n0", "train", 0, 10)])) == []
