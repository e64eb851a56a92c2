"""What holds of the plan of every run, whatever the suite, the request and the farm."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
from benchmark_world import make_view
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.definition import Case, Suite, SuitePhase, Targets
from jupyterhub_agentfarm.benchmark.models import Phase, RunNode, RunRequest
from jupyterhub_agentfarm.benchmark.plan import (
    check_parameters,
    deadline_seconds,
    lanes_of,
    parameters_of,
    phases_of,
    planned_cases,
    wanted_nodes,
)
from jupyterhub_agentfarm.errors import ConflictError, InvalidField

CASE = Case("one", "n.ipynb", parameters={"scale": 2.0, "size": 12})
SUITE = Suite("s", "S", (CASE,))
NODES = ["a", "b", "c", "d", "e"]

names = st.lists(st.sampled_from(NODES), min_size=1, unique=True).map(sorted)
requests = st.one_of(
    st.just(RunRequest("s")),
    st.builds(lambda seconds: RunRequest("s", duration_seconds=seconds), st.floats(0.1, 1e5)),
    st.builds(lambda times: RunRequest("s", repeat=times), st.integers(1, 9)),
)


@st.composite
def suites(draw: st.DrawFn) -> Suite:
    """Any suite that can be read."""
    mode = draw(st.sampled_from(["once", "repeat", "duration", "ramp"]))
    changes: dict[str, Any] = {"mode": mode, "warm_up": draw(st.integers(0, 2))}
    changes["concurrency"] = draw(st.integers(1, 4))
    if mode in ("repeat", "ramp"):
        changes["repeat"] = draw(st.integers(1, 5))
    if mode == "duration":
        changes["duration_seconds"] = draw(st.floats(0.1, 1e5))
    if mode == "ramp":
        steps = draw(st.lists(st.integers(1, 9), unique=True).map(sorted))
        changes["ramp"] = (*steps, 0) if draw(st.booleans()) else tuple(steps)
    else:
        tables = st.builds(
            SuitePhase, st.sampled_from(["p", "q", "r"]), st.integers(0, 1), st.integers(1, 3) | st.none()
        )
        changes["phase_tables"] = tuple(draw(st.lists(tables, max_size=3, unique_by=lambda table: table.name)))
    if draw(st.booleans()):
        changes |= {"work": "shared", "shared_parameters": ("scale",)}
    return dataclasses.replace(SUITE, **changes)


@given(suites(), requests, names)
def test_what_holds_of_every_plan(suite: Suite, request: RunRequest, nodes: list[str]) -> None:
    """Phases have nodes of the run, no name twice, and either repetitions or their share of the whole duration."""
    phases = phases_of(suite, request, nodes)
    assert len({phase.name for phase in phases}) == len(phases) > 0
    for phase in phases:
        assert phase.nodes == tuple(nodes[: len(phase.nodes)])
        assert phase.nodes
        assert (phase.repetitions is None) != (phase.duration_seconds is None)
        assert phase.warm_up == suite.warm_up
        assert phase.parameters_factor == (1 / len(phase.nodes) if suite.work == "shared" else 1)
    timed = [phase.duration_seconds for phase in phases if phase.duration_seconds is not None]
    wanted = request.duration_seconds or (None if request.repeat else suite.duration_seconds)
    assert sum(timed) == pytest.approx(wanted or 0)
    assert deadline_seconds(suite, phases) == pytest.approx(suite.timeout_seconds + (wanted or 0))
    if request.repeat:
        assert {phase.repetitions for phase in phases} == {request.repeat}


@given(suites().filter(lambda suite: suite.mode == "ramp"), names)
def test_the_steps_of_a_ramp_are_nested(suite: Suite, nodes: list[str]) -> None:
    """Each step has all nodes of the one before it and at least one more; asked for all, it ends with all."""
    steps = [phase.nodes for phase in phases_of(suite, RunRequest("s"), nodes)]
    for smaller, larger in pairwise(steps):
        assert set(smaller) < set(larger)
    if not suite.ramp or suite.ramp[-1] == 0:
        assert len(steps[-1]) == len(nodes)


def test_a_ramp_doubles_up_to_all() -> None:
    """Without numbers of its own a ramp goes 1, 2, 4 … and ends with all."""
    suite = dataclasses.replace(SUITE, mode="ramp")
    assert [len(phase.nodes) for phase in phases_of(suite, RunRequest("s"), NODES)] == [1, 2, 4, 5]
    assert [phase.name for phase in phases_of(suite, RunRequest("s"), NODES[:2])] == ["nodes-1", "nodes-2"]


@given(st.integers(1, 50), st.floats(0.01, 1e6), st.integers(1, 10**6))
def test_shared_work_adds_up(nodes: int, scale: float, size: int) -> None:
    """The parts of all nodes together are the work of one; whole numbers stay whole, and are never 0."""
    given_ = {"scale": scale, "size": size, "other": 5}
    parts = parameters_of(CASE, given_, ("scale", "size"), 1 / nodes)
    assert parts["scale"] * nodes == pytest.approx(scale)  # type: ignore[operator]
    assert isinstance(parts["size"], int)
    assert abs(parts["size"] * nodes - size) <= nodes
    assert parts["size"] >= 1
    assert parts["other"] == 5


def test_a_phase_that_needs_more_nodes_than_there_are() -> None:
    """It is refused, with both numbers."""
    suite = dataclasses.replace(SUITE, phase_tables=(SuitePhase("wide", 3),))
    with pytest.raises(ConflictError, match="phase wide of suite s needs 3 nodes, 2 take part"):
        phases_of(suite, RunRequest("s"), ["a", "b"])


def test_repetitions_of_a_phase_in_a_suite_for_a_duration() -> None:
    """A [[phase]] with repetitions of its own goes by these; the others share the duration."""
    tables = (SuitePhase("warm", repeat=2), SuitePhase("x"), SuitePhase("y", concurrency=4))
    suite = dataclasses.replace(SUITE, mode="duration", duration_seconds=60, phase_tables=tables)
    told = [(phase.repetitions, phase.duration_seconds) for phase in phases_of(suite, RunRequest("s"), NODES)]
    assert told == [(2, None), (None, 30), (None, 30)]


def test_lanes_and_how_many_results_count() -> None:
    """Each GPU of a server, or the server without one, has as many lanes as the phase says."""
    two, none = RunNode("a", "gpuserver", gpus=2), RunNode("b", "microserver")
    phases = (Phase("p", ("a", "b"), 3, 2), Phase("q", ("b",), 1, 5))
    assert (lanes_of(phases[0], two), lanes_of(phases[0], none)) == (6, 3)
    assert planned_cases(phases, {"a": two, "b": none}, 4) == 4 * (2 * 9 + 5 * 1)
    assert planned_cases((Phase("p", ("a",), duration_seconds=5, repetitions=None),), {"a": two}, 4) is None


VIEWS = {
    "big": make_view("big", role="gpuserver"),
    "n1": make_view("n1", labels={"rack": "a"}),
    "n2": make_view("n2", labels={"rack": "b"}),
}


@pytest.mark.parametrize(
    ("request_", "targets", "names"),
    [
        (RunRequest("s"), Targets(), ["big", "n1", "n2"]),
        (RunRequest("s", ("n2", "n1", "n2")), Targets(role="gpuserver"), ["n1", "n2"]),
        (RunRequest("s", labels={"role": "microserver"}), Targets(role="gpuserver"), ["n1", "n2"]),
        (RunRequest("s", labels={"rack": "b", "role": "microserver"}), Targets(), ["n2"]),
        (RunRequest("s"), Targets(role="gpuserver"), ["big"]),
        (RunRequest("s"), Targets(("n1", "big"), {"rack": "a"}), ["n1"]),
    ],
)
def test_which_nodes(request_: RunRequest, targets: Targets, names: list[str]) -> None:
    """The request's nodes or labels, or else the suite's targets, or else all."""
    assert wanted_nodes(VIEWS, request_, dataclasses.replace(SUITE, targets=targets)) == names


@pytest.mark.parametrize(
    ("request_", "targets", "error", "text"),
    [
        (
            RunRequest("s", ("n9",)),
            Targets(),
            InvalidField,
            r"nodes must be names of nodes of this farm \(big, n1, n2\)",
        ),
        (RunRequest("s", ()), Targets(), InvalidField, "nodes must be names of nodes"),
        (RunRequest("s"), Targets(("n9",)), InvalidField, "targets.nodes must be names of nodes of this farm"),
        (RunRequest("s", labels={"rack": "z"}), Targets(), ConflictError, "no node of the farm has rack=z"),
    ],
)
def test_nodes_that_there_are_not(request_: RunRequest, targets: Targets, error: type[Exception], text: str) -> None:
    """Who names what is not there is told what is."""
    with pytest.raises(error, match=text):
        wanted_nodes(VIEWS, request_, dataclasses.replace(SUITE, targets=targets))


def test_a_shared_parameter_is_a_number() -> None:
    """A request cannot give text for what the nodes are to share."""
    suite = dataclasses.replace(SUITE, work="shared", shared_parameters=("scale",))
    check_parameters(suite, {"scale": 3, "name": "x"})
    with pytest.raises(InvalidField, match=r"parameters\.scale must be a number: the nodes share it, not 'big'"):
        check_parameters(suite, {"scale": "big"})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"duration_seconds": 0}, "duration_seconds must be a number of seconds above 0"),
        ({"duration_seconds": float("inf")}, "duration_seconds must be a number of seconds above 0"),
        ({"sample_interval_seconds": -1}, "sample_interval_seconds must be a number of seconds above 0"),
        ({"repeat": 0}, "repeat must be a whole number of at least 1"),
        ({"repeat": 2, "duration_seconds": 5}, "repeat must be left out where duration_seconds is given"),
        ({"nodes": ("a",), "labels": {"x": "y"}}, "labels must be left out where nodes are given"),
    ],
)
def test_requests_that_no_run_can_have(fields: dict[str, Any], text: str) -> None:
    """They are refused before anything else is looked at."""
    with pytest.raises(InvalidField, match=text):
        RunRequest("s", **fields)
