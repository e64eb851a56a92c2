"""The book of tasks: many callers at a time, followers, what is kept and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection
from task_books import NOTEBOOK, Clock, World, opened

from jupyterhub_agentfarm.agents.models import Task, TaskError, TaskRequest
from jupyterhub_agentfarm.agents.tasks import steps
from jupyterhub_agentfarm.agents.tasks.files import Received
from jupyterhub_agentfarm.agents.tasks.store import TaskFilter, Viewer
from jupyterhub_agentfarm.agents.tasks.tables import Why
from jupyterhub_agentfarm.errors import ConflictError, Fenced, InvalidField, NoSpace, NotFoundError, QuotaExceeded


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """Give the content of a file."""
    for chunk in chunks:
        yield chunk


@pytest.mark.timeout(120)
async def test_claimers_of_several_processes_never_claim_the_same_task(database_url: str, tmp_path: Path) -> None:
    """Four books on one database, each with five claimers, share sixty tasks: each is claimed once."""
    async with (
        opened(database_url, tmp_path) as first,
        opened(database_url, tmp_path) as second,
        opened(database_url, tmp_path) as third,
        opened(database_url, tmp_path) as fourth,
    ):
        ids = [(await first.submit()).id for _ in range(60)]
        claimed: list[tuple[str, int]] = []

        async def claim_all(world: World, start: int) -> None:
            for task_id in ids[start:] + ids[:start]:
                try:
                    _, attempt = await world.book.claim(task_id)
                except ConflictError:
                    continue
                claimed.append((task_id, attempt.fence))

        worlds = (first, second, third, fourth)
        await asyncio.gather(*(claim_all(world, 3 * number) for world in worlds for number in range(5)))
        assert sorted(task_id for task_id, _ in claimed) == sorted(ids)
        assert len({fence for _, fence in claimed}) == 60
        assert (await first.book.counts())["executing"] == 60


async def test_a_step_that_fails_undoes_only_itself(world: World) -> None:
    """Changes that are made in one transaction do not depend on each other."""
    ids = [(await world.submit()).id for _ in range(5)]
    results = await asyncio.gather(
        *(world.book.claim(task_id) for task_id in [ids[0], ids[0], *ids]), return_exceptions=True
    )
    assert [isinstance(result, ConflictError) for result in results] == [False, True, True, *[False] * 4]
    assert (await world.book.counts())["executing"] == 5


async def test_a_change_whose_caller_went_away_is_made_and_told(world: World) -> None:
    """A request that is broken off leaves no task that nobody knows of."""
    task = await world.submit()
    world.book.changed.clear()
    cancelling = asyncio.create_task(world.book.cancel(task.id, "ada"))
    await asyncio.sleep(0)
    cancelling.cancel()
    await world.book.changed.wait()
    assert (await world.book.task(task.id)).state == "cancelled"


async def test_who_waits_for_work_is_woken_by_work(world: World) -> None:
    """What becomes known of a task that executes wakes nobody; its end does, and so does a new task."""
    _, attempt = await world.executing()
    world.book.changed.clear()
    attempt = await world.book.note(attempt, phase="running", node="n1")
    assert not world.book.changed.is_set()
    await world.book.finish(attempt, "completed")
    assert world.book.changed.is_set()
    world.book.changed.clear()
    await world.submit()
    assert world.book.changed.is_set()


async def test_a_fault_of_who_is_told_is_none_of_the_change(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The change is made, its caller goes on, and the fault is logged."""

    def fails(_task: object) -> None:
        raise ZeroDivisionError

    world.book.cancelled.append(fails)
    task, _ = await world.executing()
    assert (await world.book.cancel(task.id, "ada")).ending == "cancelled"
    assert "a change of a task was not told to all" in caplog.text


