"""Each change of a task's state, with its reason, on both databases."""

from __future__ import annotations

import pytest
from task_books import World

from jupyterhub_agentfarm.agents.dispatch.servers import TASK_SERVER
from jupyterhub_agentfarm.agents.models import TaskError, TaskReason, TaskState
from jupyterhub_agentfarm.errors import ConflictError, Fenced, InvalidField, NotFoundError


async def reasons(world: World, task_id: str) -> list[tuple[TaskState, TaskReason]]:
    """Return the states of a task and their reasons, in order."""
    return [(change.state, change.reason) for change in await world.book.changes(task_id)]


async def test_a_task_is_available_at_once(world: World) -> None:
    """Without a time and without dependencies there is nothing to wait for."""
    task = await world.submit()
    assert (task.state, task.reason, task.attempt, task.allowed) == ("available", "submitted", 0, 3)
    assert [each.id for each in await world.book.available()] == [task.id]
    assert await world.book.files.notebook(task.id)
    assert (await world.book.changes(task.id))[0].by == "ada"


async def test_a_task_waits_for_its_time(world: World) -> None:
    """It is scheduled until then, and promote says when that is."""
    task = await world.submit(not_before_at=1500.0)
    assert (task.state, task.reason) == ("scheduled", "not_before")
    assert await world.book.promote(1499.0) == 1500.0
    assert await world.book.available() == []
    assert await world.book.promote(1500.0) is None
    assert (await world.book.task(task.id)).reason == "due"


async def test_a_task_waits_for_others(world: World) -> None:
    """It is available when all that it needs is completed, and not before."""
    first, second = await world.submit(), await world.submit()
    task = await world.submit(after=(first.id, second.id))
    assert (task.state, task.reason) == ("scheduled", "dependencies")
    for needed in (first, second):
        await world.book.promote(world.clock.now)
        assert (await world.book.task(task.id)).state == "scheduled"
        _, attempt = await world.book.claim(needed.id)
        await world.book.finish(attempt, "completed")
    await world.book.promote(world.clock.now)
    assert await reasons(world, task.id) == [("scheduled", "dependencies"), ("available", "due")]
    after_all = await world.submit(after=(first.id,))
    assert after_all.state == "available"


async def test_a_task_whose_dependency_fails_is_discarded_with_all_that_need_it(world: World) -> None:
    """A chain ends with the task that broke it, also where its time has not come."""
    first = await world.submit()
    second = await world.submit(after=(first.id,), not_before_at=9e9)
    third = await world.submit(after=(second.id,))
    await world.book.cancel(first.id, "ada")
    assert await world.book.promote(world.clock.now) is None
    for task in (second, third):
        found = await world.book.task(task.id)
        assert (found.state, found.reason) == ("discarded", "dependency_failed")
    with pytest.raises(ConflictError, match="needs"):
        await world.book.retry(second.id, "ada")
    await world.book.retry(first.id, "ada")
    again = await world.book.retry(second.id, "ada")
    assert (again.state, again.reason, again.available_at) == ("scheduled", "retried", 9e9)


async def test_a_dependency_must_exist(world: World) -> None:
    """A submission that names another one is refused, and leaves no file."""
    with pytest.raises(InvalidField, match="after"):
        await world.submit(after=("0" * 16,))
    assert [entry.name for entry in (world.folder / "agent-tasks").iterdir()] == [".incoming"]


async def test_a_claim_begins_an_attempt(world: World) -> None:
    """It has the next number, a token that grows over all tasks, and a server of its own unless one is named."""
    task, attempt = await world.executing()
    assert (task.state, task.reason, task.attempt, task.started_at) == ("executing", "claimed", 1, 1000.0)
    assert (attempt.number, attempt.phase, attempt.server_name) == (1, "starting", f"task-{task.id[:8]}-1")
    _, other = await world.book.claim((await world.submit()).id, "warm")
    assert other.server_name == "warm"
    assert [each.server_name for each in await world.book.tasks()] == ["warm", attempt.server_name]
    assert other.fence > attempt.fence
    with pytest.raises(ConflictError, match="executing"):
        await world.book.claim(task.id)
    assert [each for _, each in await world.book.executing()] == [attempt, other]


async def test_what_becomes_known_of_an_attempt_is_kept(world: World) -> None:
    """Phase, node and run are there after a restart, to take it up again."""
    _, attempt = await world.executing()
    await world.book.note(attempt, phase="running", node="n1", run_id="r1", running_at=1001.0)
    noted = await world.book.note(attempt, phase="collecting")
    assert (noted.phase, noted.node, noted.run_id) == ("collecting", "n1", "r1")
    assert (await world.book.executing())[0][1] == noted
    with pytest.raises(ValueError, match="number"):
        await world.book.note(attempt, number=2)


