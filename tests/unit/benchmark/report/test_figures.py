"""Usage, delivery, balance and outliers of runs whose figures can be computed by hand."""

from __future__ import annotations

import dataclasses

import pytest
from benchmark_records import GIB, START, phase_json, run_node, run_record, sample, soak_report, success

from jupyterhub_agentfarm.benchmark.models import CaseResult, Phase, RunEvent, RunNode, Sample
from jupyterhub_agentfarm.benchmark.report.delivery import completions, summarize_case
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence
from jupyterhub_agentfarm.benchmark.report.findings import Findings
from jupyterhub_agentfarm.benchmark.report.intervals import at_intervals, interval_seconds


def evidence(
    nodes: list[RunNode], results: list[CaseResult], samples: list[Sample] = (), seconds: float = 100, **more: object
) -> Evidence:
    """Return evidence of a run of the case "train"."""
    events = more.pop("events", ())
    run = run_record(nodes, ["train"], seconds, **more)
    return Evidence(run, results, samples, events)


NODES = [run_node("n1"), run_node("n2"), run_node("big", "gpuserver")]


def test_shares_are_weighted_with_what_they_are_shares_of() -> None:
    """8 processors at 50 % and 64 at 10 % are 14.4 %, not 30 %; 1 GPU at 100 % and 3 at 20 % are 40 %."""
    samples = [
        sample("n1", 0, cpus=8, cpu_utilization_ratio=0.5, gpus=1, gpu_utilization_ratio=1.0),
        sample("big", 0, cpus=64, cpu_utilization_ratio=0.1, gpus=3, gpu_utilization_ratio=0.2),
    ]
    farm = Findings(evidence([NODES[0], NODES[2]], [], samples)).usage("farm", "farm")
    assert farm is not None
    assert farm.cpu is not None
    assert farm.gpu is not None
    assert farm.cpu.mean == pytest.approx((8 * 0.5 + 64 * 0.1) / 72)
    assert farm.gpu.mean == pytest.approx(0.4)


def test_memory_is_bytes_of_bytes() -> None:
    """30 of 32 GiB and 52 of 512 GiB are 82 of 544, and the highest of a node is 30 of 32."""
    samples = [
        sample("n1", 0, memory_used_bytes=30 * GIB, memory_total_bytes=32 * GIB),
        sample("big", 0, memory_used_bytes=52 * GIB, memory_total_bytes=512 * GIB),
    ]
    farm = Findings(evidence([NODES[0], NODES[2]], [], samples)).usage("farm", "farm")
    assert farm is not None
    assert farm.memory is not None
    assert farm.memory.mean == pytest.approx(82 / 544)
    assert farm.memory.peak == pytest.approx(30 / 32)


def test_a_machine_under_two_names_is_counted_once() -> None:
    """Two nodes that are one machine weigh as one in the farm's sums, and the report says so."""
    shared = [run_node("n1", boot_id="same"), run_node("n2", boot_id="same"), run_node("n3")]
    samples = [sample(name, 0, cpu_utilization_ratio=busy) for name, busy in (("n1", 1.0), ("n2", 1.0), ("n3", 0.0))]
    found = Findings(evidence(shared, [success("n1", "train", 0, 10)], samples))
    farm = found.usage("farm", "farm")
    assert farm is not None
    assert farm.cpu is not None
    assert farm.cpu.mean == pytest.approx(0.5)
    assert any("n1 and n2 are one machine" in remark for remark in found.verdict.remarks)
    assert found.nodes[0].same_machine_as == ("n2",)


def test_completion_rates_and_what_counts() -> None:
    """Warm-ups do not count, skipped cases were not tried, and the rate is per minute of the window."""
    results = [
        success("n1", "train", 0, 30, warm_up=True),
        success("n1", "train", 30, 30),
        success("n1", "train", 60, 60),
        CaseResult("n2", "train", "lost", "gone"),
        CaseResult("big", "train", "skipped", "no torch"),
    ]
    told = evidence(NODES, results)
    assert told.window == (START, START + 120)
    one, two, big = completions(told)
    assert (one.succeeded, one.tried, one.succeeded_ratio, one.succeeded_per_minute) == (2, 2, 1, 1)
    assert (two.tried, two.faults, two.succeeded_ratio) == (1, {"lost": 1}, 0)
    assert (big.tried, big.succeeded_ratio) == (0, None)


def test_a_case_over_its_nodes() -> None:
    """The total adds up the lanes of the best phase; balance and the slowest node go by the nodes' medians."""
    results = [
        success("n1", "train", 0, 10, rate=100, phase="alone"),
        success("n1", "train", 10, 20, rate=60, phase="shared"),
        success("n1", "train", 10, 20, rate=60, phase="shared", lane=1),
        success("n2", "train", 0, 40, rate=50, phase="alone"),
    ]
    found = summarize_case("train", results)
    assert (found.farm_total, found.farm_total_phase) == (150, "alone")
    assert (found.slowest_node, found.slowest_seconds) == ("n2", 40)
    # Only the phase that both nodes have tells how even they are.
    assert found.balance == pytest.approx((100 + 50) ** 2 / (2 * (100**2 + 50**2)))
    assert found.seconds is not None
    assert found.seconds.median == 20