async def test_followers_hear_of_every_change_in_order(world: World) -> None:
    """Those of a task until it has ended, those of the board of all tasks."""
    task, board = await world.submit(), world.book.followers.follow("board")
    following = world.book.followers.follow(task.id)
    _, attempt = await world.book.claim(task.id)
    await world.book.note(attempt, phase="running", node="n1")
    world.book.progress(attempt, 1, 2, 3)
    assert world.book.progress_of(task.id) is not None
    await world.book.keep_artifact(attempt, "a.txt", pieces(b"a"))
    await world.submit()
    await world.book.finish(attempt, "completed")
    assert world.book.progress_of(task.id) is None
    heard = [event async for event in following.events([])]
    names = ["change", "task", "attempt", "attempt", "progress", "artifact", "attempt", "change", "task"]
    assert [name for name, _ in heard] == names
    assert [data.state for name, data in heard if name == "change"] == ["executing", "completed"]
    events = board.events([])
    of_all = [(await anext(events))[1] for _ in range(3)]
    assert [(each.id == task.id, change.state) for each, change in of_all] == [
        (True, "executing"), (False, "available"), (True, "completed"),
    ]  # fmt: skip
    await events.aclose()


async def test_changes_can_be_resumed(world: World) -> None:
    """After a number come the later ones, of a task and of all."""
    task, attempt = await world.executing()
    first, second = await world.book.changes(task.id)
    await world.book.finish(attempt, "completed")
    assert [each.state for each in await world.book.changes(task.id, first.number)] == ["executing", "completed"]
    found = await world.book.changes_of_all(second.number)
    assert [(each.id, change.state) for each, change in found] == [(task.id, "completed")]


async def test_the_best_tasks_of_each_agent_may_be_claimed(world: World) -> None:
    """By priority and then by age; an agent with many does not hide those of others."""
    for number in range(5):
        await world.submit("busy", name=str(number), priority=-number)
    late = await world.submit("busy", name="late", priority=10)
    other = await world.submit("other", priority=-50)
    found = await world.book.available(limit=3)
    assert [(task.agent, task.request.name) for task in found] == [
        ("busy", "late"), ("busy", "0"), ("busy", "1"), ("other", ""),
    ]  # fmt: skip
    assert found[0].id == late.id
    assert found[3].id == other.id


async def test_tasks_are_listed_by_what_is_wanted(world: World) -> None:
    """By state, agent, project, name and who looks; page by page, the newest first."""
    mine = [await world.submit(name=f"Sales {number}") for number in range(3)]
    other = await world.submit("other", by="bob", project="p", name="100%")
    await world.book.cancel(mine[0].id, "ada")

    async def ids(**wanted: Any) -> list[str]:
        return [task.id for task in await world.book.tasks(TaskFilter(**wanted))]

    newest_first = [other.id, mine[2].id, mine[1].id, mine[0].id]
    assert await ids() == newest_first
    assert await ids(states=("cancelled",)) == [mine[0].id]
    assert await ids(agent="other") == await ids(project="p") == await ids(name="0%") == [other.id]
    assert await ids(name="sales", limit=2) == newest_first[1:3]
    assert await ids(name="sales", limit=2, cursor=mine[1].id) == [mine[0].id]
    with pytest.raises(InvalidField, match="cursor"):
        await ids(cursor="0" * 16)
    assert await ids(viewer=Viewer("eve")) == []
    assert await ids(viewer=Viewer("bob")) == await ids(viewer=Viewer("eve", projects=("p",))) == [other.id]
    assert await ids(viewer=Viewer("eve", agents=("bot",))) == newest_first[1:]
    await world.book.hand_over(mine[1].id, "eve", "ada")
    assert await ids(viewer=Viewer("eve")) == [mine[1].id]
    assert await world.book.counts_by_agent() == {"bot": {"available": 2, "cancelled": 1}, "other": {"available": 1}}


async def test_tasks_are_forgotten_with_their_files(world: World) -> None:
    """After their time, unless another task still needs them."""
    task, attempt = await world.executing()
    await world.book.keep_artifact(attempt, "a/b.txt", pieces(b"a"))
    await world.book.finish(attempt, "completed")
    needed = await world.ended("completed")
    needing = await world.submit(after=(needed.id,))
    world.clock.now += 100
    assert await world.book.forget(world.clock.now - 1) == 1
    with pytest.raises(NotFoundError):
        await world.book.task(task.id)
    assert not (world.folder / "agent-tasks" / task.id).exists()
    assert await world.book.attempts(task.id) == await world.book.changes(task.id) == []
    await world.book.cancel(needing.id, "ada")
    world.clock.now += 100
    assert await world.book.forget(world.clock.now - 1) == 2


