"""What goes to those who follow tasks, as server-sent events."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

from ...records import to_json
from ...services.sse import Sent
from ..models import Task
from .book import TaskBook
from .news import BOARD
from .store import Viewer

#: Changes that are read at a time for who was cut off.
PAGE = 500


async def task_events(
    book: TaskBook, task_id: str, after: int, seen: Callable[[Task], bool]
) -> AsyncGenerator[Sent, None]:
    """Give the changes of a task with a number above `after`, and what happens to it until it has ended.

    The events are `change`, `task`, `attempt`, `progress` and `artifact`; each brings the whole record. They end also
    when the task, as it is by then, is not one that may be seen: it, or its agent, may have gone to somebody else.
    """
    following, progress = book.followers.follow(task_id), book.progress_of(task_id)
    try:
        changes, task = await book.changes(task_id, after), await book.task(task_id)
        for change in changes:
            after = change.number
            yield "change", to_json(change), change.number
        yield "task", to_json(task)
        if progress is not None:
            yield "progress", to_json(progress)
        async with contextlib.aclosing(following.events([], ended=task.ended)) as events:
            known = False
            async for name, data in events:
                task = data if name == "task" else task
                if not seen(task):
                    return
                if name == "change":
                    known = data.number <= after  # and so is the task, which follows it
                if not (known and name in ("change", "task")):
                    yield (name, to_json(data), data.number) if name == "change" else (name, to_json(data))
    finally:
        following.close()


async def board_events(
    book: TaskBook, seen: Callable[[Task], bool], after: int | None, viewer: Viewer | None
) -> AsyncGenerator[Sent, None]:
    """Give what happens to all tasks that may be seen: `change`, with the change and its task.

    Parameters
    ----------
    seen
        Whether a task may be seen.
    after
        Number of the change after which the follower was cut off; None: it follows from now on. However long that is
        ago, nothing that it may see is left out: what it missed is read page by page.
    viewer
        Who follows, for the database; `seen` decides in any case.
    """
    following = book.followers.follow(BOARD)
    try:
        last = -1
        while after is not None and (missed := await book.changes_of_all(max(after, last), PAGE, viewer)):
            for task, change in missed:
                last = change.number
                if seen(task):
                    yield "change", {"task": to_json(task), "change": to_json(change)}, change.number
        async with contextlib.aclosing(following.events([])) as events:
            async for _, (task, change) in events:
                if change.number > last and seen(task):
                    yield "change", {"task": to_json(task), "change": to_json(change)}, change.number
    finally:
        following.close()
