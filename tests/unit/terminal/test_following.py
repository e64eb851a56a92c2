"""The following of benchmark runs: bars, lines, sentences, and how long it will still take."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.terminal.following import RunFollower, event_text, failure, follow, summary, verdict
from jupyterhub_agentfarm.terminal.output import Output
from jupyterhub_agentfarm.terminal.progress import bars
from jupyterhub_agentfarm.terminal.run_progress import RunProgress


def run_view(**changes: Any) -> dict[str, Any]:
    """Return a run of two cases on one node, another node left out."""
    plain = {
        "id": "r1", "suite": "smoke", "state": "completed", "detail": "", "started_at": 10.0, "ended_at": 73.0,
        "definition": {"cases": [{"name": "digits"}, {"name": "torch"}]},
        "nodes": [{"name": "a", "skipped": ""}, {"name": "b", "skipped": "it is draining"}],
        "results": [
            {"node": "a", "case": "digits", "outcome": "succeeded", "reason": ""},
            {"node": "a", "case": "torch", "outcome": "skipped", "reason": "torch is not installed"},
        ],
    }  # fmt: skip
    return plain | changes


def test_verdict() -> None:
    """A line per node, and a line for each case that did not succeed."""
    assert verdict(run_view()) == [
        "a: 1 skipped, 1 succeeded of 2 cases",
        "  torch skipped: torch is not installed",
        "b: took no part: it is draining",
    ]
    assert summary(run_view()) == "run r1 of suite smoke: completed in 63s"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"state": "failed", "detail": "no server"}, "run r1 of suite smoke: failed in 63s (no server)"),
        ({"results": [{"node": "a", "case": "digits", "outcome": "lost", "reason": "gone"}]}, "digits on a lost: gone"),
        (
            {"results": [{"node": "a", "case": "t", "outcome": "skipped", "reason": ""}]},
            "no case succeeded on any node",
        ),
        ({"results": []}, "no case succeeded on any node"),
    ],
)
def test_failure(changes: dict[str, Any], why: str | None) -> None:
    """A run fails by its state, by a case that failed, or when nothing succeeded; a skipped case is none."""
    assert failure(run_view(**changes)) == why


async def test_follow() -> None:
    """Events become bars, and the last view is the answer."""

    async def events() -> AsyncIterator[tuple[str, Any]]:
        yield "run", run_view(state="running", results=[])
        yield "result", {"node": "b", "case": "digits", "outcome": "skipped"}
        yield "progress", {"node": "a", "case": None, "phase": "starting"}
        yield "progress", {"node": "a", "case": "digits", "cells_done": 1, "cells_total": 4}
        yield "result", {"node": "a", "case": "digits", "outcome": "succeeded"}
        yield "sample", []
        yield "run", run_view()

    err = io.StringIO()
    with bars(Output(io.StringIO(), err)) as progress:
        view = await follow(events(), progress)
    assert view == run_view()
    assert err.getvalue().splitlines() == [
        "a: 0/2 running",
        "a: 1/2 digits: succeeded",
        "a: 2/2 done",
    ]


async def test_follow_of_a_lost_stream() -> None:
    """A stream that ends before the run did gives nothing, so that the caller asks again."""

    async def events() -> AsyncIterator[tuple[str, Any]]:
        yield "run", run_view(state="running", results=[])

    with bars(Output(io.StringIO(), io.StringIO())) as progress:
        assert await follow(events(), progress) is None


def result(node: str, case: str = "digits", phase: str = "", **changes: Any) -> dict[str, Any]:
    """Return a result that succeeded in ten seconds."""
    plain = {"node": node, "case": case, "outcome": "succeeded", "reason": "", "phase": phase, "duration_seconds": 10.0}
    return plain | changes


def phased(*phases: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a run of two cases on two nodes, one of them with two GPUs."""
    nodes = [{"name": "a", "skipped": "", "gpus": 0}, {"name": "b", "skipped": "", "gpus": 2}]
    definition = {"cases": [{"name": "digits"}, {"name": "torch"}], "phases": list(phases)}
    return run_view(state="running", ended_at=None, nodes=nodes, definition=definition, results=[], **changes)


ONCE = {"name": "one", "nodes": ["a", "b"], "concurrency": 1, "repetitions": 3, "warm_up": 1, "duration_seconds": None}
LONG = {"name": "long", "nodes": ["a", "b"], "concurrency": 1, "repetitions": None, "duration_seconds": 3600.0}


def test_how_much_there_is() -> None:
    """Each lane of a node has its own results, warm-up included; where a phase goes on for a time, nobody knows."""
    run = RunProgress(phased(ONCE))
    assert [run.total(node) for node in ("a", "b")] == [8, 16]
    assert RunProgress(phased(ONCE, LONG)).total("a") is None
    assert RunProgress(phased(ONCE, LONG | {"nodes": ["b"]})).total("a") == 8


