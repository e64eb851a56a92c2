"""What happened in one start, replayed to everyone who looks.

JupyterHub asks for the events once per viewer, at any time. Every viewer gets all of them from the beginning and then
the new ones, until :meth:`Progress.close`.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from typing import Any

_MAX_EVENTS = 500


def preformatted(summary: str, text: str) -> str:
    """Return `summary` and `text`, a log's last lines, as HTML in which nothing of either is markup."""
    return f'<div>{html.escape(summary)}</div><pre class="text-start">{html.escape(text)}</pre>'


class Progress:
    """The events of one start."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._more = asyncio.Event()
        self._closed = False

    def add(self, percent: int, message: str, log_tail: str = "") -> None:
        """Add an event; one that says what the last one said is left out.

        Parameters
        ----------
        percent
            How far the start is, 0-100.
        message
            Plain text; the Hub's page shows it as text.
        log_tail
            Last lines of the server's log, shown below the message.
        """
        event: dict[str, Any] = {"progress": percent, "message": message}
        if log_tail:
            event["html_message"] = preformatted(message, log_tail)
        if (self._events and self._events[-1] == event) or len(self._events) >= _MAX_EVENTS:
            return
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """Say that nothing follows; a second call does nothing."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Yield all events, those of before included, until the progress is closed."""
        index = 0
        while True:
            more = self._more
            for event in self._events[index:]:
                index += 1
                yield dict(event)
            if index == len(self._events):
                if self._closed:
                    return
                if more is self._more:
                    await more.wait()
