"""What an attempt left is fetched from its server and kept: the executed notebook, then the artifacts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ...errors import DiskFull, InvalidField, NoSpace, QuotaExceeded
from ...runs.client import RunRefused, ServerRuns
from ...runs.models import RunArtifact
from ..models import Artifact, Attempt
from .told import told_artifacts

T = TypeVar("T")
#: Asks the server, or the keeper, again and again until it answers or the server is lost.
Ask = Callable[[Callable[[], Awaitable[T]]], Awaitable[T]]
#: Is told why the collecting waits; "": it goes on.
Waits = Callable[[str], Awaitable[None]]
_MOST_NOTES = 20


@dataclass(frozen=True)
class DiskPatience:
    """How a full disk is waited for, in seconds."""

    #: Pause before the second try; doubled with each.
    first: float
    longest: float
    #: After so long without success the attempt ends.
    total: float


class Keeper(Protocol):
    """Who keeps what an attempt leaves; raises `Fenced` once the attempt is over."""

    @property
    def max_notebook(self) -> int:
        """Largest notebook that is kept, in bytes."""

    async def keep_notebook(self, attempt: Attempt, notebook: bytes) -> None:
        """Keep the notebook."""

    async def keep_artifact(self, attempt: Attempt, path: str, content: AsyncIterator[bytes]) -> Artifact:
        """Keep a file."""


class Collector:
    """Fetches what one run left.

    Parameters
    ----------
    keeper
        Who keeps it.
    runs
        The server.
    ask
        How the server is asked.
    heard
        Called for each piece that arrives.
    waits
        Called with why nothing can be kept at the moment.
    patience
        How long that is borne.
    """

    def __init__(
        self,
        keeper: Keeper,
        runs: ServerRuns,
        ask: Ask[Any],
        heard: Callable[[], object],
        waits: Waits,
        patience: DiskPatience,
    ) -> None:
        self._keeper, self._runs, self._ask, self._heard = keeper, runs, ask, heard
        self._waits, self._patience = waits, patience
        self._most = keeper.max_notebook

    async def collect(self, attempt: Attempt, run_id: str) -> tuple[str, ...]:
        """Keep everything; return sentences about what is not kept.

        Raises
        ------
        Fenced
            The attempt is over.
        NoSpace
            The notebook cannot be kept. `DiskFull`: for too long there was no room, for it or for a file.
        InvalidField
            What the server tells of artifacts cannot be read.
        """
        await self.notebook(attempt, run_id)
        told = told_artifacts(await self._ask(lambda: self._runs.artifacts(run_id)))
        notes = list(told.refused)
        for entry in told.artifacts:
            notes += await self._artifact(attempt, run_id, entry)
        more = len(notes) - _MOST_NOTES
        return (*notes[:_MOST_NOTES], *([f"{more} more files are left out."] if more > 0 else []))

    async def notebook(self, attempt: Attempt, run_id: str) -> None:
        """Keep the notebook as executed so far."""
        notebook = await self._ask(lambda: self._runs.notebook(run_id, self._most))
        await self._kept(lambda: self._keeper.keep_notebook(attempt, notebook))

    async def _artifact(self, attempt: Attempt, run_id: str, entry: RunArtifact) -> list[str]:
        path = entry.path
        try:
            kept = await self._kept(lambda: self._keeper.keep_artifact(attempt, path, self._chunks(run_id, path)))
        except DiskFull:
            raise
        except (InvalidField, NoSpace, QuotaExceeded) as exc:
            return [f"{path}: {exc.message}."]
        except RunRefused as exc:
            return [f"{path}: {exc.why}"]
        return [] if kept.sha256 == entry.sha256 else [f"{path}: it changed after the notebook had ended."]

    async def _kept(self, keeping: Callable[[], Awaitable[T]]) -> T:
        """Return what is kept, as soon as the disk has room for it; meanwhile the server has everything still."""
        began, pause = time.monotonic(), self._patience.first
        while True:
            try:
                kept: T = await self._ask(keeping)
            except DiskFull as exc:
                if time.monotonic() + pause - began > self._patience.total:
                    raise
                await self._waits(f"its results wait on its node until there is room for them here: {exc.message}")
            else:
                await self._waits("")
                return kept
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._patience.longest)

    async def _chunks(self, run_id: str, path: str) -> AsyncIterator[bytes]:
        async for chunk in self._runs.artifact(run_id, path):
            self._heard()
            yield chunk
