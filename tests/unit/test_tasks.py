"""Tasks that belong to somebody."""

from __future__ import annotations

import asyncio
import logging

import pytest

from jupyterhub_agentfarm.tasks import OwnedTasks


async def test_tasks_are_owned(caplog: pytest.LogCaptureFixture) -> None:
    """One single task of each name runs, a fault is logged, and closing ends all."""
    tasks, begun = OwnedTasks(logging.getLogger("owner")), []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.Event().wait()

    async def fail() -> None:
        raise ValueError("boom")

    tasks.start_single(work(1), "a")
    tasks.start_single(work(2), "a")
    failing = tasks.start(fail(), "b")
    await asyncio.wait({failing})
    tasks.start_single(work(3), "a", replace=True)
    await asyncio.sleep(0)
    assert begun == [1, 3]
    await tasks.aclose()
    await tasks.aclose()
    assert "b failed: boom" in caplog.text
    assert len(asyncio.all_tasks()) == 1


async def test_a_task_that_was_replaced_does_not_free_its_name() -> None:
    """The end of a replaced task is not taken for the end of the one in its place; after that the name is free."""
    tasks, begun = OwnedTasks(logging.getLogger("owner")), []
    go_on = asyncio.Event()

    async def work(number: int) -> None:
        begun.append(number)
        await go_on.wait()

    tasks.start_single(work(1), "a")
    tasks.start_single(work(2), "a", replace=True)
    replaced = tasks.named("a")
    await asyncio.wait(replaced, return_when=asyncio.FIRST_COMPLETED)
    tasks.start_single(work(3), "a")
    go_on.set()
    await asyncio.wait(replaced)
    tasks.start_single(work(4), "a")
    await asyncio.gather(*tasks.named("a"))
    assert begun == [2, 4]


async def test_an_owner_may_be_closed_by_its_own_task() -> None:
    """The task that closes the owner is not cancelled by that."""
    tasks = OwnedTasks(logging.getLogger("owner"))
    other = tasks.start(asyncio.Event().wait(), "other")
    closing = tasks.start(tasks.aclose(), "closing")
    await asyncio.wait({closing, other})
    assert (closing.cancelled(), other.cancelled()) == (False, True)


async def test_who_wants_to_know_hears_of_a_fault_and_of_nothing_else() -> None:
    """A work that failed is told; one that succeeded, or ended with its owner, is not."""
    tasks, told = OwnedTasks(logging.getLogger("owner")), []

    async def fail() -> None:
        raise ValueError("boom")

    tasks.start_single(fail(), "fails", on_fault=lambda: told.append("fails"))
    tasks.start_single(asyncio.Event().wait(), "waits", on_fault=lambda: told.append("waits"))
    tasks.start_single(asyncio.sleep(0), "ends", on_fault=lambda: told.append("ends"))
    await asyncio.wait([*tasks.named("fails"), *tasks.named("ends")])
    await tasks.aclose()
    assert told == ["fails"]
