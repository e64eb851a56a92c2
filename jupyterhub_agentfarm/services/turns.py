"""Turns at work that is expensive: so many at a time, and nobody's work holds everybody else's up.

Of one user a single piece is under way and so many wait, each for its predecessor; more are refused at once. So a turn
comes, at the latest, when every other user who waits has had one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..errors import Overloaded, TooMany


class _Line:
    """The work of one user."""

    def __init__(self) -> None:
        self.length = 0
        self.first = asyncio.Lock()


class Turns:
    """Turns at one kind of work.

    Parameters
    ----------
    what
        The work, in the plural, as in "large notebooks are read".
    places
        Pieces of work at a time.
    waiting
        Pieces of one user that may wait for that user's first one.
    seconds
        The longest wait.
    """

    def __init__(self, what: str, places: int, waiting: int = 1, seconds: float = 60.0) -> None:
        self._what, self._longest, self._seconds = what, 1 + waiting, seconds
        self._places = asyncio.Semaphore(places)
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def turn(self, user: str) -> AsyncIterator[None]:
        """Hold a turn of `user`.

        Raises
        ------
        TooMany
            As many pieces of this user's work are under way or wait as may be.
        Overloaded
            The turn did not come in time.
        """
        line = self._lines.setdefault(user, _Line())
        if line.length >= self._longest:
            raise TooMany(f"{line.length} {self._what} for you already: wait until one of them has ended")
        line.length += 1
        try:
            await self._wait(line)
            try:
                yield
            finally:
                self._places.release()
                line.first.release()
        finally:
            line.length -= 1
            if not line.length:
                self._lines.pop(user, None)

    async def _wait(self, line: _Line) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await line.first.acquire()
                try:
                    await self._places.acquire()
                except BaseException:
                    line.first.release()
                    raise
        except TimeoutError as exc:
            raise Overloaded(f"too many {self._what} at the moment: try again later") from exc
