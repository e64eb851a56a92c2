"""RunLanes: the runs that wait and those that execute, a thread each, some at a time."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import threading
from collections import deque
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from .execution import Execution

#: How often the server is told that it is not idle, in seconds.
ACTIVITY_INTERVAL_SECONDS = 5
#: How long `close` waits for the kernels to be gone, in seconds.
_CLOSE_SECONDS = 10


@dataclass
class RunLanes:
    """Executes some runs at a time, in the order in which they came.

    All methods but `close` belong to the server's event loop.

    Parameters
    ----------
    most
        How many execute at once.
    activity
        The server's mapping of what was active to when.
    ended
        Called with the id of a run whose thread has ended.
    """

    most: int
    activity: MutableMapping[str, Any]
    ended: Callable[[str], None]

    def __post_init__(self) -> None:
        """Begin with none."""
        self._waiting: deque[tuple[str, Execution]] = deque()
        self._executing: dict[str, tuple[Execution, threading.Thread]] = {}
        self._staying_active: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, run_id: str, execution: Execution) -> None:
        """Have a run wait for its turn, which may be now."""
        self._waiting.append((run_id, execution))
        self._advance()

    def withdraw(self, run_id: str) -> bool:
        """Take a run out that waits; return whether it did."""
        kept = [each for each in self._waiting if each[0] != run_id]
        waited = len(kept) < len(self._waiting)
        self._waiting = deque(kept)
        return waited

    def stop(self, run_id: str) -> None:
        """Have a run end as cancelled, if it executes."""
        if run_id in self._executing:
            self._executing[run_id][0].stop("cancelled")

    def close(self) -> list[str]:
        """Stop everything that executes; return the ids of those that waited when the kernels are gone."""
        self._closed = True
        waited = [run_id for run_id, _ in self._waiting]
        self._waiting.clear()
        executing = list(self._executing.values())
        for execution, _ in executing:
            execution.stop("server_stopped")
        for _, thread in executing:
            thread.join(_CLOSE_SECONDS)
        self._executing.clear()
        return waited

    def _advance(self) -> None:
        """Start waiting runs as long as there is room."""
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._executing) < self.most and not self._closed:
            self._start(*self._waiting.popleft(), loop)
        if self._executing and self._staying_active is None:
            self._staying_active = asyncio.create_task(self._stay_active())

    def _start(self, run_id: str, execution: Execution, loop: asyncio.AbstractEventLoop) -> None:
        def carry_out() -> None:
            execution.run()
            with contextlib.suppress(RuntimeError):  # the server's loop has been closed
                loop.call_soon_threadsafe(self._ended, run_id)

        thread = threading.Thread(target=carry_out, name=f"run {run_id}", daemon=True)
        self._executing[run_id] = (execution, thread)
        thread.start()

    def _ended(self, run_id: str) -> None:
        self._executing.pop(run_id, None)
        self.ended(run_id)
        self._advance()

    async def _stay_active(self) -> None:
        """Keep the server from looking idle while runs execute."""
        try:
            while self._executing:
                self.activity["agentfarm_runs"] = dt.datetime.now(dt.UTC)
                await asyncio.sleep(ACTIVITY_INTERVAL_SECONDS)
        finally:
            self._staying_active = None
