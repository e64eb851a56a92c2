"""``/metrics`` of the benchmark service: the exposition's texts, kept for a second each."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import ClassVar

from ..errors import InvalidField
from ..services.handlers import ServiceHandler
from .exposition import SETS, Exposition

#: How old the text of the metrics page may be.
METRICS_AGE_SECONDS = 1.0


class _Made:
    """One set's text, compressed when somebody first asks for that."""

    def __init__(self, plain: bytes) -> None:
        self.made_at = time.monotonic()
        self.plain = plain
        self._small: asyncio.Task[bytes] | None = None

    async def small(self) -> bytes:
        """Return the text compressed, off the event loop."""
        if self._small is None:
            self._small = asyncio.create_task(asyncio.to_thread(gzip.compress, self.plain, 1))
        return await asyncio.shield(self._small)


class MetricsPage:
    """The texts of the sets.

    Parameters
    ----------
    exposition
        Makes them.
    """

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._made: dict[str, _Made] = {}

    async def get(self, which: str, *, compressed: bool = False) -> bytes:
        """Return a set's text."""
        made = self._made.get(which)
        if made is None or time.monotonic() - made.made_at > METRICS_AGE_SECONDS:
            made = self._made[which] = _Made(self._exposition.text(which).encode())
        return await made.small() if compressed else made.plain


class MetricsHandler(ServiceHandler):
    """The metrics page."""

    scopes: ClassVar[dict[str, str]] = {"GET": "read:metrics"}

    async def get(self) -> None:
        """Answer a set in the text format.

        Raises
        ------
        InvalidField
            There is no such set.
        """
        which: str = self.get_query_argument("set", "hub")
        if which not in SETS:
            raise InvalidField("set", "one of " + ", ".join(SETS), which)
        compressed = "gzip" in self.request.headers.get("Accept-Encoding", "")
        text = await self.service.metrics_page.get(which, compressed=compressed)
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.set_header("Vary", "Accept-Encoding")
        if compressed:
            self.set_header("Content-Encoding", "gzip")
        await self.finish(text)

    def compute_etag(self) -> None:
        """Make none: every scrape is another text, and hashing it would take as long as making it."""
