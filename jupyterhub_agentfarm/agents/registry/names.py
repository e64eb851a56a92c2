"""ReservedNames: the names of agents where the Hub looks when somebody logs in (:mod:`jupyterhub_agentfarm.logins`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from ...errors import NoSpace
from ...services import reserved

log = logging.getLogger(__name__)


class ReservedNames:
    """Keeps all names that agents have, had, or are about to have.

    Parameters
    ----------
    known
        Gives the names that the registry has.
    """

    def __init__(self, known: Callable[[], set[str]]) -> None:
        self._known = known
        self._coming: set[str] = set()
        self._lock = asyncio.Lock()
        #: The file; None: no Hub reads it.
        self.path: Path | None = None

    async def save(self) -> None:
        """Write the names.

        Raises
        ------
        NoSpace
            They cannot be written.
        """
        async with self._lock:
            if self.path is not None:
                try:
                    await asyncio.to_thread(reserved.write, self.path, self._known() | self._coming)
                except OSError as exc:
                    raise NoSpace(f"the names of agents cannot be kept in {self.path}: {exc.strerror}") from exc

    @asynccontextmanager
    async def coming(self, name: str) -> AsyncIterator[None]:
        """Keep a name before it has a Hub user: nobody is to log in as it in between.

        Raises
        ------
        NoSpace
            It cannot be written.
        """
        self._coming.add(name)
        try:
            await self.save()
            yield
        finally:
            self._coming.discard(name)
            await self.save_quietly()

    async def save_quietly(self) -> None:
        """Write the names; where that fails, the next one does it."""
        try:
            await self.save()
        except NoSpace as exc:
            log.warning("%s", exc.message)