def test_times_are_not_added_up() -> None:
    """Only rates have a total over the farm."""
    results = [success(name, "train", 0, 10, rate=100) for name in ("n1", "n2")]
    slow = [dataclasses.replace(r, primary="seconds", figures={"seconds": 2.0}) for r in results]
    assert summarize_case("train", results).farm_total == 200
    assert summarize_case("train", slow).farm_total is None


def test_lanes_are_busy_idle_or_lost() -> None:
    """Two lanes for 100 s are 200 s: 110 busy, 20 lost with the node, and the rest idle."""
    phase = Phase("main", ("n1",), concurrency=2)
    results = [
        success("n1", "train", 0, 60, phase="main"),
        success("n1", "train", 0, 50, phase="main", lane=1),
    ]
    events = [
        RunEvent(START, "phase_started", "", "main"),
        RunEvent(START + 70, "node_lost", "n1"),
        RunEvent(START + 80, "node_back", "n1"),
        RunEvent(START + 100, "phase_ended", "", "main"),
    ]
    told = evidence([NODES[0]], results, events=events, definition={"phases": [phase_json(phase)]})
    (balance,) = Findings(told).balances
    (load,) = balance.loads
    assert (load.lane_seconds, load.busy_seconds, load.lost_seconds, load.idle_seconds) == (200, 110, 20, 70)
    assert load.idle_ratio == pytest.approx(70 / 180)
    assert balance.start_seconds == 12


def test_balance_of_two_nodes() -> None:
    """One works for 30 s and the other for 90: the busiest is 50 % over the mean, Jain's index is 0.8."""
    results = [success("n1", "train", 0, 30), success("n2", "train", 0, 90)]
    (balance,) = Findings(evidence(NODES[:2], results)).balances
    assert balance.imbalance_ratio == pytest.approx(0.5)
    assert balance.busy_index == pytest.approx(120**2 / (2 * (30**2 + 90**2)))
    assert balance.completed_index == 1


def test_regular_intervals_are_five_minutes_of_an_hour() -> None:
    """An hour has twelve intervals; each has the means, completions and uptimes of its own time, and a gap has none."""
    samples = [
        sample("n1", at, cpu_utilization_ratio=at / 3600, uptime_seconds=5000 + at)
        for at in range(0, 3601, 60)
        if not 600 <= at < 900
    ]
    results = [success("n1", "train", at, 50) for at in range(0, 3600, 150)] + [success("n1", "train", 3590, 10)]
    told = evidence([NODES[0]], results, samples, 3600, sample_interval_seconds=60.0)
    found = at_intervals(told, ["n1"])
    assert (interval_seconds(told), len(found)) == (300, 12)
    assert [one.succeeded for one in found] == [2] * 11 + [3]
    assert found[0].cpu_mean_ratio == pytest.approx(120 / 3600, abs=0.005)
    assert (found[2].cpu_mean_ratio, found[2].up_ratio, found[2].uptime_seconds) == (None, None, None)
    assert found[-1].uptime_seconds == 8600


@pytest.mark.parametrize(("seconds", "length"), [(60, 10), (300, 30), (1200, 300), (14_400, 300), (86_400, 1800)])
def test_length_of_the_intervals(seconds: float, length: float) -> None:
    """Five minutes by default, shorter for a short run, longer where the table would have more than 48 lines."""
    told = evidence([NODES[0]], [success("n1", "train", 0, seconds)], seconds=seconds)
    assert interval_seconds(told) == length
    assert len(at_intervals(told, ["n1"])) == seconds / length


def test_the_slow_node_is_named_and_the_others_are_not() -> None:
    """One of four nodes delivers 28 % less: it alone is an outlier, in each case."""
    found = soak_report().findings.outliers
    assert {one.node for one in found} == {"micro-03"}
    assert {one.what for one in found} == {f"{case}: records/s" for case in ("conv-net", "transformer", "etl")}
    assert "28" in found[0].sentence


def test_results_without_end_or_samples_are_no_fault() -> None:
    """Records from before there were ends and phases make the same figures."""
    results = [dataclasses.replace(success("n1", "train", 10, 40), ended_at=None)]
    found = Findings(evidence([NODES[0]], results))
    assert found.evidence.window == (START, START + 50)
    assert found.balances[0].loads[0].busy_seconds == 40
    assert found.usages[0].cpu is None
    assert found.usages[0].up_ratio is None


def test_rates_are_per_time_of_the_phases() -> None:
    """A node that takes part in the second of two phases alone completes as much per minute as one in both."""
    phases = [Phase("one", ("n1",)), Phase("two", ("n1", "n2"))]
    results = [success("n1", "train", 0, 60, phase="one")]
    results += [success(name, "train", 100, 60, phase="two") for name in ("n1", "n2")]
    results += [CaseResult("n2", "train", "cancelled", "the phase ended", phase="two")]
    definition = {"phases": [phase_json(phase) for phase in phases]}
    found = Findings(evidence(NODES[:2], results, seconds=160, definition=definition))
    assert [one.succeeded_per_minute for one in found.completions] == [1, 1]
    assert [one.tried for one in found.completions] == [2, 1]
    farm = found.usage("farm", "farm")
    assert farm is not None
    assert farm.succeeded_per_minute == pytest.approx(1.5)
    assert found.balances[0].completed_index == 1
