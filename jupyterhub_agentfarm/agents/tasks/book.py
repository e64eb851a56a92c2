"""TaskBook: all tasks, every change of them, and who is told.

Whatever changes a task goes through here: it is decided and written in one transaction (:mod:`.steps`), and when a
method returns it is committed. Then those who follow are told (:mod:`.news`).

`changed` is set after those that may let a task be begun: who waits for work clears it, looks, and waits again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from traitlets import Integer

from ...faults import undone
from ...inventory.database import Database
from ...tasks import OwnedTasks
from ..models import MAX_PRIORITY, Attempt, Progress, Task, TaskError, TaskReason, TaskRequest
from . import states, steps
from .files import TaskFiles
from .keeping import KeptTasks
from .news import TaskNews
from .store import TaskStore


class TaskBook(KeptTasks):
    """The tasks of all agents.

    - A method that changes something returns when that is committed, and tells it even when its caller is cancelled.
    - A task is never in two attempts: what is told about an attempt that is over raises `Fenced`.
    - What a submission cannot finish, it leaves no trace of.
    - What attempts leave is kept by :class:`.KeptTasks`.

    Parameters
    ----------
    database
        SQLite or PostgreSQL; opened here when it is not yet, and not closed.
    directory
        Folder for notebooks and artifacts, one folder below it for each task.
    clock
        Seconds since the epoch.
    """

    max_open = Integer(
        5000,
        min=1,
        help="How many tasks of an agent may be there that have not ended. More: an agent that submits without end "
        "fills more of the disk.",
    ).tag(config=True)

    def __init__(
        self, database: Database, directory: Path, clock: Callable[[], float] = time.time, **options: Any
    ) -> None:
        super().__init__(**options)
        self.files = TaskFiles(directory, parent=self)
        self._news = TaskNews()
        self.followers = self._news.followers
        #: Set whenever tasks changed in a way that may let one be begun.
        self.changed = self._news.changed
        #: Called with a task whose attempt is to end, for the reason in `task.ending`.
        self.cancelled = self._news.cancelled
        self._store = TaskStore(database, self._news.tell, clock)
        self._clock = clock
        self._owned = OwnedTasks(self.log)
        self._keeping: set[asyncio.Task[None]] = set()

    # ---- life ----

    async def open(self) -> None:
        """Make tables and folder, and remove what a submission left behind when its service was killed.

        Raises
        ------
        ConfigError
            The database cannot be used.
        NoSpace
            The folder cannot be made.
        """
        await self._store.open()
        await self.files.open()
        await self.files.sweep(self._store.known)
        self._owned.start(self._forget_by_and_by(), "forgetting of tasks")

    async def aclose(self) -> None:
        """Finish what was asked for; a second call does nothing."""
        await self._owned.aclose()
        if self._keeping:
            await asyncio.wait(self._keeping)
        await self._store.aclose()

    # ---- orders ----

    async def submit(
        self, request: TaskRequest, agent: str, by: str, notebook: bytes | None, *, digest: str = "", kernel: str = ""
    ) -> tuple[Task, bool]:
        """Take a task of `agent`, asked for by `by`; return it, and whether it is new.

        It is not when the agent has one with the same idempotency key: then that one is returned.

        Parameters
        ----------
        digest
            What notebooks that are the same work have in common; "": only equal ones are the same.
        kernel
            The kernel that the notebook names; "": none, or it is not known.

        Raises
        ------
        InvalidField
            A task that it needs does not exist.
        ConflictError
            The agent has used the idempotency key for something else.
        QuotaExceeded
            It has too many tasks that have not ended, or too much is kept of its tasks.
        NoSpace
            The notebook cannot be kept.
        """
        task_id = steps.new_id()
        if notebook is not None:
            await self.files.save_notebook(task_id, notebook)
        asked = steps.Submission(task_id, request, agent, by, notebook, digest, kernel, self._bounds())
        async with undone(lambda: self.files.forget(task_id)):
            task = await self._with_room(agent, lambda tables: steps.submit(tables, asked))
        if task.id != task_id:
            await self.files.forget(task_id)
            return task, False
        await self.files.settle(task_id)
        return task, True

    def progress_of(self, task_id: str) -> Progress | None:
        """Return how far a task's attempt is; None where that is not known."""
        return self._news.progress.get(task_id)

    async def cancel(self, task_id: str, by: str) -> Task:
        """End a task, or ask for the end of its attempt when it executes.

        Raises
        ------
        NotFoundError
            There is no such task.
        ConflictError
            It has ended.
        """
        return await self._do(steps.cancel, task_id, by)

    async def retry(self, task_id: str, by: str) -> Task:
        """Allow a cancelled or discarded task one more attempt.

        Raises
        ------
        NotFoundError
            There is no such task.
        ConflictError
            It is in another state, or needs a task that will not be completed.
        """
        return await self._do(steps.retry, task_id, by)

    async def hand_over(self, task_id: str, to: str, by: str, note: str = "") -> Task:
        """Ask the person `to` to look at a task, or offer it to the agent `to`.

        Raises
        ------
        NotFoundError
            There is no such task.
        """
        return await self._do(steps.hand_over, task_id, to, by, note)

    async def take_over(
        self, task_id: str, agent: str, by: str, note: str = "", *, most_priority: int = MAX_PRIORITY
    ) -> Task:
        """Give a task to another agent, which executes it from now on: `by` acts for that agent.

        Parameters
        ----------
        most_priority
            The highest priority that `by` may give a task of this agent; one above it becomes this.

        Raises
        ------
        NotFoundError
            There is no such task.
        ConflictError
            It executes or is completed.
        QuotaExceeded
            The agent has too many tasks that have not ended, or too much is kept of its tasks.
        """
        taking = steps.Taking(agent, by, note, self._bounds(), most_priority)
        return await self._with_room(agent, lambda tables: steps.take_over(tables, task_id, taking))

    def _bounds(self) -> steps.AgentBounds:
        return steps.AgentBounds(self.max_open, self.max_agent_bytes)

    async def hold(self, agent: str, reason: TaskReason) -> list[Task]:
        """Ask for the end of all attempts of an agent; return the tasks that changed.

        With "agent_suspended" they will be available again; with "agent_retired" they will be cancelled, and all
        other tasks of the agent that have not ended are cancelled at once.
        """
        return await self._do(steps.hold, agent, reason)

    # ---- for the dispatcher ----

    async def promote(self, now: float) -> float | None:
        """Make available what is due at `now`; return when the next one is, or None.

        A task is due when its time has come and what it needs is completed. One that needs a task that will not be
        completed is discarded.
        """
        return await self._store.do(partial(steps.promote, now=now))

    async def claim(
        self, task_id: str, server_name: str | None = None, *, agent: str | None = None
    ) -> tuple[Task, Attempt]:
        """Begin an attempt of a task, in the server named, or in one with a name of its own.

        Parameters
        ----------
        agent
            Whose task it was when it was chosen; None: it may be anybody's.

        Raises
        ------
        NotFoundError
            There is no such task.
        ConflictError
            It is not available any more, or not that agent's.
        """
        return await self._do(steps.claim, task_id, server_name, agent)

    async def note(self, attempt: Attempt, **changes: Any) -> Attempt:
        """Keep what became known of an attempt: phase, node, run_id, running_at, server_name, detail; return it.

        Raises
        ------
        Fenced
            The attempt is over.
        """
        return await self._do(steps.note, attempt, changes)

    def progress(self, attempt: Attempt, cells_done: int, cells_total: int, current_cell: int | None = None) -> None:
        """Tell how far an attempt is; kept in memory only."""
        self._news.tell_progress(attempt.task, Progress(attempt.number, cells_done, cells_total, current_cell))

    async def move(self, attempt: Attempt, kernel: str, why: str) -> tuple[Task, Attempt]:
        """Have an attempt begin anew in another server, as its notebook turned out to name a kernel; return both.

        Raises
        ------
        Fenced
            The attempt is over.
        """
        return await self._do(steps.move, attempt, kernel, why)

    async def finish(
        self,
        attempt: Attempt,
        outcome: TaskReason,
        detail: str = "",
        error: TaskError | None = None,
        pause_seconds: float = 0,
    ) -> Task:
        """End an attempt; what becomes of its task is decided by :func:`.states.after_attempt`.

        Parameters
        ----------
        outcome
            "completed", a reason of the farm or of the notebook, or that for which its end was asked.
        detail
            The outcome for people.
        error
            The exception that the notebook ended with.
        pause_seconds
            How long the task waits before another attempt.

        Raises
        ------
        Fenced
            The attempt is over already.
        """
        ended = states.Ended(outcome, detail, error, pause_seconds)
        return await self._do(steps.finish, attempt, ended)
