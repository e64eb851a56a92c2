"""What happens to tasks, told to those who follow, in the order of the commits.

::

    topic           events, and what comes with them
    a task's id     task: Task, change: Change, attempt: Attempt, progress: Progress, artifact: Artifact
    "board"         change: (Task, Change), of all tasks
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ...services.followers import Followers
from ..models import Progress, Task
from .tables import Told

#: The topic of those who follow all tasks.
BOARD = "board"


class TaskNews:
    """Who is told what became of tasks."""

    def __init__(self) -> None:
        self.followers = Followers()
        #: Set whenever tasks changed in a way that may let one be begun.
        self.changed = asyncio.Event()
        #: Called with a task whose attempt is to end, for the reason in `task.ending`.
        self.cancelled: list[Callable[[Task], None]] = []
        #: How far attempts are, by task.
        self.progress: dict[str, Progress] = {}

    def tell(self, told: Sequence[Told]) -> None:
        """Tell what a transaction did, after its commit."""
        for each in told:
            self._tell_one(each)
        # What becomes known of a task while it executes lets none begin, and to look through a long book is work.
        if any(each.task is not None and each.task.state != "executing" for each in told):
            self.changed.set()

    def tell_progress(self, task_id: str, progress: Progress) -> None:
        """Keep and tell how far an attempt is."""
        self.progress[task_id] = progress
        self.followers.tell(task_id, "progress", progress)

    def _tell_one(self, told: Told) -> None:
        if told.attempt is not None:
            self.followers.tell(told.attempt.task, "attempt", told.attempt)
        if told.artifact is not None:
            self.followers.tell(told.artifact.task, "artifact", told.artifact)
        if told.task is None or told.change is None:
            return
        self.followers.tell(told.task.id, "change", told.change)
        self.followers.tell(told.task.id, "task", told.task)
        self.followers.tell(BOARD, "change", (told.task, told.change))
        self._after_change(told.task)

    def _after_change(self, task: Task) -> None:
        if task.state != "executing":
            self.progress.pop(task.id, None)
        elif task.ending is not None:
            for callback in list(self.cancelled):
                callback(task)
        if task.ended:
            self.followers.finish(task.id)
