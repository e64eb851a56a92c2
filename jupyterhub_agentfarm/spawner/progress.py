"""What happened in one start, replayed to everyone who looks.

JupyterHub asks for the events once per viewer, at any time. Every viewer gets all of them from the beginning and then
the new ones, until :meth:`Progress.close`. Of a start with very many, the first are dropped.
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator
from typing import Any

_MAX_EVENTS = 500


#: What a terminal would take for a command, and every other control character but tab and newline.
_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def preformatted(summary: str, text: str) -> str:
    """Return `summary` and `text`, a log's last lines, as HTML in which nothing of either is markup.

    Colours and other commands for terminals are left out.
    """
    shown = html.escape(_CONTROLS.sub("", text))
    return f'<div>{html.escape(_CONTROLS.sub("", summary))}</div><pre class="text-start">{shown}</pre>'


class Progress:
    """The events of one start."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        #: How many were dropped from the front.
        self._dropped = 0
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
        if self._events and self._events[-1] == event:
            return
        self._events.append(event)
        if len(self._events) > _MAX_EVENTS:  # a day in the line: its latest position is what is looked for
            del self._events[0]
            self._dropped += 1
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
            while index < self._dropped + len(self._events):
                index = max(index, self._dropped)
                event = self._events[index - self._dropped]
                index += 1
                yield dict(event)
            if self._closed:
                return
            if more is self._more:
                await more.wait()
