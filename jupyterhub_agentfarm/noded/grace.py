"""How long a server may take to end by itself, while others may grow less patient."""

from __future__ import annotations

import asyncio


class Grace:
    """A time that runs from the moment it is waited out and can only become shorter.

    Parameters
    ----------
    seconds
        How long it is.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout: asyncio.Timeout | None = None

    def shorten(self, seconds: float) -> None:
        """Let it be over `seconds` from now at the latest; while nobody waits, `seconds` after somebody does."""
        self._seconds = min(self._seconds, seconds)
        # One that is just expiring cannot be rescheduled, and need not be.
        if self._timeout is not None and not self._timeout.expired():
            until = asyncio.get_running_loop().time() + seconds
            before = self._timeout.when()
            self._timeout.reschedule(until if before is None else min(before, until))

    async def wait(self, ended: asyncio.Event) -> None:
        """Return when `ended` is set, or when the grace is over."""
        try:
            async with asyncio.timeout(self._seconds) as self._timeout:
                await ended.wait()
        except TimeoutError:
            return
        finally:
            self._timeout = None
