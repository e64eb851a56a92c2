"""What is kept of tasks, to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from traitlets.config import LoggingConfigurable

from ..models import Artifact, Attempt, Change, Task, TaskState
from .store import TaskFilter, TaskStore, Viewer


class TaskRecords(LoggingConfigurable):
    """Tasks, their attempts, changes and artifacts, as they are in the database."""

    _store: TaskStore

    async def task(self, task_id: str) -> Task:
        """Return a task.

        Raises
        ------
        NotFoundError
            There is none with this id.
        """
        return await self._store.task(task_id)

    async def tasks(self, wanted: TaskFilter | None = None) -> list[Task]:
        """Return the tasks that are wanted, the newest first.

        Raises
        ------
        InvalidField
            The cursor is no task's id.
        """
        return await self._store.tasks(wanted or TaskFilter())

    async def changes(self, task_id: str, after: int = 0) -> list[Change]:
        """Return what happened to a task after the change with number `after`, in its order."""
        return await self._store.changes(task_id, after)

    async def attempts(self, task_id: str) -> list[Attempt]:
        """Return the attempts of a task, the first one first."""
        return await self._store.attempts(task_id)

    async def artifacts(self, task_id: str) -> list[Artifact]:
        """Return what the attempts of a task left, by attempt and path."""
        return await self._store.artifacts(task_id)

    async def counts_by_agent(self) -> Mapping[str, Mapping[TaskState, int]]:
        """Return how many tasks each agent has in each state that some are in."""
        return await self._store.counts()

    async def kept_bytes_by_agent(self) -> Mapping[str, int]:
        """Return the bytes of notebooks and artifacts that are kept of each agent's tasks."""
        return await self._store.kept_bytes()

    async def busy(self) -> set[str]:
        """Return the names of agents with tasks that have not ended."""
        return await self._store.busy()

    async def counts(self) -> Mapping[TaskState, int]:
        """Return how many tasks there are in each state."""
        found = dict.fromkeys(get_args(TaskState), 0)
        for counts in (await self._store.counts()).values():
            for state, count in counts.items():
                found[state] += count
        return found

    async def queued(self) -> Mapping[int, int]:
        """Return how many tasks wait to be claimed, by their priority."""
        return await self._store.queued()

    async def changes_of_all(
        self, after: int, limit: int = 500, viewer: Viewer | None = None
    ) -> list[tuple[Task, Change]]:
        """Return the first changes with a number above `after` of the tasks that a viewer sees, with the tasks."""
        return await self._store.changes_of_all(after, limit, viewer)

    async def available(self, limit: int = 100, skip: int = 0) -> list[Task]:
        """Return tasks that may be claimed: of each agent at most `limit` after `skip`, by priority and then by age."""
        return await self._store.available(limit, skip)

    async def executing(self) -> list[tuple[Task, Attempt]]:
        """Return all attempts that go on."""
        return await self._store.executing()
