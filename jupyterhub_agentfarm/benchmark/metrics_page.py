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
        #: By set, and whether compressed: when it was made, and the text.
        self._made: dict[tuple[str, bool], tuple[float, bytes]] = {}
        self._making = asyncio.Lock()

    async def get(self, which: str, *, compressed: bool = False) -> bytes:
        """Return a set's text."""
        async with self._making:
            made = self._made.get((which, compressed))
            if made is None or time.monotonic() - made[0] > METRICS_AGE_SECONDS:
                text = await self._make(which)
                if compressed:
                    text = await asyncio.to_thread(gzip.compress, text, 1)
                made = self._made[which, compressed] = (time.monotonic(), text)
        return made[1]

    async def _make(self, which: str) -> bytes:
        """Return the text; the event loop goes on between its pieces."""
        pieces = []
        for piece in self._exposition.chunks(which):
            pieces.append(piece.encode())
            await asyncio.sleep(0)
        return b"".join(pieces)


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
        text = await self.service.metrics_page.get(which, compressed=compressed)
        self.set_header("Vary", "Accept-Encoding")
        if compressed:
            self.set_header("Content-Encoding", "gzip")
        self.expose(text)
