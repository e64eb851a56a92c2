"""Services of the farm that ended are started again at once.

The Hub looks after the services that it manages every 30 s, which cannot be configured. Whoever notices the end
earlier has the Hub look now; what it then does is its own. The controller's end is noticed by the one who follows its
events; the others' by looking every second, which asks the system about a process and nobody else. One that ends again
and again, such as one whose database is down, is started with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ..faults import Edge

#: Name of the controller's service.
SERVICE = "agentfarm"
#: Names of the others that the farm has.
OTHERS = ("agents", "benchmark")
_LOOK_SECONDS = 1.0
#: Pauses before one that ended is started again: none the first time, then this one, and each twice the last.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
#: One that lived this long is well: its next end is a first one.
_WELL_SECONDS = 60.0


class Revival:
    """Has the Hub start one service again when its process has ended, with a pause that doubles as long as it fails."""

    def __init__(self) -> None:
        self._spawner: Any = None
        self._began_at = 0.0
        self._ended_at: float | None = None
        self._pause = 0.0

    async def look(self, spawner: Any, now: float) -> None:
        """Look at the process; the Hub makes a new spawner for each.

        Parameters
        ----------
        spawner
            The Hub's, of the service.
        now
            Seconds of a clock that is never set.
        """
        if spawner is not self._spawner:
            self._spawner, self._began_at, self._ended_at = spawner, now, None
        if await spawner.poll() is None:
            if now - self._began_at >= _WELL_SECONDS:
                self._pause = 0.0
            return
        if self._ended_at is None:
            self._ended_at = now
        if now - self._ended_at >= self._pause:
            self._pause = min(max(2 * self._pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            await spawner.poll_and_notify()


async def look_after_controller(settings: Mapping[str, Any]) -> None:
    """Have the Hub start the controller again if it manages it and its process has ended.

    Parameters
    ----------
    settings
        The Hub's settings.
    """
    if (spawner := _managed(settings, SERVICE)) is not None:
        await spawner.poll_and_notify()


async def look_after_others(settings: Mapping[str, Any], log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    """Have the Hub start the farm's other services again whenever one of their processes has ended; never returns.

    Parameters
    ----------
    settings
        The Hub's settings.
    log
        Where it is written when the Hub cannot start one.
    """
    revivals: dict[str, Revival] = defaultdict(Revival)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for name in OTHERS:
            with Edge(log, f"the Hub could not start its service {name} again"):
                if (spawner := _managed(settings, name)) is not None:
                    await revivals[name].look(spawner, time.monotonic())


def _managed(settings: Mapping[str, Any], name: str) -> Any:
    """Return the spawner of a service that is the Hub's to start, or None."""
    service = settings.get("services", {}).get(name)
    # A service without a spawner is not managed, or not started yet; without a server, the Hub has stopped it.
    spawner = getattr(service, "spawner", None)
    return None if spawner is None or service.server is None else spawner