def test_how_long_it_takes() -> None:
    """What remains is told by averages for repetitions, by the clock for durations, and not at all before that."""
    started = {"at": 100.0, "kind": "phase_started", "node": "", "detail": "one"}
    run = RunProgress(phased(ONCE, LONG, events=[started], started_at=100.0))
    assert run.remaining_seconds(110.0) is None
    run.take_result(result("a", phase="one"))
    assert run.remaining_seconds(110.0) is None
    run.take_result(result("a", "torch", "one", duration_seconds=20.0))
    assert run.remaining_seconds(130.0) == 4 * 30 + 3600  # b has nothing yet, and the slowest node counts
    for _ in range(4):
        run.take_result(result("b", phase="one"))
    assert run.remaining_seconds(140.0) == 3 * 30 + 3600
    assert run.phase == "phase 1 of 2, one"
    run.take_event({**started, "kind": "phase_ended"})
    run.take_event({**started, "detail": "long", "at": 200.0})
    assert run.remaining_seconds(2000.0) == 1800.0
    assert run.phase == "phase 2 of 2, long"
    assert run.ratio(2000.0) == pytest.approx(1900 / 3700)
    assert run.remaining_seconds(99999.0) == 0.0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["digits", "torch"]), st.floats(0.1, 1e4))))
def test_progress_stays_within_its_bounds(results: list[tuple[str, str, float]]) -> None:
    """However many results there are, what remains is never below 0 and the part that is over never above 1."""
    run = RunProgress(phased(ONCE, started_at=100.0))
    for node, case, seconds in results:
        run.take_result(result(node, case, "one", duration_seconds=seconds))
        remaining, ratio = run.remaining_seconds(150.0), run.ratio(150.0)
        assert remaining is None or remaining >= 0
        assert ratio is None or 0 <= ratio <= 1


async def test_a_long_run_on_two_streams() -> None:
    """The whole run has a line with what is left; what happened is said once, also when the stream begins anew."""
    began = {"at": 0.0, "kind": "phase_started", "node": "", "detail": "long", "seconds": None}
    lost = {"at": 1.0, "kind": "node_lost", "node": "a", "detail": "no report for 10 s", "seconds": None}
    gap = {"at": 2.0, "kind": "service_gap", "node": "", "detail": "", "seconds": 90.0}
    first, then = phased(LONG, started_at=0.0, events=[began]), phased(LONG, started_at=0.0, events=[began, lost, gap])

    async def events(*each: tuple[str, Any]) -> AsyncIterator[tuple[str, Any]]:
        for event in each:
            yield event

    err = io.StringIO()
    with bars(Output(io.StringIO(), err)) as progress:
        follower = RunFollower(progress, clock=lambda: 900.0)
        assert await follower.follow(events(("run", first), ("event", lost), ("result", result("b")))) is None
        ended = {**then, "state": "completed"}
        assert await follower.follow(events(("run", then), ("run", ended))) == ended
    lines = [line.split(" ", 1)[1] if line[2:3] == ":" else line for line in err.getvalue().splitlines()]
    assert lines == [
        "phase long begins",
        "a: 0 done running",
        "b: 0 done running",
        "suite smoke: 25 % about 45m left",
        "a is lost: no report for 10 s",
        "b: 1 done digits: succeeded",
        "the benchmark service was away for 90s: nothing was sampled meanwhile",
        "b: 0 done running",
    ]


@pytest.mark.parametrize(
    ("kind", "text"),
    [("node_back", "n1 is back"), ("server_restarted", "the server on n1 was started anew"), ("moon", "moon n1")],
)
def test_events_in_words(kind: str, text: str) -> None:
    """Also one that this version does not know."""
    assert event_text({"at": 0.0, "kind": kind, "node": "n1", "detail": "", "seconds": None}) == text


def test_more_results_than_the_view_has() -> None:
    """What is counted is what the service added up; reasons are those of the newest results, where there are any."""
    row = {"phase": "one", "node": "a", "case": "digits", "warm_up": False, "seconds": 100.0}
    outcomes = [
        row | {"outcome": "succeeded", "results": 10},
        row | {"case": "torch", "outcome": "succeeded", "results": 5},
        row | {"outcome": "failed", "results": 7},
        row | {"outcome": "timed_out", "results": 1},
    ]
    newest = [result("a", phase="one", outcome="failed", reason="NameError")]
    view = phased(LONG) | {"state": "completed", "outcomes": outcomes, "results": newest}
    assert verdict(view)[:3] == [
        "a: 7 failed, 15 succeeded, 1 timed_out",
        "  digits failed: NameError (7 times)",
        "  digits timed_out",
    ]
    assert failure(view) == "digits on a failed and 7 more: NameError"
    run = RunProgress(phased(ONCE) | {"outcomes": outcomes, "started_at": 0.0})
    assert (run.done["a"], run.remaining_seconds(1.0)) == (23, (10 + 20) * 4)


def test_the_same_again() -> None:
    """What happened many times is one line of the verdict, and what a limit allows is no failure."""
    lost = result("a", outcome="lost", reason="gone", duration_seconds=None)
    view = phased(LONG) | {"state": "completed", "passed": True, "results": [lost] * 3 + [result("a"), result("b")]}
    assert verdict(view)[:2] == ["a: 3 lost, 1 succeeded", "  digits lost: gone (3 times)"]
    assert failure(view) is None
    assert failure(view | {"passed": None}) == "digits on a lost and 2 more: gone"
