"""What a dedicated GPU is worth."""

from __future__ import annotations

import pytest
from benchmark_records import phase_json, run_node, run_record, success

from jupyterhub_agentfarm.benchmark.models import CaseResult, Phase
from jupyterhub_agentfarm.benchmark.report.contention import Contention, contentions
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence

PHASES = (Phase("dedicated", ("n1", "n2")), Phase("shared-2", ("n1", "n2"), 2), Phase("shared-4", ("n1", "n2"), 4))


def measured(results: list[CaseResult], phases: tuple[Phase, ...] = PHASES) -> list[Contention]:
    """Return what a run of these phases says about sharing."""
    definition = {"phases": [phase_json(phase) for phase in phases]}
    nodes = [run_node("n1"), run_node("n2")]
    return contentions(Evidence(run_record(nodes, ["train"], 400, definition=definition), results))


def results(rates: dict[str, float | None]) -> list[CaseResult]:
    """Return what two nodes of different speed deliver in each phase; a slower one takes longer."""
    made = []
    for number, (phase, ratio) in enumerate(rates.items()):
        for node, speed in (("n1", 1000.0), ("n2", 300.0)):
            for lane in range((1, 2, 4)[number]):
                rate = None if ratio is None else speed * ratio
                made.append(
                    success(node, "train", 100.0 * number, 10 / (ratio or 1), phase=phase, lane=lane, rate=rate)
                )
    return made


def test_each_and_all_together() -> None:
    """Two on a GPU at 55 % each are 110 % together; four at 20 % each are 80 %: a dedicated one is worth more."""
    (found,) = measured(results({"dedicated": 1.0, "shared-2": 0.55, "shared-4": 0.2}))
    assert found.figure == "records_per_second"
    assert [point.concurrency for point in found.points] == [1, 2, 4]
    assert [point.each_ratio for point in found.points] == pytest.approx([1, 0.55, 0.2])
    assert [point.together_ratio for point in found.points] == pytest.approx([1, 1.1, 0.8])
    assert [point.slowdown for point in found.points] == pytest.approx([1, 1 / 0.55, 5])


def test_without_rates_durations_tell() -> None:
    """A case that takes twice as long delivers half."""
    made = [success("n1", "train", 0, 10, phase="dedicated"), success("n1", "train", 50, 20, phase="shared-2")]
    (found,) = measured(made, PHASES[:2])
    assert found.figure == ""
    assert found.points[1].each_ratio == pytest.approx(0.5)


def test_nodes_are_compared_with_themselves() -> None:
    """A fast node that is missing when GPUs are shared does not make sharing look slow."""
    made = results({"dedicated": 1.0, "shared-2": 1.0})
    made = [one for one in made if (one.node, one.phase) != ("n1", "shared-2")]
    (found,) = measured(made, PHASES[:2])
    assert found.points[1].each_ratio == pytest.approx(1)


def test_a_phase_in_which_nothing_succeeded_is_still_told() -> None:
    """Out of memory with four at once: nothing is delivered, and the counts say so."""
    made = results({"dedicated": 1.0})
    made += [CaseResult("n1", "train", "failed", "CUDA out of memory", phase="shared-4") for _ in range(4)]
    (found,) = measured(made, (PHASES[0], PHASES[2]))
    assert (found.points[1].succeeded, found.points[1].tried, found.points[1].each_ratio) == (0, 4, None)


def test_one_concurrency_says_nothing() -> None:
    """Without a phase that shares there is nothing to compare."""
    assert measured(results({"dedicated": 1.0}), PHASES[:1]) == []


def test_of_phases_with_the_same_concurrency_the_largest_counts() -> None:
    """A ramp before the shared phase is no contention: it is left to scaling."""
    small = Phase("ramp", ("n1",))
    made = [*results({"dedicated": 1.0, "shared-2": 0.5}), success("n1", "train", 300, 10, phase="ramp", rate=1.0)]
    (found,) = measured(made, (small, *PHASES[:2]))
    assert [point.phase for point in found.points] == ["dedicated", "shared-2"]