async def test_a_kernel_that_only_the_servers_file_names(world: World) -> None:
    """The same attempt begins anew in a server of another name, for the kernel that its notebook turned out to name."""
    task, attempt = await world.executing()
    attempt = await world.book.note(attempt, phase="running", node="n1", run_id="0" * 16, running_at=5.0)
    moved, begun = await world.book.move(attempt, "julia", "there is no julia on n1")
    assert (moved.state, moved.kernel, moved.attempt, moved.failures) == ("executing", "julia", 1, 0)
    assert begun == (await world.book.attempts(task.id))[0]
    assert (begun.phase, begun.node, begun.run_id, begun.running_at) == ("starting", None, None, None)
    assert begun.server_name == moved.server_name != attempt.server_name
    assert TASK_SERVER.fullmatch(begun.server_name), "a service that is killed now finds it again"
    change = (await world.book.changes(task.id))[-1]
    assert (change.state, change.reason, change.detail) == ("executing", "moved", "there is no julia on n1")
    await world.book.finish(begun, "completed")
    with pytest.raises(Fenced):
        await world.book.move(begun, "ir", "")


async def test_completed(world: World) -> None:
    """The attempt ends, and the task stays so."""
    task, attempt = await world.executing()
    ended = await world.book.finish(attempt, "completed", "in 2 s")
    assert (ended.state, ended.reason, ended.detail, ended.ended_at) == ("completed", "completed", "in 2 s", 1000.0)
    (kept,) = await world.book.attempts(task.id)
    assert (kept.phase, kept.outcome, kept.ended_at) == ("ended", "completed", 1000.0)
    for change in (world.book.cancel, world.book.retry):
        with pytest.raises(ConflictError, match="completed"):
            await change(task.id, "ada")
    assert await world.book.executing() == []


@pytest.mark.parametrize(
    "reason", ["node_lost", "server_lost", "start_failed", "kernel_died", "output_lost", "internal"]
)
async def test_what_the_farm_fails_is_tried_again_until_there_were_enough(world: World, reason: TaskReason) -> None:
    """After the pause the task is available; the last of its attempts discards it."""
    task, attempt = await world.executing(max_attempts=2)
    waiting = await world.book.finish(attempt, reason, "n1 is gone", pause_seconds=30)
    assert (waiting.state, waiting.reason, waiting.failures, waiting.available_at) == ("retryable", reason, 1, 1030.0)
    assert await world.book.promote(1029.0) == 1030.0
    await world.book.promote(1030.0)
    _, attempt = await world.book.claim(task.id)
    assert attempt.number == 2
    gone = await world.book.finish(attempt, reason, "n2 is gone")
    assert (gone.state, gone.reason, gone.failures) == ("discarded", "attempts_exhausted", 2)
    assert gone.detail == f"2 attempts failed, the last one with {reason}: n2 is gone"


async def test_the_nodes_of_failed_attempts_are_to_be_avoided(world: World) -> None:
    """Those that may be to blame, each once and the newest last; not for a quota, nor for the notebook's own error."""
    task = await world.submit(max_attempts=9, retry_errors=True)
    ends: list[tuple[TaskReason, str | None]] = [
        ("node_lost", "a"), ("kernel_died", "b"), ("start_failed", None), ("quota", "c"), ("cell_error", "d"),
        ("server_lost", "a"),
    ]  # fmt: skip
    seen = []
    for outcome, node in ends:
        _, attempt = await world.book.claim(task.id)
        attempt = await world.book.note(attempt, phase="running", node=node)
        seen.append((await world.book.finish(attempt, outcome)).avoid)
        await world.book.promote(world.clock.now)
    assert seen == [("a",), *[("a", "b")] * 4, ("b", "a")]
    assert (await world.book.task(task.id)).avoid == ("b", "a")


async def test_an_attempt_that_the_quota_refused_does_not_count(world: World) -> None:
    """The task waits for as long as its owner has no room."""
    task, attempt = await world.executing(max_attempts=1)
    for number in (1, 2, 3):
        waiting = await world.book.finish(attempt, "quota", pause_seconds=1)
        assert (waiting.state, waiting.failures, waiting.attempt) == ("retryable", 0, number)
        await world.book.promote(2e9)
        _, attempt = await world.book.claim(task.id)


@pytest.mark.parametrize("reason", ["cell_error", "cell_timeout", "run_timeout"])
async def test_a_notebook_that_fails_by_itself_is_discarded(world: World, reason: TaskReason) -> None:
    """Another attempt would fail alike; the cell, its line and the traceback are kept."""
    task, attempt = await world.executing()
    error = TaskError("ValueError", "no", 3, 2, "raise ValueError('no')", ("Traceback", "ValueError: no"))
    await world.book.finish(attempt, reason, "cell 3 raised ValueError", error)
    gone = await world.book.task(task.id)
    assert (gone.state, gone.reason, gone.error) == ("discarded", reason, error)


