"""The events of a run: numbered from 1, kept on disk, followed by any number of readers.

==============  =====================================
type            data
==============  =====================================
state           ``state``, ``reason``, ``detail``
cell_started    ``index``, ``cells_done``, ``cells_total``
cell_finished   ``index``, ``duration_seconds``, ``cells_done``, ``cells_total``
==============  =====================================

The last event is the `state` that the run does not leave. Events are published by the run's own thread and read on
the server's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from .models import FINAL_STATES


@dataclass(frozen=True)
class Event:
    """One event of a run; `seq` counts from 1 without gaps."""

    seq: int
    type: str
    data: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether no event follows."""
        return self.type == "state" and self.data["state"] in FINAL_STATES

    def to_sse(self) -> str:
        """Return the event in the form of server-sent events."""
        return f"id: {self.seq}\nevent: {self.type}\ndata: {json.dumps(self.data)}\n\n"


class EventFeed:
    """The events of one run, in memory and appended to a file of JSON lines."""

    def __init__(self, path: Path, events: list[Event] | None = None) -> None:
        self._path = path
        self._events = events or []
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: Path) -> EventFeed:
        """Return the feed that `path` holds; a last line that a crash cut short is dropped."""
        events: list[Event] = []
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = cast("dict[str, Any]", json.loads(line))
                events.append(Event(len(events) + 1, entry["type"], entry["data"]))
        return cls(path, events)

    def publish(self, kind: str, **data: Any) -> None:
        """Append an event and wake whoever waits; callable from any thread.

        Raises
        ------
        OSError
            The event could not be kept; readers get it all the same.
        """
        with self._lock:
            event = Event(len(self._events) + 1, kind, data)
            self._events.append(event)
            waiting, self._waiting = self._waiting, set()
        for loop, woken in waiting:
            with contextlib.suppress(RuntimeError):  # the reader's loop has been closed
                loop.call_soon_threadsafe(woken.set)
        with open(self._path, "a", opener=_private) as stream:
            # A crash may have left half a line: each event begins on a line of its own.
            stream.write("\n" + json.dumps({"type": event.type, "data": event.data}))

    async def after(self, seq: int, timeout_seconds: float) -> list[Event]:
        """Return the events behind `seq`; wait for one when there is none yet, and give up with an empty list."""
        woken = asyncio.Event()
        entry = (asyncio.get_running_loop(), woken)
        with self._lock:
            if len(self._events) > seq:
                return self._events[seq:]
            self._waiting.add(entry)
        try:
            async with asyncio.timeout(timeout_seconds):
                await woken.wait()
        except TimeoutError:
            return []
        finally:
            with self._lock:
                self._waiting.discard(entry)
        return self._events[seq:]

    def over(self, seq: int) -> bool:
        """Return whether nothing will follow the event `seq`."""
        return bool(self._events) and self._events[-1].final and seq >= len(self._events)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
