"""Packing: the archives that are being made, which of them failed, and when these are tried again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ...errors import ConflictError
from .archive import Archiver

#: Pause after a first failure, in seconds, and the longest one: what is too large stays so, and packing is much work.
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0


class Packing:
    """Packs the files of agents that are retired, again and again until it is done or nobody wants it any more."""

    def __init__(self) -> None:
        #: None: no files can be packed here.
        self.archiver: Archiver | None = None
        self._going: dict[str, asyncio.Task[Path]] = {}
        self._unwanted: set[str] = set()
        #: When a packing that failed is tried again, and how long the pause was.
        self._later: dict[str, tuple[float, float]] = {}

    def check(self, name: str) -> None:
        """Return when there is a server that shows the agent's files.

        Raises
        ------
        ConflictError
            There is none, or workspaces cannot be archived here.
        """
        self._archiver().check(name)

    def due(self, name: str) -> bool:
        """Whether the packing of an agent's files, if it failed, may be tried again."""
        return self._later.get(name, (0.0, 0.0))[0] <= time.monotonic()

    async def pack(self, name: str) -> Path | None:
        """Pack the files of an agent; return the archive, or None when it was not wanted any more.

        Raises
        ------
        AgentFarmError
            They cannot be packed now; it is :meth:`due` after a pause that grows.
        """
        if name in self._unwanted:
            return None
        packing = self._going[name] = asyncio.create_task(self._archiver().pack(name), name=f"packing {name}")
        try:
            return await packing
        except asyncio.CancelledError:
            asked = asyncio.current_task()
            if name in self._unwanted and not (asked and asked.cancelling()):
                return None
            raise
        except Exception:
            pause = min(LONGEST_PAUSE, 2 * self._later.get(name, (0.0, FIRST_PAUSE / 2))[1])
            self._later[name] = (time.monotonic() + pause, pause)
            raise
        finally:
            del self._going[name]

    def drop(self, name: str) -> None:
        """Stop the packing of an agent's files, for good."""
        self._unwanted.add(name)
        self._later.pop(name, None)
        if name in self._going:
            self._going[name].cancel()

    def _archiver(self) -> Archiver:
        if self.archiver is None:
            raise ConflictError("workspaces cannot be archived here: keep it")
        return self.archiver
