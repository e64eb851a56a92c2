"""How a run goes: repetitions, durations, ramps, concurrency, warm-up, shared work, nodes that come and go."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from benchmark_world import World, make_view
from waiting import eventually

from jupyterhub_agentfarm.benchmark.bench import Bench
from jupyterhub_agentfarm.benchmark.models import BenchmarkRun, CaseResult, RunRequest


async def finished(bench: Bench, run_id: str) -> BenchmarkRun:
    """Return a run once it has ended."""

    async def ended() -> BenchmarkRun | None:
        run = await bench.store.run(run_id)
        return None if run.going else run

    run: BenchmarkRun = await eventually(ended, "the run ends", timeout=40)
    return run


async def go(bench: Bench, *nodes: str, **request: Any) -> tuple[BenchmarkRun, list[CaseResult]]:
    """Carry out a run; return it and its results in the order in which they came."""
    run = await bench.start(RunRequest("tiny", nodes or None, **request), "ada")
    return await finished(bench, run.id), await bench.store.results(run.id)


async def kinds(bench: Bench, run: BenchmarkRun) -> list[str]:
    """Return the kinds of a run's events."""
    return [event.kind for event in await bench.store.events(run.id)]


async def test_repetitions_and_warm_up(make_bench: Any) -> None:
    """Every case runs once to warm up and then as often as asked, on every node; only the latter counts."""
    bench = await make_bench(how='mode = "repeat"\nrepeat = 2\nwarm_up = 1')
    run, results = await go(bench, "n1", "n2")
    assert (run.state, run.passed) == ("completed", True)
    assert Counter((one.node, one.case, one.repetition, one.warm_up) for one in results) == Counter(
        itertools.chain.from_iterable(
            [(node, case, repetition, repetition == 1) for repetition in (1, 2, 3)]
            for node in ("n1", "n2")
            for case in ("one", "two")
        )
    )
    assert await kinds(bench, run) == ["run_started", "phase_started", "phase_ended"]
    events = await bench.store.events(run.id)
    measured = [one for one in results if not one.warm_up]
    assert max(one.ended_at or 0 for one in results if one.warm_up) <= events[1].at
    assert min(one.started_at or 0 for one in measured) >= events[1].at - 0.1
    assert (await bench.store.samples(run.id))[-1].values["cases_succeeded"] == len(measured)


