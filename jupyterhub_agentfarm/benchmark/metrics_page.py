"""``/metrics`` of the benchmark service: the exposition's texts, kept for a second each."""

from __future__ import annotations

import asyncio
import gzip
import time

from ..services.exposing import ExposingHandler
from .exposition import SETS, Exposition

#: How old the text of the metrics page may be.
METRICS_AGE_SECONDS = 1.0


class MetricsPage:
    """The texts of the sets.

    Parameters
    ----------
    exposition
        Makes them.
    """

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        #: By set, and whether compressed: when it was made, and the text in pieces.
        self._made: dict[tuple[str, bool], tuple[float, list[bytes]]] = {}
        self._making = asyncio.Lock()

    async def get(self, which: str, *, compressed: bool = False) -> list[bytes]:
        """Return a set's text, in pieces: a megabyte in one is memory that is new each time."""
        async with self._making:
            made = self._made.get((which, compressed))
            if made is None or time.monotonic() - made[0] > METRICS_AGE_SECONDS:
                pieces = await self._make(which)
                if compressed:
                    pieces = [await asyncio.to_thread(_compressed, pieces)]
                made = self._made[which, compressed] = (time.monotonic(), pieces)
        return made[1]

    async def _make(self, which: str) -> list[bytes]:
        """Return the text; the event loop goes on between its pieces."""
        pieces = []
        for piece in self._exposition.chunks(which):
            if piece:
                pieces.append(piece.encode())
            await asyncio.sleep(0)
        return pieces


def _compressed(pieces: list[bytes]) -> bytes:
    return gzip.compress(b"".join(pieces), 1)


class MetricsHandler(ExposingHandler):
    """The metrics page."""

    async def get(self) -> None:
        """Answer a set in the text format.

        Raises
        ------
        InvalidField
            There is no such set.
        """
        which = self.chosen_set(SETS, "hub")
        compressed = "gzip" in self.request.headers.get("Accept-Encoding", "")
        pieces = await self.service.metrics_page.get(which, compressed=compressed)
        self.set_header("Vary", "Accept-Encoding")
        if compressed:
            self.set_header("Content-Encoding", "gzip")
        self.expose(*pieces)
