"""Limits: what is counted, what came out, and what cannot hold any more."""

from __future__ import annotations

import pytest

from jupyterhub_agentfarm.benchmark.definition import Limits
from jupyterhub_agentfarm.benchmark.limits import Tally, broken, outcomes
from jupyterhub_agentfarm.benchmark.models import CaseResult, LimitOutcome, Outcome, Phase, RunEvent, Sample

ALL = Limits(0.9, 0.8, 0.75, 6, 0, 0.9)


def result(node: str, outcome: Outcome = "succeeded", *, warm_up: bool = False) -> CaseResult:
    """Return a result."""
    return CaseResult(node, "one", outcome, warm_up=warm_up)


def memory(used: float, gpu_used: float | None = None, scope: str = "node") -> Sample:
    """Return a sample of memory of 100 bytes."""
    values = {"memory_used_bytes": used, "memory_total_bytes": 100.0}
    if gpu_used is not None:
        values |= {"gpu_memory_used_bytes": gpu_used, "gpu_memory_total_bytes": 100.0}
    return Sample(1.0, scope, "a", values)  # type: ignore[arg-type]


@pytest.fixture
def tally() -> Tally:
    """Two nodes for a minute: four succeeded on one, two on the other, two did not."""
    tally = Tally((Phase("p", ("a", "b")),))
    for one in (*4 * [result("a")], *2 * [result("b")], result("b", "failed"), result("b", "lost")):
        tally.add_result(one)
    for ignored in (result("b", "skipped"), result("b", "cancelled"), result("a", warm_up=True)):
        tally.add_result(ignored)
    for sample in (memory(50, 85), memory(95), memory(99, 99, scope="farm")):
        tally.add_sample(sample)
    tally.add_event(RunEvent(1.0, "node_lost", "b", "no answer"))
    tally.add_event(RunEvent(2.0, "node_back", "b"))
    tally.add_event(RunEvent(3.0, "phase_ended", "", "p", 60.0))
    return tally


def test_every_limit(tally: Tally) -> None:
    """Each limit tells what was wanted and what came out."""
    balance = (4 + 2) ** 2 / (2 * (16 + 4))
    assert outcomes(ALL, tally) == (
        LimitOutcome("max_memory_ratio", 0.9, 0.95, held=False),
        LimitOutcome("max_gpu_memory_ratio", 0.8, 0.85, held=False),
        LimitOutcome("max_nodes_lost", 0, 1, held=False),
        LimitOutcome("min_succeeded_ratio", 0.75, 0.75, held=True),
        LimitOutcome("min_cases_per_minute", 6, 6, held=True),
        LimitOutcome("min_balance_ratio", 0.9, pytest.approx(balance), held=balance >= 0.9),
    )


def test_what_is_not_asked_for_is_not_told(tally: Tally) -> None:
    """Of a suite without limits only that its cases succeed is asked."""
    assert outcomes(Limits(), tally) == (LimitOutcome("min_succeeded_ratio", 1, 0.75, held=False),)


def test_what_could_not_be_measured() -> None:
    """Memory of GPUs that nobody has exceeds nothing; cases that were never tried did not succeed."""
    held = {outcome.name: outcome.held for outcome in outcomes(ALL, Tally(()))}
    ceilings, floors = ("max_memory_ratio", "max_gpu_memory_ratio", "max_nodes_lost"), list(held)[3:]
    assert all(held[name] for name in ceilings)
    assert not any(held[name] for name in floors)


def test_what_can_be_decided_early(tally: Tally) -> None:
    """Peaks and lost nodes at once; failures only when no success can make up for them, where the total is known."""
    peaks = {"max_memory_ratio", "max_gpu_memory_ratio", "max_nodes_lost"}
    assert {outcome.name for outcome in broken(ALL, tally, None)} == peaks
    assert {outcome.name for outcome in broken(ALL, tally, 8)} == peaks
    assert {outcome.name for outcome in broken(ALL, tally, 7)} == peaks | {"min_succeeded_ratio"}


def test_a_node_that_is_away(tally: Tally) -> None:
    """Which nodes are away now is known, and since when."""
    assert tally.away == {}
    tally.add_event(RunEvent(7.0, "node_lost", "a", "no answer"))
    assert tally.away == {"a": 7.0}
