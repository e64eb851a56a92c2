"""Runs against real servers' APIs, with one defect at a time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
from benchmark_world import World, make_view
from waiting import eventually

from jupyterhub_agentfarm.benchmark.bench import Bench
from jupyterhub_agentfarm.benchmark.models import BenchmarkRun, CaseResult, RunRequest, Sample
from jupyterhub_agentfarm.errors import ConflictError, InvalidField, NotFoundError
from jupyterhub_agentfarm.models import Mark


async def finished(bench: Bench, run_id: str) -> BenchmarkRun:
    """Return a run once it has ended."""

    async def ended() -> BenchmarkRun | None:
        run = await bench.store.run(run_id)
        return None if run.going else run

    run: BenchmarkRun = await eventually(ended, "the run ends", timeout=20)
    return run


async def outcomes(bench: Bench, run_id: str) -> dict[tuple[str, str], CaseResult]:
    """Return the results by node and case."""
    return {(r.node, r.case): r for r in await bench.store.results(run_id)}


async def go(bench: Bench, **request: Any) -> tuple[BenchmarkRun, dict[tuple[str, str], CaseResult]]:
    """Carry out a run; return it and its results."""
    run = await bench.start(RunRequest("tiny", **request), "ada")
    ended = await finished(bench, run.id)
    return ended, await outcomes(bench, run.id)


async def test_all_nodes_run_all_cases(make_bench: Any, world: World, tmp_path: Path) -> None:
    """A run starts one pinned server per node, runs every case there, takes samples, and leaves no server."""
    bench = await make_bench(reports=True)
    run, results = await go(bench, parameters={"size": 7})
    assert (run.state, run.detail) == ("completed", "")
    assert {result.outcome for result in results.values()} == {"succeeded"}
    assert set(results) == {(node, case) for node in ("n1", "n2", "big") for case in ("one", "two")}
    assert results["n1", "one"].primary_value == 100.5
    assert results["n1", "one"].duration_seconds == 1.25
    assert world.options == {
        "n1": {"node": "n1", "gpus": 1},
        "n2": {"node": "n2", "gpus": 0},
        "big": {"node": "big", "gpus": 1},
    }
    assert world.servers == {}
    assert [body["parameters"]["size"] for body in world.submitted] == 6 * [7]
    assert world.runs == {}
    samples = await bench.store.samples(run.id)
    assert {(s.scope, s.name) for s in samples} == {
        ("node", "n1"),
        ("node", "n2"),
        ("node", "big"),
        ("role", "microserver"),
        ("role", "gpuserver"),
        ("farm", "farm"),
    }
    last = {sample.name: sample.values["cases_succeeded"] for sample in samples}
    assert last == {"n1": 2, "n2": 2, "big": 2, "microserver": 4, "gpuserver": 2, "farm": 6}
    names = {path.name for path in (tmp_path / "reports" / run.id).iterdir()}
    assert {"report.html", "report.json", "report.md", "samples.csv", "samples.json"} <= names
    assert "GPU-n1-0" in str(run.nodes)
    assert run.definition["sha256"]


async def test_a_case_begins_everywhere_before_the_next_begins_anywhere(bench: Bench, world: World) -> None:
    """Servers are all up before the first case, and a case has ended on every node before the next begins."""
    await go(bench)
    steps = [(entry[0], entry[-1]) for entry in world.history if entry[0] in ("start", "submit", "end")]
    kinds = [kind if kind == "start" else f"{kind} {last}" for kind, last in steps]
    assert kinds.index("submit one") == 3
    assert max(i for i, k in enumerate(kinds) if k == "end one") < min(
        i for i, k in enumerate(kinds) if k == "submit two"
    )


async def test_progress_and_results_are_told(bench: Bench) -> None:
    """Who follows a run sees its state, the progress of each node, results and samples, and the end."""
    run = await bench.start(RunRequest("tiny"), "ada")
    events = [event async for event in await bench.follow(run.id)]
    assert events[0][0] == "run"
    assert {"run", "progress", "result", "sample", "event"} == {name for name, _ in events}
    assert events[-1][1]["state"] == "completed"
    assert len(events[-1][1]["results"]) == 6
    again = [event async for event in await bench.follow(run.id)]
    assert [(name, view["state"]) for name, view in again] == [("run", "completed")]


async def test_a_server_that_is_never_ready_does_not_hold_the_others(bench: Bench, world: World) -> None:
    """A node whose server does not start fails its cases with the reason; the others go on; nothing is left."""
    world.never_ready.add("n1")
    run, results = await go(bench)
    assert run.state == "completed"
    assert results["n1", "two"].outcome == "failed"
    assert "not ready within 0.5 s" in results["n1", "two"].reason
    assert results["n2", "two"].outcome == "succeeded"
    assert world.servers == {}


async def test_no_server_at_all(bench: Bench, world: World) -> None:
    """A run none of whose servers starts has failed, and every case says why."""
    world.refused |= {"n1", "n2", "big"}
    run, results = await go(bench)
    assert (run.state, run.detail) == ("failed", "no node's server became ready")
    assert all("quota" in result.reason for result in results.values())


async def test_a_node_is_lost_in_the_middle(bench: Bench, world: World) -> None:
    """The cases of a node that goes are lost, the running one and the remaining; the others go on."""
    world.behaviour["n2", "one"] = "gone"
    run, results = await go(bench)
    assert run.state == "completed"
    assert {case: results["n2", case].outcome for case in ("one", "two")} == {"one": "lost", "two": "lost"}
    assert results["n1", "two"].outcome == results["big", "two"].outcome == "succeeded"
    assert ("submit", "n2", "two") not in world.history


async def test_a_node_that_is_down_is_given_up_at_once(make_bench: Any, world: World) -> None:
    """When the controller says that the node is down, nobody waits for the server's patience to end."""
    bench = await make_bench(patience=1000)
    world.behaviour["n2", "one"] = "gone"
    run = await bench.start(RunRequest("tiny"), "ada")
    await eventually(lambda: "n2" in world.gone, "the node goes")
    world.put(make_view("n2", state="down", detail="no answer for 30 s"))
    assert (await finished(bench, run.id)).state == "completed"
    assert (await outcomes(bench, run.id))["n2", "one"].reason.endswith("the node is down: no answer for 30 s")


