"""A service that ended, and the next one, which goes on with its runs. How it ended makes no difference to the store.

That a service that is killed leaves the same is shown by processes, in test_service.py and in the integration tests.
"""

from __future__ import annotations

import asyncio
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from benchmark_world import World, make_view
from waiting import eventually

from jupyterhub_agentfarm.benchmark.bench import Bench
from jupyterhub_agentfarm.benchmark.clock import moment
from jupyterhub_agentfarm.benchmark.models import (
    BenchmarkRun,
    CaseResult,
    Cursor,
    Ending,
    Moment,
    RunEvent,
    RunNode,
    RunRequest,
    Sample,
)
from jupyterhub_agentfarm.benchmark.store import BenchmarkStore
from jupyterhub_agentfarm.inventory.database import Database


async def finished(bench: Bench, run_id: str) -> BenchmarkRun:
    """Return a run once it has ended."""

    async def ended() -> BenchmarkRun | None:
        run = await bench.store.run(run_id)
        return None if run.going else run

    run: BenchmarkRun = await eventually(ended, "the run ends", timeout=40)
    return run


async def results_of(bench: Bench, run: BenchmarkRun) -> list[tuple[str, int, str, str]]:
    """Return node, repetition, case and outcome of each result."""
    return sorted((one.node, one.repetition, one.case, one.outcome) for one in await bench.store.results(run.id))


async def test_repetitions_go_on_where_they_were(make_bench: Any, world: World) -> None:
    """No case runs twice and none is lost; servers are taken over; the gap is told with its length."""
    how = 'mode = "repeat"\nrepeat = 3'
    first = await make_bench(how=how)
    world.behaviour["n1", "two"] = "hang"
    run = await first.start(RunRequest("tiny", ("n1", "n2")), "ada")
    await eventually(lambda: ("submit", "n1", "two") in world.history, "the run is in the middle")
    await first.close()
    await asyncio.sleep(0)
    world.behaviour.clear()
    second = await make_bench(how=how)
    ended = await finished(second, run.id)
    assert (ended.state, ended.passed) == ("completed", True)
    assert await results_of(second, ended) == [
        (node, repetition, case, "succeeded")
        for node in ("n1", "n2")
        for repetition in (1, 2, 3)
        for case in ("one", "two")
    ]
    assert len(world.submitted) == 12
    assert sorted(world.happened("start")) == [("start", "n1"), ("start", "n2")]
    kinds = [event.kind for event in await second.store.events(run.id)]
    assert kinds == ["run_started", "phase_started", "service_gap", "phase_ended"]
    samples = await second.store.samples(run.id)
    assert samples[-1].values["cases_succeeded"] == 12


async def test_a_server_that_ended_meanwhile(make_bench: Any, world: World) -> None:
    """What it executed is lost, it is started again, and that is told."""
    how = 'mode = "repeat"\nrepeat = 3'
    first = await make_bench(how=how)
    world.behaviour["n1", "two"] = "hang"
    run = await first.start(RunRequest("tiny", ("n1",)), "ada")
    await eventually(lambda: ("submit", "n1", "two") in world.history, "the run is in the middle")
    await first.close()
    world.remove_server("n1")
    world.behaviour.clear()
    second = await make_bench(how=how)
    ended = await finished(second, run.id)
    results = await results_of(second, ended)
    assert [outcome for *_, outcome in results] == ["succeeded", "lost", *4 * ["succeeded"]]
    told = [(event.kind, event.detail) for event in await second.store.events(run.id) if event.node]
    assert told == [("server_restarted", "its server ended while the service was away")]


async def test_a_duration_goes_on_for_what_is_left_of_it(make_bench: Any, world: World) -> None:
    """The time of the gap counts; what executed meanwhile is found again by its key, also when no time is left."""
    first = await make_bench(how='mode = "duration"\nduration = 3600')
    world.behaviour["n1", "one"] = "hang"
    run = await first.start(RunRequest("tiny", ("n1",)), "ada")
    await eventually(lambda: ("submit", "n1", "one") in world.history, "the case executes")
    cursor = first._going[run.id].runner.ledger.cursor
    assert cursor.phase_began is not None
    await first.close()
    world.behaviour.clear()
    long_ago = dataclasses.replace(cursor.phase_began, boot_seconds=cursor.phase_began.boot_seconds - 3600)
    await rewritten(first, run, dataclasses.replace(cursor, phase_began=long_ago))
    second = await make_bench()
    ended = await finished(second, run.id)
    assert ended.state == "completed"
    assert await results_of(second, ended) == [("n1", 1, "one", "succeeded")]
    assert len(world.submitted) == 1


async def rewritten(bench: Bench, run: BenchmarkRun, cursor: Cursor) -> None:
    """Change where a run is, in the database of a service that ended."""
    store = BenchmarkStore(Database(bench.store._database._url.render_as_string(hide_password=False)))
    await store.open()
    await store.save_cursor(run.id, cursor)
    await store.close()