async def test_forgetting_that_was_cut_off_is_finished_at_the_next_start(database_url: str, tmp_path: Path) -> None:
    """A task that is out of the database has no files after it; one that is still in it keeps them."""
    async with opened(database_url, tmp_path) as world:
        gone, kept = await world.ended("completed"), await world.ended("completed")
        await world.book.files.mark([gone.id, kept.id])
        await world.book._store.forget([gone.id])
    async with opened(database_url, tmp_path) as world:
        assert not (tmp_path / "agent-tasks" / gone.id).exists()
        assert await world.book.files.notebook(kept.id) == NOTEBOOK


async def test_fences_grow_after_tasks_were_forgotten(world: World) -> None:
    """A token is never used again, though the attempt that had it is gone."""
    _, attempt = await world.executing()
    await world.book.finish(attempt, "completed")
    await world.book.forget(world.clock.now + 1)
    _, later = await world.executing()
    assert later.fence > attempt.fence


async def test_a_submission_that_a_killed_service_began_leaves_nothing(database_url: str, tmp_path: Path) -> None:
    """A notebook without a task is removed at the next start; one whose task is there stays."""
    async with opened(database_url, tmp_path) as world:
        await world.book.files.save_notebook("a" * 16, NOTEBOOK)
        done = await world.submit()
        (tmp_path / "agent-tasks" / ".incoming" / done.id).touch()
        (tmp_path / "agent-tasks" / ".incoming" / "file-1").touch()
    async with opened(database_url, tmp_path) as world:
        assert await world.book.files.notebook(done.id) == NOTEBOOK
        assert not (tmp_path / "agent-tasks" / ("a" * 16)).exists()
        assert list((tmp_path / "agent-tasks" / ".incoming").iterdir()) == []


async def test_a_fenced_artifact_leaves_the_one_that_is_kept(world: World) -> None:
    """An attempt that ends while its file comes in has not left it."""
    task, attempt = await world.executing()
    await world.book.keep_artifact(attempt, "a.txt", pieces(b"first"))

    async def ends_within() -> AsyncIterator[bytes]:
        yield b"second"
        await world.book.finish(attempt, "node_lost")

    with pytest.raises(Fenced):
        await world.book.keep_artifact(attempt, "a.txt", ends_within())
    (kept,) = await world.book.artifacts(task.id)
    assert b"".join([chunk async for chunk in world.book.files.artifact(kept)]) == b"first"
    assert list((world.folder / "agent-tasks" / ".incoming").iterdir()) == []


async def test_an_agent_may_have_so_many_tasks(world: World) -> None:
    """Those that have ended do not count, nor do others' tasks; a known key is answered all the same."""
    world.book.max_open = 2
    first = await world.submit(idempotency_key="k")
    second = await world.submit(not_before_at=9e9)
    with pytest.raises(QuotaExceeded, match="bot has 2 tasks that have not ended") as refused:
        await world.submit()
    assert refused.value.facts() == {"quota": "tasks", "used": 2, "limit": 2}
    assert (await world.submit(idempotency_key="k")).id == first.id
    await world.submit("other")
    await world.book.cancel(second.id, "ada")
    await world.submit()


async def test_an_attempt_may_leave_so_much(world: World) -> None:
    """Beyond the number of files and their bytes a file is refused, and nothing of it stays."""
    world.book.max_artifacts, world.book.max_artifacts_bytes = 2, 10
    task, attempt = await world.executing()
    await world.book.keep_artifact(attempt, "a", pieces(b"x" * 5))
    with pytest.raises(NoSpace, match="2 files, or 10 bytes"):
        await world.book.keep_artifact(attempt, "b", pieces(b"x" * 6))
    await world.book.keep_artifact(attempt, "a", pieces(b"x" * 6))
    await world.book.keep_artifact(attempt, "b", pieces(b""))
    with pytest.raises(NoSpace):
        await world.book.keep_artifact(attempt, "c", pieces(b""))
    assert [(each.path, each.size_bytes) for each in await world.book.artifacts(task.id)] == [("a", 6), ("b", 0)]