async def test_a_broken_connection_is_no_end(make_bench: Any, world: World) -> None:
    """Some requests without an answer do no harm."""
    bench = await make_bench(patience=10)
    world.hiccups = {"n1": 5, "big": 2}
    _, results = await go(bench)
    assert {result.outcome for result in results.values()} == {"succeeded"}


async def test_a_case_fails(bench: Bench, world: World) -> None:
    """A failed case tells cell, line and traceback; the node's next case runs."""
    world.behaviour["n1", "one"] = "fail"
    _, results = await go(bench)
    result = results["n1", "one"]
    assert result.outcome == "failed"
    assert result.error is not None
    assert result.error.message == "cell 1, line 2: ZeroDivisionError: division"
    assert result.error.traceback.endswith("ZeroDivisionError: division")
    assert results["n1", "two"].outcome == "succeeded"


async def test_a_notebook_skips_itself(bench: Bench, world: World) -> None:
    """A notebook that publishes that it was skipped gives a skipped result with its reason."""
    world.behaviour["n1", "two"] = "skip"
    _, results = await go(bench)
    assert (results["n1", "two"].outcome, results["n1", "two"].reason) == ("skipped", "torch is not installed")


async def test_cancel(bench: Bench, world: World) -> None:
    """A cancelled run stops the notebooks and the servers; what was not done is cancelled."""
    world.behaviour["big", "one"] = "hang"
    run = await bench.start(RunRequest("tiny"), "ada")

    async def others_finished() -> bool:
        done = [result.outcome for result in (await outcomes(bench, run.id)).values()].count("succeeded")
        return done == 2 and ("submit", "big", "one") in world.history

    await eventually(others_finished, "the other nodes finish the first case")
    await bench.cancel(run.id, "grace")
    ended = await finished(bench, run.id)
    results = await outcomes(bench, run.id)
    assert (ended.state, ended.detail) == ("cancelled", "cancelled by grace")
    assert results["n1", "one"].outcome == "succeeded"
    assert results["big", "one"].outcome == results["n1", "two"].outcome == "cancelled"
    assert world.happened("cancel") == [("cancel", "big", "one")]
    assert world.servers == {}
    with pytest.raises(ConflictError, match="has ended: it is cancelled"):
        await bench.cancel(run.id, "grace")


async def test_cancel_while_servers_start(make_bench: Any, world: World) -> None:
    """A run that is cancelled before its servers are ready leaves none behind."""
    bench = await make_bench()
    bench._world.servers.start_timeout = 100
    world.never_ready.add("n1")
    run = await bench.start(RunRequest("tiny"), "ada")
    await eventually(lambda: len(world.servers) == 3, "the servers are asked for")
    await bench.cancel(run.id, "grace")
    assert (await finished(bench, run.id)).state == "cancelled"
    assert world.servers == {}


async def test_the_suites_deadline(make_bench: Any, world: World) -> None:
    """A run that is not done by its suite's deadline has failed; what was not done has timed out."""
    bench = await make_bench(timeout=0.4)
    world.behaviour["n1", "one"] = "hang"
    run, results = await go(bench)
    assert (run.state, run.detail) == ("failed", "the run's deadline of 0.4 s passed")
    assert results["n1", "one"].outcome == "timed_out"
    assert world.servers == {}


async def test_runs_at_once_have_different_nodes(bench: Bench, world: World) -> None:
    """A second run is taken beside the first when it has other nodes, and refused with the names when it has not."""
    world.behaviour["n1", "one"] = "hang"
    first = await bench.start(RunRequest("tiny", ("n1", "n2")), "ada")
    with pytest.raises(ConflictError, match=rf"run {first.id} of suite tiny has n1, n2: wait for it, cancel it, or"):
        await bench.start(RunRequest("tiny"), "bob")
    second, results = await go(bench, nodes=("big",))
    assert second.state == "completed"
    assert {node for node, _ in results} == {"big"}
    await bench.cancel(first.id, "ada")
    await finished(bench, first.id)
    world.behaviour.clear()
    assert (await go(bench))[0].state == "completed"


