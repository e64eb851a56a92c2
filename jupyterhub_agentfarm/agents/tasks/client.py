"""The tasks' part of the client of the agents service's REST API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from ...services.client import ServiceClient


class TasksClient(ServiceClient):
    """Submits tasks and asks for them."""

    service = "agents"

    async def submit(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a task, whose fields are those of `TaskRequest`; return it.

        Raises
        ------
        InvalidField
            A field cannot be used.
        NotFoundError
            There is no such agent.
        ConflictError
            The idempotency key was used for something else, or the agent is not active.
        """
        return dict(await self._json("POST", "tasks", dict(request)))

    async def tasks(self, **wanted: Any) -> dict[str, Any]:
        """Return `tasks`, the newest first, and the `cursor` that continues the list, or None.

        Parameters
        ----------
        wanted
            state (one or a list), agent, project, name, limit, cursor.
        """
        given = {name: value for name, value in wanted.items() if value not in (None, "", [], ())}
        return dict(await self._json("GET", "tasks?" + urlencode(given, doseq=True)))

    async def task(self, task_id: str) -> dict[str, Any]:
        """Return a task with its attempts, changes, artifacts and progress.

        Raises
        ------
        NotFoundError
            There is none with this id.
        """
        return dict(await self._json("GET", _path(task_id)))

    async def cancel(self, task_id: str) -> dict[str, Any]:
        """Ask for the end of a task; return it as it is now."""
        return dict(await self._json("POST", _path(task_id, "cancel"), {}))

    async def delete(self, task_id: str) -> None:
        """Have a task that has ended forgotten, with its notebooks and files.

        Raises
        ------
        ConflictError
            It has not ended, or another task still needs it.
        """
        await self._json("DELETE", _path(task_id))

    async def retry(self, task_id: str) -> dict[str, Any]:
        """Allow a cancelled or discarded task one more attempt; return it."""
        return dict(await self._json("POST", _path(task_id, "retry"), {}))

    async def hand_over(self, task_id: str, to: str, note: str = "") -> dict[str, Any]:
        """Hand a task to another agent, or to a person; return it."""
        return dict(await self._json("POST", _path(task_id, "handover"), {"to": to, "note": note}))

    def events(self, task_id: str, after: int | None = None) -> AsyncGenerator[tuple[str, Any], None]:
        """Follow a task until it has ended: `change`, `task`, `attempt`, `progress` and `artifact`.

        Parameters
        ----------
        after
            Only what came after the change with this number.

        Raises
        ------
        FarmUnavailable
            The connection was lost.
        """
        return self.follow(_path(task_id, "events"), after)

    def board(self, after: int | None = None) -> AsyncGenerator[tuple[str, Any], None]:
        """Follow all tasks that one may see: `change` with `task` and `change`; parameters as of :meth:`events`."""
        return self.follow("events", after)

    def notebook(self, task_id: str, which: str | None = None) -> AsyncGenerator[bytes, None]:
        """Give the notebook, piece by piece: executed so far, or else submitted; `which` names one of the two."""
        return self.download(_path(task_id, "notebook") + (f"?which={which}" if which else ""))

    def artifact(self, task_id: str, path: str, attempt: int | None = None) -> AsyncGenerator[bytes, None]:
        """Give a file that the newest attempt, or the one named, left, piece by piece."""
        query = "" if attempt is None else f"?attempt={attempt}"
        return self.download(f"{_path(task_id, 'artifacts')}/{quote(path)}{query}")


def _path(task_id: str, *more: str) -> str:
    return "/".join(["tasks", quote(task_id, safe=""), *more])
