"""LiveNotebooks: notebooks as they are while their tasks execute, fetched only when somebody looks."""

from __future__ import annotations

import asyncio
import logging

from ...errors import ConflictError, HubApiError, NodeUnreachable, RunFailed
from ...runs.client import ServerRuns
from ...tasks import OwnedTasks
from ..models import Attempt, Task
from ..tasks.book import TaskBook
from .carriers import Carriers

log = logging.getLogger(__name__)

#: How long a server may take for its notebook; after that the one that is kept is shown.
LIVE_SECONDS = 5.0
_AWAY = (TimeoutError, NodeUnreachable, RunFailed, HubApiError, ConflictError)


class LiveNotebooks:
    """Fetches notebooks of running attempts; what it fetches is for showing, and is not kept.

    Parameters
    ----------
    book
        All tasks.
    carriers
        How the servers of attempts are reached.
    """

    def __init__(self, book: TaskBook, carriers: Carriers) -> None:
        self._book, self._carriers = book, carriers
        self._asking: dict[str, asyncio.Task[bytes | None]] = {}
        self._owned = OwnedTasks(log)

    async def aclose(self) -> None:
        """Ask no more; a second call does nothing."""
        await self._owned.aclose()

    async def get(self, task: Task) -> bytes | None:
        """Return a task's notebook as far as it is executed, or None where its server does not give it now.

        However many ask at the same time, the server is asked once.
        """
        if task.state != "executing":
            return None
        asking = self._asking.get(task.id)
        if asking is None:
            asking = self._asking[task.id] = self._owned.start(self._ask(task), f"looking at {task.id}")
            asking.add_done_callback(lambda _: self._asking.pop(task.id, None))
        return await asyncio.shield(asking)

    async def _ask(self, task: Task) -> bytes | None:
        attempt = (await self._book.attempts(task.id))[-1]
        if attempt.run_id is None:
            return None
        try:
            async with asyncio.timeout(LIVE_SECONDS):
                return await self._runs(attempt).notebook(attempt.run_id, self._book.max_notebook)
        except _AWAY as exc:
            log.debug("the notebook of %s cannot be had now: %s", task.id, exc)
            return None

    def _runs(self, attempt: Attempt) -> ServerRuns:
        carriers = self._carriers
        url = carriers.servers.url(attempt.agent, attempt.server_name)

        async def headers() -> dict[str, str]:
            return {"Authorization": f"token {await carriers.tokens.get(attempt.agent)}"}

        return ServerRuns(carriers.session, url, attempt.node or "its node", headers, LIVE_SECONDS)