async def test_nodes_asked_for(bench: Bench, world: World) -> None:
    """Only the nodes asked for take part; an ineligible one is skipped with its reason."""
    world.put(make_view("n2", cordon=Mark("new disk", 0.0, "root")))
    await eventually(lambda: not bench._world.farm.nodes["n2"]["eligible"], "the cordon is known")
    run, results = await go(bench, nodes=("n1", "n2"))
    assert {node.name: node.skipped for node in run.nodes} == {"n1": "", "n2": "cordoned: new disk"}
    assert (results["n2", "one"].outcome, results["n2", "one"].reason) == ("skipped", "cordoned: new disk")
    assert world.happened("start") == [("start", "n1")]


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (RunRequest("tiny", ("n1", "n9")), InvalidField, "n9"),
        (RunRequest("huge"), NotFoundError, "known: tiny"),
        (RunRequest("tiny", ("n1",)), ConflictError, "unreachable: gone"),
    ],
)
async def test_refusals(bench: Bench, world: World, request_: RunRequest, error: type[Exception], text: str) -> None:
    """An unknown suite or node, and a farm where nothing can run, are refused before anything starts."""
    world.put(make_view("n1", state="unreachable", detail="gone"))
    await bench._world.farm.ready()
    await eventually(lambda: bench._world.farm.nodes["n1"]["state"] == "unreachable", "the node's state is known")
    with pytest.raises(error, match=text):
        await bench.start(request_, "ada")
    assert world.history == []
    assert await bench.store.runs() == []


async def test_store_round_trip(bench: Bench) -> None:
    """What the store gives back is what it was given."""
    run = BenchmarkRun("r1", "tiny", "completed", "", "ada", 1.0, definition={"cases": [{"name": "one"}]})
    await bench.store.add(run)
    result = CaseResult("n1", "one", "succeeded", figures={"x_per_second": 2.5}, primary="x_per_second")
    await bench.store.add_result("r1", result)
    sample = Sample(2.0, "node", "n1", {"load1": 0.5})
    await bench.store.add_samples("r1", [sample])
    await bench.store.save(replace(run, detail="changed"))
    assert await bench.store.run("r1") == replace(run, detail="changed")
    assert not await bench.store.add_result("r1", result)
    assert await bench.store.results("r1") == [result]
    assert await bench.store.samples("r1") == [sample]
    with pytest.raises(NotFoundError):
        await bench.store.run("r2")


async def test_a_follower_that_goes_away_is_forgotten(bench: Bench, world: World) -> None:
    """Closing a stream of events leaves nothing behind in the service."""
    world.behaviour["n1", "one"] = "hang"
    run = await bench.start(RunRequest("tiny"), "ada")
    events = await bench.follow(run.id)
    await asyncio.wait_for(anext(events), 5)
    await events.aclose()
    assert run.id not in bench._followers._queues


# ---- a database that fails ---------------------------------------------------------------------------------------


class FailsAtFirst:
    """A method of the store that raises what a full disk does, `times` times, and then works."""

    def __init__(self, method: Any, times: float) -> None:
        self._method, self.left = method, times

    async def __call__(self, *args: Any) -> Any:
        """Fail, or do it."""
        if self.left > 0:
            self.left -= 1
            raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))
        return await self._method(*args)


async def test_samples_that_cannot_be_kept_cost_no_run(bench: Bench, world: World) -> None:
    """A database that takes no samples loses these, and neither the run nor its end; no server is left."""
    bench.store.add_samples = FailsAtFirst(bench.store.add_samples, math.inf)  # type: ignore[method-assign]
    run, results = await go(bench)
    assert run.state == "completed"
    assert {result.outcome for result in results.values()} == {"succeeded"}
    assert world.servers == {}


async def test_a_fault_of_the_sampler_costs_no_run(bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with the samples, the run goes on to its end, and the servers are stopped."""

    def broken(*_: Any) -> list[Sample]:
        raise ValueError("no such figure")

    monkeypatch.setattr("jupyterhub_agentfarm.benchmark.ledger.take_samples", broken)
    run, results = await go(bench)
    assert run.state == "completed"
    assert {result.outcome for result in results.values()} == {"succeeded"}
    assert world.servers == {}


async def test_the_end_of_a_run_is_written_when_the_database_is_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose report and end the database does not take at first ends all the same, and its followers with it."""
    monkeypatch.setattr("jupyterhub_agentfarm.benchmark.ledger.FIRST_PAUSE_SECONDS", 0.01)
    run = await bench.start(RunRequest("tiny"), "ada")
    events = await bench.follow(run.id)
    await eventually(lambda: bench._going[run.id].runner.run.state == "running", "the run is going")
    saving = FailsAtFirst(bench.store.save, 3)
    bench.store.save = saving  # type: ignore[method-assign]
    bench.store.samples = FailsAtFirst(bench.store.samples, math.inf)  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        last = [event async for event in events][-1]
    assert (await finished(bench, run.id)).state == "completed"
    assert (saving.left, last[1]["state"]) == (0, "completed")