async def test_a_duration(make_bench: Any, world: World) -> None:
    """Each node goes through the cases again and again until the time is over; a slow node holds up no other."""
    bench = await make_bench(how='mode = "duration"\nduration = 1')
    world.behaviour["n2", "one"] = "slow"
    run, results = await go(bench, "n1", "n2")
    assert run.state == "completed"
    counts = Counter(one.node for one in results)
    assert counts["n1"] > 2 * counts["n2"] > 0
    for node in ("n1", "n2"):
        done = [(one.repetition, one.case) for one in results if one.node == node]
        assert done == [(n // 2 + 1, ("one", "two")[n % 2]) for n in range(len(done))]
    ended = (await bench.store.events(run.id))[-1]
    assert (ended.kind, ended.detail) == ("phase_ended", "main")
    assert ended.seconds is not None
    assert 1 <= ended.seconds < 20


async def test_the_requests_duration_counts(bench: Bench) -> None:
    """A suite of single cases goes on for as long as the request says."""
    run, results = await go(bench, "n1", duration_seconds=0.5)
    assert run.phases[0].duration_seconds == 0.5
    assert max(one.repetition for one in results) > 1


async def test_a_ramp_starts_servers_when_they_are_needed(make_bench: Any, world: World) -> None:
    """One node, then two, then all: each step has its phase, and a node idles nowhere before its first step."""
    bench = await make_bench(how='mode = "ramp"')
    run, results = await go(bench)
    assert [phase.name for phase in run.phases] == ["nodes-1", "nodes-2", "nodes-3"]
    assert {phase: {one.node for one in results if one.phase == phase} for phase in ("nodes-1", "nodes-2")} == {
        "nodes-1": {"big"},
        "nodes-2": {"big", "n1"},
    }
    happened = [entry[:2] for entry in world.history if entry[0] in ("start", "submit")]
    assert happened.index(("start", "n1")) > happened.index(("submit", "big"))
    assert happened.count(("start", "big")) == 1


async def test_concurrency_is_per_gpu(make_bench: Any, world: World) -> None:
    """A phase has so many cases at once for each GPU, each GPU's kernels see it alone; one without GPUs as many."""
    tables = '[[phase]]\nname = "dedicated"\n[[phase]]\nname = "shared"\nconcurrency = 3\n'
    bench = await make_bench(how="gpus = 2\n" + tables)
    world.lease(
        id="l1", owner="benchmark", server_name="bench-big", state="running", gpus=["GPU-a", "GPU-b"], node="big"
    )
    await eventually(lambda: bench._world.farm.leases, "the lease is known")
    run, results = await go(bench, "big")
    assert run.state == "completed"
    lanes = {phase: {one.lane for one in results if one.phase == phase} for phase in ("dedicated", "shared")}
    assert lanes == {"dedicated": {0, 1}, "shared": set(range(6))}
    assert world.most_executing == {"big": 6}
    devices = Counter(body["environment"]["CUDA_VISIBLE_DEVICES"] for body in world.submitted)
    assert devices == {"GPU-a": 8, "GPU-b": 8}


async def test_shared_work_is_divided(make_bench: Any, world: World) -> None:
    """The nodes of a step share the work: two of them have half each."""
    bench = await make_bench(how='mode = "ramp"\nramp = [1, 2]\nwork = "shared"\nshared_parameters = ["size"]')
    await go(bench, parameters={"size": 10})
    assert Counter(body["parameters"]["size"] for body in world.submitted) == {10: 2, 5: 4}


async def test_a_node_that_dies_and_comes_back(make_bench: Any, world: World) -> None:
    """What it did is lost and its going is told; the others go on; back, it has a new server and takes part again."""
    bench = await make_bench(how='mode = "duration"\nduration = 6', patience=1000)
    world.behaviour["n2", "one"] = "gone"
    run = await bench.start(RunRequest("tiny", ("n1", "n2")), "ada")
    await eventually(lambda: "n2" in world.gone, "the node goes")
    world.put(make_view("n2", state="down", detail="no answer"))

    async def lost() -> bool:
        return any(result.outcome == "lost" for result in await bench.store.results(run.id))

    await eventually(lost, "its case is lost")
    world.gone.clear()
    world.behaviour.clear()
    world.remove_server("n2")
    world.put(make_view("n2"))
    ended = await finished(bench, run.id)
    results = await bench.store.results(run.id)
    assert ended.state == "completed"
    of_n2 = [one.outcome for one in results if one.node == "n2"]
    assert of_n2.count("lost") == 1
    assert of_n2.count("succeeded") > 1
    assert {one.outcome for one in results if one.node == "n1"} == {"succeeded"}
    events = {event.kind: event for event in await bench.store.events(run.id)}
    assert (events["node_lost"].node, events["node_lost"].detail) == ("n2", "the node is down: no answer")
    assert events["node_back"].node == "n2"
    assert events["node_back"].seconds is not None
    assert events["node_back"].at - events["node_lost"].at == pytest.approx(events["node_back"].seconds, abs=0.5)
    assert world.happened("start").count(("start", "n2")) == 2
    assert not ended.passed
    assert world.servers == {}


async def test_a_server_that_dies_is_started_again(make_bench: Any, world: World) -> None:
    """Its node is fine: what it executed is lost, and the next case has a new server."""
    bench = await make_bench(how='mode = "repeat"\nrepeat = 3')
    world.behaviour["n1", "one"] = "hang"
    run = await bench.start(RunRequest("tiny", ("n1", "n2")), "ada")
    await eventually(lambda: ("submit", "n1", "one") in world.history, "the case executes")
    world.behaviour.clear()
    world.remove_server("n1")
    ended = await finished(bench, run.id)
    results = await bench.store.results(run.id)
    assert ended.state == "completed"
    assert [one.outcome for one in results if one.node == "n1"] == ["lost", *5 * ["succeeded"]]
    assert "server_restarted" in await kinds(bench, ended)
    assert "node_lost" not in await kinds(bench, ended)


async def test_the_hub_and_its_proxy_are_away_for_a_while(make_bench: Any, world: World) -> None:
    """However long that takes: nothing is lost, nothing is started anew, no case runs twice."""
    bench = await make_bench(patience=0.1, how='mode = "repeat"\nrepeat = 2')
    world.behaviour["n1", "one"] = "hang"
    run = await bench.start(RunRequest("tiny", ("n1",)), "ada")
    await eventually(lambda: ("submit", "n1", "one") in world.history, "the case executes")
    world.hub_away, world.hiccups = True, {"n1": 40}
    await eventually(lambda: world.hiccups["n1"] == 0, "the server was asked for some time", timeout=30)
    world.hub_away = False
    world.behaviour.clear()
    ended = await finished(bench, run.id)
    assert [one.outcome for one in await bench.store.results(run.id)] == 4 * ["succeeded"]
    assert world.happened("start") == [("start", "n1")]
    assert len(world.submitted) == 4
    assert await kinds(bench, ended) == ["run_started", "phase_started", "phase_ended"]


async def test_a_case_that_fails_at_once_does_not_fail_for_ever(make_bench: Any, world: World) -> None:
    """In a run for a duration a lane rests after a case that ended badly at once."""
    bench = await make_bench(how='mode = "duration"\nduration = 2')
    world.behaviour = {("n1", case): "refuse" for case in ("one", "two")}
    _, results = await go(bench, "n1")
    assert 1 <= len(results) <= 4
    assert {one.outcome for one in results} == {"failed"}


async def test_waiting_in_line_is_progress(make_bench: Any, world: World) -> None:
    """A server that waits for a busy node says so to who follows the run, with its place in the line."""
    bench = await make_bench()
    bench._world.servers.start_timeout = 100
    world.never_ready.add("n1")
    world.lease(
        id="l1",
        owner="benchmark",
        server_name="bench-n1",
        state="waiting",
        position=2,
        detail="n1: needs 1 GPU, none is free",
        node=None,
    )
    run = await bench.start(RunRequest("tiny", ("n1",)), "ada")

    async def told() -> list[Any]:
        view = await bench.view(run.id)
        return [one["detail"] for one in view["progress"] if one["status"] == "waiting"]

    details = await eventually(told, "the wait is told")
    assert details == ["it waits at position 2: n1: needs 1 GPU, none is free"]
    await bench.cancel(run.id, "ada")
    await finished(bench, run.id)


async def test_limits_decide_whether_a_run_passed(make_bench: Any, world: World) -> None:
    """The run tells each limit with what came out; the first moment at which one is broken is an event."""
    limits = "[limits]\nmin_succeeded_ratio = 0.9\nmax_memory_ratio = 0.2\nmax_nodes_lost = 0\n"
    bench = await make_bench(how=limits)
    world.behaviour["n1", "one"] = "fail"
    run, _ = await go(bench, "n1", "n2")
    assert (run.state, run.passed) == ("completed", False)
    came = {outcome.name: (outcome.got, outcome.held) for outcome in run.limits}
    assert came == {
        "max_memory_ratio": (0.25, False),
        "max_nodes_lost": (0, True),
        "min_succeeded_ratio": (0.75, False),
    }
    exceeded = [event.detail for event in await bench.store.events(run.id) if event.kind == "limit_exceeded"]
    assert exceeded == [
        "max_memory_ratio is 0.2, and it came to 0.25",
        "min_succeeded_ratio is 0.9, and it came to 0.75",
    ]


async def test_a_broken_limit_ends_a_run_where_the_suite_says_so(make_bench: Any, world: World) -> None:
    """With fail_fast nothing more is begun; what was not done is cancelled, and no server is left."""
    bench = await make_bench(how='mode = "repeat"\nrepeat = 1000\n[limits]\nmax_memory_ratio = 0.2\nfail_fast = true\n')
    run, _ = await go(bench, "n1")
    assert (run.state, run.detail, run.passed) == ("failed", "max_memory_ratio cannot hold any more", False)
    assert world.servers == {}