async def test_a_notebook_that_fails_by_itself_is_tried_again_where_that_was_asked_for(world: World) -> None:
    """With retry_errors its own failures count like those of the farm."""
    task, attempt = await world.executing(retry_errors=True, max_attempts=2)
    assert (await world.book.finish(attempt, "cell_error", "no")).state == "retryable"
    await world.book.promote(world.clock.now)
    _, attempt = await world.book.claim(task.id)
    assert (await world.book.finish(attempt, "cell_error", "no")).reason == "attempts_exhausted"


@pytest.mark.parametrize("reason", ["invalid_notebook", "kernel_not_found", "refused"])
async def test_what_no_attempt_can_change_is_discarded(world: World, reason: TaskReason) -> None:
    """Also with retry_errors."""
    assert (await world.ended(reason, retry_errors=True)).state == "discarded"


async def test_an_attempt_cannot_end_with_any_word(world: World) -> None:
    """A fault of the dispatcher changes nothing."""
    task, attempt = await world.executing()
    with pytest.raises(ValueError, match="due"):
        await world.book.finish(attempt, "due")
    assert (await world.book.task(task.id)).state == "executing"


async def test_a_task_that_does_not_execute_is_cancelled_at_once(world: World) -> None:
    """Scheduled, available and retryable tasks have nothing that would have to be stopped first."""
    scheduled, available = await world.submit(not_before_at=2e9), await world.submit()
    _, attempt = await world.executing()
    retryable = await world.book.finish(attempt, "node_lost")
    for task in (scheduled, available, retryable):
        ended = await world.book.cancel(task.id, "ada")
        assert (ended.state, ended.reason, ended.detail) == ("cancelled", "cancelled", "ada asked for its end")


async def test_a_task_that_executes_is_cancelled_when_its_attempt_ended(world: World) -> None:
    """Until then it executes, the dispatcher is told, and a second request changes nothing."""
    told: list[str] = []
    world.book.cancelled.append(lambda task: told.append(task.id))
    task, attempt = await world.executing()
    asked = await world.book.cancel(task.id, "ada")
    assert (asked.state, asked.ending, asked.cancelling) == ("executing", "cancelled", True)
    assert await world.book.cancel(task.id, "ada") == asked
    assert told == [task.id]
    ended = await world.book.finish(attempt, "server_lost", "it was stopped")
    assert (ended.state, ended.reason, ended.detail, ended.ending) == (
        "cancelled", "cancelled", "ada asked for its end", None,
    )  # fmt: skip
    assert ended.failures == 0


async def test_a_task_that_was_completed_first_is_not_cancelled(world: World) -> None:
    """Its result is there."""
    task, attempt = await world.executing()
    await world.book.cancel(task.id, "ada")
    assert (await world.book.finish(attempt, "completed")).state == "completed"


async def test_a_retry_allows_one_more_attempt(world: World) -> None:
    """After a discarded and after a cancelled task, and not of one that is on its way."""
    gone = await world.ended("node_lost", max_attempts=1)
    again = await world.book.retry(gone.id, "ada")
    assert (again.state, again.reason, again.allowed, again.ended_at) == ("available", "retried", 2, None)
    with pytest.raises(ConflictError, match="available"):
        await world.book.retry(gone.id, "ada")
    _, attempt = await world.book.claim(gone.id)
    assert attempt.number == 2
    assert (await world.book.finish(attempt, "node_lost")).state == "discarded"
    cancelled = await world.book.cancel((await world.submit()).id, "ada")
    assert (await world.book.retry(cancelled.id, "ada")).state == "available"


async def test_a_retry_needs_nothing_that_was_there_before(world: World) -> None:
    """What a task needs may be forgotten when the task has executed once."""
    needed = await world.ended("completed")
    gone = await world.ended("cell_error", after=(needed.id,))
    await world.book._store.forget([needed.id])
    assert (await world.book.retry(gone.id, "ada")).state == "available"


async def test_a_suspended_agents_attempts_end_and_do_not_count(world: World) -> None:
    """Its tasks are available again, and keep their place; those that do not execute are left alone."""
    task, attempt = await world.executing(max_attempts=1)
    waiting = await world.submit()
    other, _ = await world.executing("other")
    held = await world.book.hold("bot", "agent_suspended")
    assert [each.id for each in held] == [task.id]
    assert (held[0].state, held[0].ending) == ("executing", "agent_suspended")
    assert await world.book.hold("bot", "agent_suspended") == []
    back = await world.book.finish(attempt, "server_lost", "stopped")
    assert (back.state, back.reason, back.failures) == ("available", "agent_suspended", 0)
    assert (await world.book.task(waiting.id)).state == "available"
    assert (await world.book.task(other.id)).ending is None


