"""A run against an earlier one."""

from __future__ import annotations

import dataclasses
import random

import pytest
from benchmark_records import run_node, run_record, success

from jupyterhub_agentfarm.benchmark.models import CaseResult
from jupyterhub_agentfarm.benchmark.report import Report
from jupyterhub_agentfarm.benchmark.report.comparison import Comparison, compare
from jupyterhub_agentfarm.benchmark.report.conditions import differences
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence

NODES = [run_node(f"n{number}") for number in range(6)]
CASES = ("train", "etl", "fft")


def results(factor: float, repetitions: int, seed: int, case: str = "train") -> list[CaseResult]:
    """Return repetitions on nodes of very different speed, with noise of 1 %."""
    wave = random.Random(seed)  # noqa: S311
    return [
        success(
            node.name,
            case,
            10.0 * repetition,
            8,
            rate=factor * 100 * (place + 1) * wave.gauss(1, 0.01),
            repetition=repetition + 1,
        )
        for place, node in enumerate(NODES)
        for repetition in range(repetitions)
    ]


def against(now: list[CaseResult], before: list[CaseResult]) -> Comparison:
    """Return the comparison of two runs of the same suite."""
    run = run_record(NODES, CASES, 100)
    return compare(Evidence(run, now), Evidence(dataclasses.replace(run, id="earlier"), before))


def test_a_regression_is_named() -> None:
    """A tenth less on every node is a regression, though the nodes differ tenfold."""
    found = against(results(0.9, 3, 1), results(1.0, 3, 2))
    (case,) = found.regressions
    assert (case.case, case.figure, case.places, case.finding) == ("train", "records_per_second", 6, "regression")
    assert case.change_ratio == pytest.approx(-0.1, abs=0.02)
    assert case.p_value is not None
    assert case.p_value < 1e-4


def test_noise_is_no_regression() -> None:
    """The same farm measured twice differs by nothing that is shown."""
    found = against(results(1.0, 5, 3), results(1.0, 5, 4))
    assert [case.finding for case in found.cases] == ["no difference shown"]


def test_faster_is_an_improvement_and_slower_durations_are_not() -> None:
    """A higher rate is better; of a case without a rate a longer duration is worse."""
    assert against(results(1.2, 3, 1), results(1.0, 3, 2)).cases[0].finding == "improvement"
    longer = [success(node.name, "train", 0, 12.0, repetition=n) for node in NODES for n in range(3)]
    shorter = [success(node.name, "train", 0, 10.0, repetition=n) for node in NODES for n in range(3)]
    (case,) = against(longer, shorter).cases
    assert (case.figure, case.higher_is_better, case.finding) == ("duration_seconds", False, "regression")


def test_too_few_repetitions_are_said_to_be_too_few() -> None:
    """Half as fast on one node, once: it may be chance, and no test of one against one could say otherwise."""
    found = against(results(0.5, 1, 1)[:1], results(1.0, 1, 2)[:1])
    assert [case.finding for case in found.cases] == ["too few repetitions"]


def test_small_certain_changes_are_not_relevant() -> None:
    """A hundredth less with no noise at all is certain, and not worth a word."""
    before = [success(node.name, "train", 0, 8, rate=100.0, repetition=n) for node in NODES for n in range(4)]
    now = [success(node.name, "train", 0, 8, rate=99.0, repetition=n) for node in NODES for n in range(4)]
    (case,) = against(now, before).cases
    assert case.p_value is not None
    assert case.p_value < 0.001
    assert case.finding == "no difference shown"


def test_several_cases_are_adjusted_for() -> None:
    """The p-values of three cases are adjusted together, so none is smaller than it was."""
    now = [one for seed, case in enumerate(CASES) for one in results(1.0, 2, seed, case)]
    before = [one for seed, case in enumerate(CASES) for one in results(1.0, 2, seed + 10, case)]
    cases = against(now, before).cases
    assert len(cases) == 3
    assert all((one.adjusted_p_value or 0) >= (one.p_value or 0) for one in cases)


def test_what_fails_now_and_succeeded_then() -> None:
    """A case that fails where it succeeded is named; one that failed before too is not."""
    before = [success("n0", "train", 0, 8), CaseResult("n1", "train", "failed", "raised")]
    now = [CaseResult("n0", "train", "failed", "raised"), CaseResult("n1", "train", "failed", "raised")]
    assert against(now, before).newly_failing == (("n0", "train"),)


def test_conditions_that_differ_are_said() -> None:
    """Another driver, suite text, parameter, version or set of nodes is told: it may explain the difference."""
    before = run_record(NODES[:3], CASES, 100)
    about = {**NODES[0].about, "facts": {**NODES[0].about["facts"], "driver_version": "560.1"}}
    other = dataclasses.replace(NODES[0], about=about)
    definition = {**before.definition, "sha256": "cd" * 32}
    now = dataclasses.replace(
        before,
        nodes=(other, NODES[1], NODES[4]),
        definition=definition,
        parameters={"scale": 2},
        provenance={"commit": "beef"},
    )
    said = " ".join(differences(now, before))
    assert "The text of the suite was changed." in said
    assert "Parameters differ: scale." in said
    assert "commit of the service was c0ffee and is beef." in said
    assert "n4 took no part in the baseline." in said
    assert "n2 took part in the baseline only." in said
    assert "n0: driver was 550.54.15 and is 560.1." in said
    assert differences(before, before) == []


def test_the_report_says_what_became_worse() -> None:
    """The verdict of a report with a baseline names the regression; without one it says nothing of the kind."""
    run = run_record(NODES, CASES, 100)
    baseline = Report(dataclasses.replace(run, id="20260101-000000-aaaaaa"), results(1.0, 3, 2))
    report = Report(run, results(0.9, 3, 1), baseline=baseline)
    for text in (report.html(), report.markdown()):
        assert "Against run 20260101-000000-aaaaaa: train became worse, records/s" in text
    assert report.data()["comparison"]["cases"][0]["finding"] == "regression"
    assert "became worse" not in Report(run, results(0.9, 3, 1)).html()
