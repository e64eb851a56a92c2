"""Energy of the GPUs."""

from __future__ import annotations

import pytest
from benchmark_records import run_node, run_record, sample, success

from jupyterhub_agentfarm.benchmark.models import CaseResult, Sample
from jupyterhub_agentfarm.benchmark.report.energy import energy, record_costs
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence

NODES = [run_node("n1"), run_node("n2"), run_node("n3")]


def told(samples: list[Sample], results: list[CaseResult], seconds: float = 100) -> Evidence:
    """Return evidence of a run of the case "train"."""
    return Evidence(run_record(NODES, ["train"], seconds, sample_interval_seconds=10.0), results, samples)


def test_the_integral_of_power() -> None:
    """From 100 W to 200 W over 100 s, evenly, are 15 kJ; a node that tells no power is not in it."""
    samples = [sample("n1", at, gpu_power_watts=100 + at) for at in range(0, 101, 10)]
    samples += [sample("n2", at) for at in range(0, 101, 10)]
    found = energy(told(samples, [success("n1", "train", 0, 100)]))
    assert [node.node for node in found.nodes] == ["n1"]
    assert found.joules == pytest.approx(15_000)
    assert found.nodes[0].mean_watts == pytest.approx(150)


def test_a_gap_has_no_energy() -> None:
    """Nothing is made up for a time in which nobody looked."""
    moments = [*range(0, 41, 10), *range(500, 541, 10)]
    found = energy(
        told([sample("n1", at, gpu_power_watts=50) for at in moments], [success("n1", "train", 0, 540)], 540)
    )
    assert found.joules == pytest.approx(2 * 40 * 50)


def test_busy_and_idle_power() -> None:
    """300 W while a case was executed and 50 W otherwise are told apart."""
    samples = [sample("n1", at, gpu_power_watts=300 if at <= 50 else 50) for at in range(0, 101, 10)]
    results = [success("n1", "train", 0, 55), success("n2", "train", 0, 100)]
    (node,) = energy(told(samples, results)).nodes
    assert (node.busy_watts, node.idle_watts) == (300, 50)


def test_energy_per_record() -> None:
    """200 W at 100 records/s are 2 J a record; two at once of 60 records/s each share the power: 1.67 J."""
    samples = [sample(name, at, gpu_power_watts=200) for name in ("n1", "n2") for at in range(0, 101, 10)]
    results = [success("n1", "train", 0, 100, rate=100)]
    results += [success("n2", "train", 0, 100, rate=60, lane=lane) for lane in (0, 1)]
    told_ = told(samples, results)
    found = energy(told_)
    assert {one.node: one.joules_per_record for one in found.cases} == pytest.approx({"n1": 2, "n2": 200 / 120})
    assert found.cases[0].figure == "records"
    (cost,) = record_costs(told_, found)
    assert (cost.nodes, cost.least_node, cost.most_node) == (2, "n2", "n1")
    assert cost.median_joules == pytest.approx((2 + 200 / 120) / 2)


def test_too_few_samples_say_nothing_of_a_case() -> None:
    """A case shorter than three samples has no energy per record, and neither has one without a rate per second."""
    samples = [sample("n1", at, gpu_power_watts=200) for at in range(0, 101, 10)]
    quick = success("n1", "train", 0, 15, rate=100)
    gflops = success("n1", "train", 20, 60, figures={"gemm_gflops": 5}, primary="gemm_gflops")
    assert energy(told(samples, [quick])).cases == ()
    assert energy(told(samples, [gflops])).cases == ()


def test_no_power_no_energy() -> None:
    """Where no GPU tells its power there is no energy, which is not 0."""
    found = energy(told([sample("n1", 0)], []))
    assert (found.nodes, found.joules) == ((), None)
