"""Availability, losses, restarts, gaps, drifts; and events as they are told."""

from __future__ import annotations

import pytest
from benchmark_records import GIB, START, run_node, run_record, sample, success

from jupyterhub_agentfarm.benchmark.models import RunEvent, Sample
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence
from jupyterhub_agentfarm.benchmark.report.occurrences import MAX_MARKS, occurrences
from jupyterhub_agentfarm.benchmark.report.stability import stability

NODES = [run_node("n1"), run_node("n2")]


def told(samples: list[Sample], events: list[RunEvent] = (), seconds: float = 1000) -> Evidence:
    """Return evidence of a run with a case on n1 over all of it."""
    run = run_record(NODES, ["train"], seconds, sample_interval_seconds=10.0)
    return Evidence(run, [success("n1", "train", 0, seconds)], samples, events)


def every(name: str, moments: range, lost: range = range(0), **values: float) -> list[Sample]:
    """Return samples of a node, not up in some of the time."""
    return [sample(name, at, up=0) if at in lost else sample(name, at, **values) for at in moments]


def test_availability_and_losses_from_samples() -> None:
    """A node that was down for 100 of 1,000 s was lost once, and available for 90 % of the time."""
    samples = every("n1", range(0, 1001, 10)) + every("n2", range(0, 1001, 10), lost=range(500, 600))
    held = stability(told(samples))
    assert held.nodes[1].losses == ((500, 100),)
    assert held.nodes[1].availability_ratio == pytest.approx(0.9)
    assert held.availability_ratio == pytest.approx(0.95)
    assert (held.losses, held.lost_seconds) == (1, 100)
    assert [node.node for node in held.troubled] == ["n2"]


def test_events_are_more_exact_than_samples() -> None:
    """Losses are told by events where there are any; one that did not come back lasts to the end."""
    events = [RunEvent(START + 203, "node_lost", "n2"), RunEvent(START + 240, "node_back", "n2")]
    events.append(RunEvent(START + 900, "node_lost", "n2"))
    held = stability(told(every("n1", range(0, 1001, 10)), events))
    assert held.nodes[1].losses == ((203, 37), (900, 100))
    assert held.nodes[0].losses == ()


def test_a_gap_is_neither_up_nor_down() -> None:
    """While the service was away nobody looked: it is a gap of its length, and availability is of the rest."""
    samples = [
        one for name in ("n1", "n2") for one in every(name, range(0, 1001, 10)) if not 300 < one.at - START < 500
    ]
    held = stability(told(samples))
    assert held.gaps == ((300, 200),)
    assert held.availability_ratio == 1
    assert held.node_hours == pytest.approx(2 * 810 / 3600, rel=0.02)
    assert [one.kind for one in occurrences(told(samples))] == ["service_gap"]


def test_a_machine_that_was_started_anew() -> None:
    """A later time of start is a restart; a clock that is set by half a minute is none."""
    moments = range(0, 1001, 10)
    samples = [sample("n1", at, boot_at=START - 5000 + (30 if at > 200 else 0)) for at in moments]
    samples += [sample("n2", at, boot_at=START - 5000 if at < 600 else START + 590) for at in moments]
    held = stability(told(samples))
    assert [node.restarts for node in held.nodes] == [(), (600,)]


def test_uptime_that_falls_is_a_restart_too() -> None:
    """Where a node does not tell when it was started, its uptime does."""
    samples = [sample("n1", at, uptime_seconds=at + (5000 if at < 400 else -390)) for at in range(0, 1001, 10)]
    held = stability(told(samples))
    assert held.nodes[0].restarts == (400,)
    assert held.nodes[0].uptime_seconds == 610


def test_memory_that_grows_is_told() -> None:
    """Memory in use that goes from a quarter to a half over the run is a drift; one that stays is none."""
    samples = [
        sample(name, at, memory_total_bytes=32 * GIB, memory_used_bytes=(8 + grows * at / 1000) * GIB)
        for name, grows in (("n1", 8), ("n2", 0))
        for at in range(0, 1001, 10)
    ]
    (drift,) = stability(told(samples)).drifts
    assert (drift.name, drift.what) == ("n1", "memory in use")
    assert drift.change_ratio == pytest.approx(8 / 12, rel=0.02)


def test_cases_that_become_slower_are_told() -> None:
    """Durations that grow by half over the run are a drift of that case on that node."""
    results = [success("n1", "train", 40.0 * number, 20 + number / 2) for number in range(21)]
    run = run_record(NODES, ["train"], 1000)
    (drift,) = stability(Evidence(run, results)).drifts
    assert (drift.name, drift.what) == ("n1", "duration of train")
    assert drift.change_ratio == pytest.approx(10 / 25, rel=0.01)


def test_servers_started_again_are_counted() -> None:
    """Each start is an event of its node."""
    events = [RunEvent(START + at, "server_restarted", "n1", "it died") for at in (5, 50)]
    assert stability(told([], events)).nodes[0].server_restarts == 2


def test_occurrences_in_words() -> None:
    """Events are numbered in the order of time and told in words."""
    events = [
        RunEvent(START + 60, "node_back", "n2", "", 57.0),
        RunEvent(START, "phase_started", "", "main"),
        RunEvent(START + 3, "node_lost", "n2", "no heartbeat"),
        RunEvent(START + 100, "service_gap", "", "", 12.0),
    ]
    found = occurrences(told([], events))
    assert [one.number for one in found] == [1, 2, 3, 4]
    assert [one.text for one in found] == [
        "phase main began",
        "n2 was lost: no heartbeat",
        "n2 was back, after 57 s",
        "the benchmark service went on, after 12 s",
    ]
    assert [one.marked for one in found] == [False, True, True, True]


def test_hostile_details_are_not_formats() -> None:
    """A detail with braces is a text."""
    (found,) = occurrences(told([], [RunEvent(START, "phase_started", "", "{node.__class__}")]))
    assert found.text == "phase {node.__class__} began"


def test_many_events_leave_room_in_the_plots() -> None:
    """Of more events than can be told apart only the gravest kinds are marked."""
    events = [RunEvent(START + at, "server_restarted", "n1") for at in range(MAX_MARKS)]
    events += [RunEvent(START + 5, "node_lost", "n2")]
    found = occurrences(told([], events))
    assert {one.kind for one in found if one.marked} == {"node_lost"}