async def test_a_notebook_that_failed_before_the_suspension_reached_it_has_failed(world: World) -> None:
    """Its error is not lost."""
    _, attempt = await world.executing()
    await world.book.hold("bot", "agent_suspended")
    assert (await world.book.finish(attempt, "cell_error")).state == "discarded"


async def test_a_retired_agents_tasks_are_cancelled(world: World) -> None:
    """Those that execute when their attempt has ended, all others at once."""
    task, attempt = await world.executing()
    waiting, later = await world.submit(), await world.submit(not_before_at=2e9)
    await world.book.hold("bot", "agent_suspended")
    held = await world.book.hold("bot", "agent_retired")
    assert {each.id for each in held} == {task.id, waiting.id, later.id}
    for each in (waiting, later):
        assert (await world.book.task(each.id)).reason == "agent_retired"
    ended = await world.book.finish(attempt, "agent_retired")
    assert (ended.state, ended.reason, ended.detail) == ("cancelled", "agent_retired", "the agent was retired")


async def test_what_is_told_about_an_attempt_that_is_over_is_refused(world: World) -> None:
    """Notes, results and artifacts of attempt 1 do not reach the task while attempt 2 has it, nor later."""
    task, stale = await world.executing()
    await world.book.finish(stale, "node_lost")
    await world.book.promote(world.clock.now)
    _, current = await world.book.claim(task.id)
    with pytest.raises(Fenced, match="attempt 1"):
        await world.book.note(stale, phase="running")
    with pytest.raises(Fenced):
        await world.book.finish(stale, "completed")
    with pytest.raises(Fenced):
        await world.book.keep_notebook(stale, b"{}")
    await world.book.finish(current, "completed")
    with pytest.raises(Fenced):
        await world.book.finish(current, "completed")
    assert (await world.book.task(task.id)).attempt == 2


async def test_a_task_is_handed_to_another_agent(world: World) -> None:
    """That one is to execute it; while it executes, or after it was completed, it stays where it is."""
    task = await world.submit()
    given = await world.book.take_over(task.id, "other", "ada", "you have the data")
    assert (given.agent, given.state, given.reason) == ("other", "available", "submitted")
    change = (await world.book.changes(task.id))[-1]
    assert (change.reason, change.detail, change.by) == ("handed_over", "to other: you have the data", "ada")
    _, attempt = await world.book.claim(task.id)
    assert attempt.agent == "other"
    with pytest.raises(ConflictError, match="executing"):
        await world.book.take_over(task.id, "bot", "ada")
    person = await world.book.hand_over(task.id, "bob", "other")
    assert (person.assignee, person.agent) == ("bob", "other")


async def test_the_same_key_is_the_same_task(world: World) -> None:
    """For one agent, also after the task was handed over; for something else the key is refused."""
    first = await world.submit(idempotency_key="k", parameters={"a": 1})
    assert (await world.submit(idempotency_key="k", parameters={"a": 1})).id == first.id
    await world.book.take_over(first.id, "other", "ada")
    assert (await world.submit(idempotency_key="k", parameters={"a": 1})).id == first.id
    assert (await world.submit("other", idempotency_key="k", parameters={"a": 1})).id != first.id
    with pytest.raises(ConflictError, match="idempotency key 'k'"):
        await world.submit(idempotency_key="k", parameters={"a": 2})
    folders = [entry.name for entry in (world.folder / "agent-tasks").iterdir() if entry.name != ".incoming"]
    assert len(folders) == 2


async def test_there_is_no_task_of_another_id(world: World) -> None:
    """Every question and order says so."""
    for ask in (world.book.task, world.book.claim):
        with pytest.raises(NotFoundError, match="0000"):
            await ask("0" * 16)
    for order in (world.book.cancel, world.book.retry):
        with pytest.raises(NotFoundError):
            await order("0" * 16, "ada")


async def test_words_that_a_database_does_not_take_are_kept_readable(world: World) -> None:
    """What a kernel wrote may have null characters and halves of characters in it."""
    _, attempt = await world.executing()
    error = TaskError("E\0", "\ud800", traceback=("\0\udfff",))
    gone = await world.book.finish(attempt, "cell_error", "a\0b\ud800" + "x" * 10_000, error)
    assert gone.detail.startswith("a\ufffdb?x")
    assert (await world.book.task(gone.id)).error == error