async def test_a_run_whose_deadline_passed_meanwhile(make_bench: Any, world: World) -> None:
    """It is interrupted, with what it had done, and its servers are stopped."""
    first = await make_bench()
    world.behaviour["n1", "one"] = "hang"
    run = await first.start(RunRequest("tiny", ("n1", "n2")), "ada")
    await eventually(lambda: ("end", "n2", "one") in world.history, "one node has a result")
    cursor = first._going[run.id].runner.ledger.cursor
    await first.close()
    assert world.servers != {}
    created = dataclasses.replace(cursor.created, boot_seconds=cursor.created.boot_seconds - 61)
    await rewritten(first, run, dataclasses.replace(cursor, created=created))
    second = await make_bench()
    ended = await finished(second, run.id)
    assert (ended.state, ended.passed) == ("interrupted", False)
    assert ended.detail == "the benchmark service was away until the run's deadline had passed"
    assert len(await second.store.results(run.id)) == 4
    assert world.servers == {}
    assert 'agentfarm_benchmark_runs_total{suite="tiny",outcome="interrupted"} 1' in second.exposition.text("hub")


async def test_a_cancellation_is_finished(make_bench: Any, world: World) -> None:
    """A service that ends between the order to cancel and its doing leaves that to the next one."""
    first = await make_bench()
    world.behaviour["n1", "one"] = "hang"
    run = await first.start(RunRequest("tiny", ("n1",)), "ada")
    await eventually(lambda: ("submit", "n1", "one") in world.history, "the case executes")
    ending = Ending("cancelled", "cancelled by grace", "cancelled")
    await first._going[run.id].runner.ledger.point(ending=ending)
    await first.close()
    assert world.servers != {}
    second = await make_bench()
    ended = await finished(second, run.id)
    assert (ended.state, ended.detail) == ("cancelled", "cancelled by grace")
    assert {outcome for *_, outcome in await results_of(second, ended)} == {"cancelled"}
    assert world.servers == {}
    assert len(world.submitted) == 1


async def test_a_node_that_was_lost_before_comes_back_after(make_bench: Any, world: World) -> None:
    """Its return is told with the time that it was away, over the restart of the service."""
    how = 'mode = "duration"\nduration = 8'
    first = await make_bench(how=how, patience=1000)
    world.behaviour["n2", "one"] = "gone"
    run = await first.start(RunRequest("tiny", ("n1", "n2")), "ada")
    await eventually(lambda: "n2" in world.gone, "the node goes")
    world.put(make_view("n2", state="down", detail="no answer"))

    async def lost() -> bool:
        return any(event.kind == "node_lost" for event in await first.store.events(run.id))

    await eventually(lost, "the loss is told")
    await first.close()
    world.gone.clear()
    world.behaviour.clear()
    world.put(make_view("n2"))
    second = await make_bench(how=how)
    await finished(second, run.id)
    events = [event for event in await second.store.events(run.id) if event.node == "n2"]
    assert [event.kind for event in events] == ["node_lost", "node_back"]
    assert events[1].seconds == pytest.approx(events[1].at - events[0].at, abs=0.5)
    assert ("n2", "succeeded") in {(node, outcome) for node, _, _, outcome in await results_of(second, run)}


async def test_the_suite_may_change_meanwhile(make_bench: Any, world: World, tmp_path: Path) -> None:
    """A run goes on with the suite and the notebooks as they were when it was started."""
    first = await make_bench(how='mode = "repeat"\nrepeat = 2')
    world.behaviour["n1", "one"] = "hang"
    run = await first.start(RunRequest("tiny", ("n1",)), "ada")
    await eventually(lambda: ("submit", "n1", "one") in world.history, "the case executes")
    await first.close()
    world.behaviour.clear()
    second = await make_bench(how='mode = "repeat"\nrepeat = 7')
    (tmp_path / "suites" / "tiny.ipynb").unlink()
    await finished(second, run.id)
    assert len(await second.store.results(run.id)) == 4


async def test_what_no_run_has_is_stopped(make_bench: Any, world: World) -> None:
    """A server that was left while the Hub was away is stopped at the next start, and a node is given back."""
    first = await make_bench()
    world.servers["bench-n1"] = {"name": "bench-n1", "ready": True, "pending": None, "stopped": False, "url": "/x/"}
    world.servers["other"] = {"name": "other", "ready": True, "pending": None, "stopped": False, "url": "/y/"}
    await world.keep("n2", "benchmark", "an old run")
    await eventually(lambda: first._world.keeper.kept() == ["n2"], "the mark is known")
    await first.close()
    second = await make_bench()
    await second._world.farm.ready()
    await eventually(lambda: set(world.servers) == {"other"}, "the server is stopped")
    await eventually(lambda: world.happened("give_back") == [("give_back", "n2")], "the node is given back")


# ---- the store ---------------------------------------------------------------------------------------------------


async def opened(tmp_path: Path) -> BenchmarkStore:
    """Return an open store."""
    store = BenchmarkStore(Database(f"sqlite:///{tmp_path}/b.sqlite"))
    await store.open()
    return store


