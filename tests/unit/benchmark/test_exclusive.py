"""Runs that have their nodes for themselves."""

from __future__ import annotations

from typing import Any

from benchmark_world import World, make_view
from waiting import eventually

from jupyterhub_agentfarm.benchmark.bench import Bench
from jupyterhub_agentfarm.benchmark.models import BenchmarkRun, RunRequest
from jupyterhub_agentfarm.models import Mark


async def finished(bench: Bench, run_id: str) -> BenchmarkRun:
    """Return a run once it has ended."""

    async def ended() -> BenchmarkRun | None:
        run = await bench.store.run(run_id)
        return None if run.going else run

    run: BenchmarkRun = await eventually(ended, "the run ends", timeout=40)
    return run


def somebody(world: World, node: str, state: str = "running") -> None:
    """Have somebody else hold a server on a node."""
    world.lease(id="l7", owner="bob", server_name="", state=state, node=node, gpus=[])


async def test_an_exclusive_run(bench: Bench, world: World) -> None:
    """It drains its nodes, waits for the servers of others with progress, runs, and gives the nodes back."""
    somebody(world, "n1")
    await eventually(lambda: bench._world.farm.leases, "the lease is known")
    run = await bench.start(RunRequest("tiny", ("n1", "n2"), exclusive=True), "ada")

    async def waits() -> list[Any]:
        view = await bench.view(run.id)
        return [(one["node"], one["detail"]) for one in view["progress"] if one["status"] == "draining"]

    assert await eventually(waits, "the wait is told") == [("n1", "1 server of others to end")]
    reason = f"benchmark run {run.id} of suite tiny, by ada"
    assert world.happened("keep") == [("keep", node, "benchmark", reason) for node in ("n1", "n2")]
    assert world.views["n1"]["drain"]["deadline_at"] == 7
    assert world.happened("start") == []
    somebody(world, "n1", "released")
    ended = await finished(bench, run.id)
    assert (ended.state, ended.exclusive) == ("completed", True)
    drained = [event for event in await bench.store.events(run.id) if event.kind == "drained"]
    assert {event.node for event in drained} == {"n1", "n2"}
    assert all(view["drain"] is None for view in world.views.values())
    assert world.history.index(("give_back", "n1")) > world.history.index(("stop", "n1"))


async def test_a_suite_that_is_exclusive(make_bench: Any, world: World) -> None:
    """The suite's word is enough."""
    bench = await make_bench(how="exclusive = true")
    run = await bench.start(RunRequest("tiny", ("n2",)), "ada")
    assert (await finished(bench, run.id)).exclusive
    assert len(world.happened("keep")) == 1


async def test_an_admins_mark_is_left_alone(bench: Bench, world: World) -> None:
    """A node that an admin cordoned takes no part and is not touched; one cordoned meanwhile ends the run."""
    world.put(make_view("n1", cordon=Mark("new disk", 0.0, "root")))
    await eventually(lambda: not bench._world.farm.nodes["n1"]["eligible"], "the cordon is known")
    run = await bench.start(RunRequest("tiny", ("n1", "n2"), exclusive=True), "ada")
    await finished(bench, run.id)
    assert [entry[1] for entry in world.happened("keep")] == ["n2"]
    assert world.views["n1"]["cordon"]["reason"] == "new disk"
    world.views["n2"] = make_view("n2", cordon=Mark("fan", 0.0, "root"))  # the service does not know yet
    run = await bench.start(RunRequest("tiny", ("n2",), exclusive=True), "ada")
    ended = await finished(bench, run.id)
    assert (ended.state, ended.detail) == ("failed", "node n2 was cordoned by root")
    assert world.views["n2"]["cordon"]["reason"] == "fan"


async def test_over_a_restart(make_bench: Any, world: World) -> None:
    """The nodes stay the run's while the service is away, and are given back when it has ended."""
    first = await make_bench()
    world.behaviour["n2", "one"] = "hang"
    run = await first.start(RunRequest("tiny", ("n2",), exclusive=True), "ada")
    await eventually(lambda: world.happened("submit"), "the case executes")
    await first.close()
    assert world.views["n2"]["drain"]["kept_for"] == "benchmark"
    world.behaviour.clear()
    second = await make_bench()
    assert (await finished(second, run.id)).state == "completed"
    assert len(world.happened("keep")) == 1
    assert world.views["n2"]["drain"] is None


async def test_cancelled_while_it_waits(bench: Bench, world: World) -> None:
    """Nobody's server is stopped by us, and the node is given back."""
    somebody(world, "n1")
    await eventually(lambda: bench._world.farm.leases, "the lease is known")
    run = await bench.start(RunRequest("tiny", ("n1",), exclusive=True), "ada")
    await eventually(lambda: world.happened("keep"), "the node is drained")
    await bench.cancel(run.id, "grace")
    assert (await finished(bench, run.id)).state == "cancelled"
    assert world.views["n1"]["drain"] is None
    assert world.happened("start") == []
