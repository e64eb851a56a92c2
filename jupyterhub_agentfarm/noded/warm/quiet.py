"""A moment at which the node has processors to spare: what can wait does, for a start that cannot."""

from __future__ import annotations

import asyncio
import time

import psutil

#: The node has time when no more than this share of its processors was busy.
_BUSY_RATIO = 0.7
#: What a look at it is over, in seconds.
_LOOK_SECONDS = 0.5
#: A node that never has time is not waited for any longer, in seconds.
_LONGEST_SECONDS = 20.0


async def quiet(longest_seconds: float = _LONGEST_SECONDS) -> None:
    """Return when the node has time, or after `longest_seconds`."""
    deadline = time.monotonic() + longest_seconds
    before = _times()
    while time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
        now = _times()
        if _busy_ratio(before, now) <= _BUSY_RATIO:
            return
        before = now


def _times() -> tuple[float, float]:
    """Return the seconds that all processors together were idle, and all their seconds, since the node's boot."""
    times = psutil.cpu_times()
    return times.idle + getattr(times, "iowait", 0.0), sum(times[:8])  # what guests take is in `user` already


def _busy_ratio(before: tuple[float, float], now: tuple[float, float]) -> float:
    idle, all_of_it = (now[place] - before[place] for place in (0, 1))
    return 1 - idle / all_of_it if all_of_it > 0 else 0.0