RUN = BenchmarkRun("r1", "tiny", "running", "", "ada", 1.0, nodes=(RunNode("n1", "microserver"),))


async def test_a_database_of_an_earlier_version(tmp_path: Path) -> None:
    """Its results are there, in the order of nodes and cases, and the old table is gone."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/b.sqlite")
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE benchmark_runs (id VARCHAR(40) PRIMARY KEY, suite VARCHAR(63) NOT NULL, state VARCHAR(20)"
                " NOT NULL, created_at FLOAT NOT NULL, record JSON NOT NULL)"
            )
        )
        connection.execute(
            sa.text(
                "CREATE TABLE benchmark_results (run VARCHAR(40) NOT NULL, node VARCHAR(63) NOT NULL,"
                ' "case" VARCHAR(63) NOT NULL, outcome VARCHAR(20) NOT NULL, duration_seconds FLOAT,'
                " record JSON NOT NULL,"
                ' PRIMARY KEY (run, node, "case"))'
            )
        )
        record = '{"id": "r0", "suite": "s", "state": "%s", "detail": "", "requested_by": "ada", "created_at": 1.0}'
        for run, state in (("r0", "completed"), ("r9", "running")):
            connection.execute(
                sa.text("INSERT INTO benchmark_runs VALUES (:run, 's', :state, 1.0, :record)"),
                {"run": run, "state": state, "record": (record % state).replace("r0", run)},
            )
        for case in ("two", "one"):
            result = f'{{"node": "n1", "case": "{case}", "outcome": "succeeded"}}'
            connection.execute(
                sa.text("INSERT INTO benchmark_results VALUES ('r0', 'n1', :case, 'succeeded', 1.5, :record)"),
                {"case": case, "record": result},
            )
    engine.dispose()
    store = await opened(tmp_path)
    assert [result.case for result in await store.results("r0")] == ["one", "two"]
    assert [result.duration_seconds async for _, result in store.each_result("r0")] == [1.5, 1.5]
    await store.close()
    again = BenchmarkStore(Database(f"sqlite:///{tmp_path}/b.sqlite"))
    assert [(run.id, cursor) for run, cursor in await again.open()] == [("r9", None)]
    assert len(await again.results("r0")) == 2
    await again.close()


async def test_a_run_of_an_earlier_version_cannot_go_on(make_bench: Any) -> None:
    """It is interrupted at once, and the next run has its nodes."""
    first = await make_bench()
    await first.store.add(RUN)
    await first.close()
    second = await make_bench()
    ended = await second.store.run("r1")
    assert (ended.state, ended.detail) == (
        "interrupted",
        "it could not go on: an earlier version of the service began it",
    )


async def test_samples_are_thinned_evenly(tmp_path: Path) -> None:
    """Of each name about as many as asked for, the first and the last among them; read in parts, all of them."""
    store = await opened(tmp_path)
    await store.add(RUN)
    await store.add_samples("r1", [Sample(float(n), "node", "n1", {"load1": n}) for n in range(5003)])
    await store.add_samples("r1", [Sample(9.0, "farm", "farm", {"up": 1})])
    assert [sample.at for sample in await store.samples("r1")][:-1] == [float(n) for n in range(5003)]
    thinned = [sample.at for sample in await store.samples("r1", 100) if sample.name == "n1"]
    assert 50 <= len(thinned) <= 101
    assert (thinned[0], thinned[-1]) == (0.0, 5002.0)
    assert len({b - a for a, b in pairwise(thinned[:-1])}) == 1
    await store.close()


async def test_where_a_run_is(tmp_path: Path) -> None:
    """What is kept of that is what was given; of a run that has ended, nothing."""
    store = await opened(tmp_path)
    cursor = Cursor(moment(), moment(), 1, Moment(1.0, "b", 2.0), ("n1",), Ending("failed", "x", "lost"))
    await store.add(RUN, cursor)
    await store.add_event("r1", RunEvent(1.0, "node_lost", "n1", "gone"))
    for lane, repetition in ((0, 1), (0, 2), (1, 1)):
        await store.add_result("r1", CaseResult("n1", "one", "succeeded", phase="p", lane=lane, repetition=repetition))
    assert await store.positions("r1", "p") == {("n1", 0): 2, ("n1", 1): 1}
    assert await store.positions("r1", "q") == {}
    assert [(row["node"], row["outcome"], row["results"]) for row in await store.outcomes("r1")] == [
        ("n1", "succeeded", 3)
    ]
    await store.close()
    store = BenchmarkStore(Database(f"sqlite:///{tmp_path}/b.sqlite"))
    assert await store.open() == [(RUN, cursor)]
    assert await store.events("r1") == [RunEvent(1.0, "node_lost", "n1", "gone")]
    await store.save(dataclasses.replace(RUN, state="completed"))
    await store.save_cursor("r1", cursor)
    assert await store.ended() == [("tiny", "completed")]
    await store.close()
    store = await opened(tmp_path)
    with_cursor = sa.text("SELECT cursor FROM benchmark_runs")
    assert await store._read(with_cursor) == [(None,)]
    await store.close()
