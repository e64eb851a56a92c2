"""Where exceptions that nobody foresaw end: at the edge of a loop, a request or a thread; and what is undone then.

It is written once, here, so that every other ``except`` can name what it expects.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self


class Edge:
    """What is done within may fail in any way: that is logged and kept, and what comes after goes on.

    The ends that are asked for, such as a cancellation, pass.

    Parameters
    ----------
    log
        Where a fault is written, with its traceback.
    sentence
        What is written: what failed, and what comes of it.
    expected
        Exceptions that are no faults and pass as well.
    """

    def __init__(
        self,
        log: logging.Logger | logging.LoggerAdapter[Any],
        sentence: str,
        expected: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        self._log, self._sentence, self._expected = log, sentence, expected
        #: What was raised; None while nothing was.
        self.fault: Exception | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, raised: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        """Log and keep what was raised; return whether it ends here."""
        if not isinstance(raised, Exception) or isinstance(raised, self._expected):
            return False
        self.fault = raised
        self._log.error(self._sentence, exc_info=raised)
        return True


@asynccontextmanager
async def undone(undo: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Undo what was begun when the rest of it fails; a cancellation is no failure: whoever comes next takes it up.

    Parameters
    ----------
    undo
        Done before the failure goes on.
    """
    try:
        yield
    except Exception:
        await undo()
        raise