async def left_by(world: World, files: dict[str, int], notebook: int = 0, **request: Any) -> Task:
    """Return a task that was completed and left files of these sizes, and an executed notebook."""
    task, attempt = await world.executing(**request)
    for path, size in files.items():
        await world.book.keep_artifact(attempt, path, pieces(b"x" * size))
    if notebook:
        await world.book.keep_notebook(attempt, b"x" * notebook)
    world.clock.now += 1
    await world.book.finish(attempt, "completed")
    return task


async def test_the_oldest_files_make_room(world: World) -> None:
    """Beyond the bound of an agent the artifacts of the tasks that ended first go, each with a change that says so."""
    world.book.max_agent_bytes = 1000
    first, second = [await left_by(world, {"a": 300, "b": 100}) for _ in range(2)]
    other = await left_by(world, {"a": 900}, agent="other")
    needed = await left_by(world, {"a": 1}, agent="third")
    await world.submit("third", after=(needed.id,), not_before_at=world.clock.now + 1e6)
    third = await left_by(world, {"c": 300}, notebook=10)
    assert await world.book.artifacts(first.id) == []
    assert [change.reason for change in await world.book.changes(first.id)][-1] == "tidied"
    assert not (world.folder / "agent-tasks" / first.id / "attempt-1").exists()
    assert (await world.book.task(first.id)).state == "completed"
    assert len(await world.book.artifacts(second.id)) == 2, "no more goes than is needed"
    assert [len(await world.book.artifacts(each.id)) for each in (other, third)] == [1, 1]
    kept = await world.book.kept_bytes_by_agent()
    assert kept["bot"] == 400 + 300 + 10 + 3 * len(NOTEBOOK) <= 1000


async def test_what_finds_no_room_is_refused(world: World) -> None:
    """Where nothing can give way a task is refused with the figures, and a file left out; then one can be deleted."""
    world.book.max_agent_bytes = 390
    done = await left_by(world, {}, notebook=200)
    _, attempt = await world.executing()
    with pytest.raises(
        QuotaExceeded, match=r"kept of the tasks of bot.*delete tasks.*TaskBook.max_agent_bytes"
    ) as full:
        await world.book.keep_artifact(attempt, "a", pieces(b"x" * 200))
    facts = full.value.facts()
    assert (facts["quota"], facts["limit"]) == ("kept_bytes", 390)
    assert await world.book.artifacts(attempt.task) == []
    with pytest.raises(QuotaExceeded):
        await world.submit(parameters={})
    with pytest.raises(QuotaExceeded):
        await world.book.take_over((await world.submit("other")).id, "bot", "ada")
    assert {entry.name for entry in (world.folder / "agent-tasks").iterdir() if entry.name != ".incoming"} == {
        each.id for each in await world.book.tasks()
    }
    with pytest.raises(ConflictError, match="it is executing: cancel it first"):
        await world.book.remove(attempt.task)
    await world.book.remove(done.id)
    with pytest.raises(NotFoundError):
        await world.book.task(done.id)
    await world.book.keep_artifact(attempt, "a", pieces(b"x" * 200))
    world.book.max_agent_bytes = 0
    await world.submit()


async def test_what_is_kept_is_counted(world: World, database_url: str, tmp_path: Path) -> None:
    """Whatever comes, is replaced, handed over, deleted or forgotten, the sum is that of what is there."""
    size = len(NOTEBOOK)
    task, attempt = await world.executing()
    for content in (b"12345", b"123"):
        await world.book.keep_artifact(attempt, "a", pieces(content))
        await world.book.keep_notebook(attempt, content)
    assert await world.book.kept_bytes_by_agent() == {"bot": size + 6}
    await world.book.finish(attempt, "cell_error")
    await world.book.take_over(task.id, "twin", "ada")
    await world.book.submit(TaskRequest(path="a.ipynb"), "bot", "ada", None)
    assert await world.book.kept_bytes_by_agent() == {"bot": 0, "twin": size + 6}
    await world.book.retry(task.id, "ada")
    _, again = await world.book.claim(task.id)
    await world.book.keep_notebook(again, b"1234")
    async with opened(database_url, tmp_path, world.clock) as later:
        assert (await later.book.kept_bytes_by_agent())["twin"] == size + 10
    await world.book.finish(again, "completed")
    await world.book.forget(world.clock.now + 1)
    assert await world.book.kept_bytes_by_agent() == {"bot": 0, "twin": 0}


async def test_what_an_earlier_version_kept_is_counted_at_the_start(world: World, tmp_path: Path) -> None:
    """It had no such table: the files of tasks are added up once."""
    await left_by(world, {"a": 30, "b": 4})
    await world.book._store._database.run(lambda connection: connection.exec_driver_sql("DELETE FROM agent_task_bytes"))
    await world.book._store.open()
    assert await world.book.kept_bytes_by_agent() == {"bot": 34}


async def test_a_database_that_cannot_grow_leaves_no_file(tmp_path: Path) -> None:
    """The submission fails with the database's own words, its notebook is gone, and the tasks that are there stay."""
    async with opened(f"sqlite:///{tmp_path / 'agents.sqlite'}", tmp_path) as world:
        first = await world.submit()

        def bound(connection: Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        await world.book._store._database.run(bound)
        with pytest.raises(NoSpace, match="database or disk is full"):
            await world.submit(parameters={"a": "x" * 100_000})
        assert (await world.book.task(first.id)).state == "available"
        folders = {entry.name for entry in (tmp_path / "agent-tasks").iterdir()}
        assert folders == {".incoming", first.id}


async def test_a_step_that_fails_unforeseen_leaves_no_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the middle of a submission is the caller's, and its notebook is gone."""

    def fails(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(steps, "submit", fails)
    with pytest.raises(ZeroDivisionError):
        await world.submit()
    assert [entry.name for entry in (world.folder / "agent-tasks").iterdir()] == [".incoming"]


async def test_a_task_of_a_path_has_no_notebook_here(world: World) -> None:
    """It is in the agent's workspace, until an attempt has executed it."""
    task, _ = await world.book.submit(TaskRequest(path="a.ipynb"), "bot", "ada", None)
    with pytest.raises(NotFoundError, match="path"):
        await world.book.files.notebook(task.id)
    _, attempt = await world.book.claim(task.id)
    with pytest.raises(NotFoundError):
        await world.book.files.executed(task.id)
    await world.book.keep_notebook(attempt, b"1")
    await world.book.keep_notebook(attempt, b"2")
    assert await world.book.files.executed(task.id) == b"2"


async def test_many_carriers_at_a_time(tmp_path: Path) -> None:
    """Many carriers that claim and complete at a time complete each task once."""
    async with opened(f"sqlite:///{tmp_path / 'agents.sqlite'}", tmp_path, Clock()) as world:

        async def carry(ids: Iterator[str]) -> None:
            for task_id in ids:
                _, attempt = await world.book.claim(task_id)
                await world.book.finish(attempt, "completed")

        ids = iter([(await world.submit()).id for _ in range(64)])
        await asyncio.gather(*(carry(ids) for _ in range(32)))
        assert (await world.book.counts())["completed"] == 64


async def test_an_error_that_cannot_be_read_hides_no_task(world: World) -> None:
    """What was once kept of a server's words may be anything: its task is read all the same, and so are all others."""
    task = await world.ended("kernel_died")
    bad = TaskError(5, "why")  # type: ignore[arg-type]
    await world.book._store.do(lambda tables: tables.change(replace(tables.task(task.id), error=bad), Why("retried")))
    await world.book.promote(world.clock.now + 1000)
    (found,) = await world.book.tasks()
    assert found.error is not None
    assert "cannot be read" in found.error.evalue


async def test_a_file_is_kept_with_what_is_known_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation between the two leaves no entry whose file is not there."""
    _, attempt = await world.executing()
    plain, begun, go = world.book.files.keep, asyncio.Event(), asyncio.Event()

    async def keep(received: Received) -> None:
        begun.set()
        await go.wait()
        await plain(received)

    monkeypatch.setattr(world.book.files, "keep", keep)
    keeping = asyncio.create_task(world.book.keep_artifact(attempt, "a.csv", pieces(b"1,2")))
    await asyncio.wait_for(begun.wait(), 10)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    go.set()
    await world.book.aclose()
    (artifact,) = await world.book.artifacts(attempt.task)
    assert b"".join([chunk async for chunk in world.book.files.artifact(artifact)]) == b"1,2"
