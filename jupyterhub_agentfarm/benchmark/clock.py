"""Moments that outlive a restart of the service: how much time passed is told by a clock that nobody sets.

Within one start of the machine, the time between two moments is that of the clock that counts from the start, suspends
included; over a restart of the machine there is only the wall clock.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path

from .models import Moment

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def moment() -> Moment:
    """Return now."""
    return Moment(time.time(), _boot_id(), time.clock_gettime(_clock()))


def seconds_between(earlier: Moment, later: Moment) -> float:
    """Return the seconds from one moment to another, never less than 0."""
    if earlier.boot_id and earlier.boot_id == later.boot_id:
        return max(0.0, later.boot_seconds - earlier.boot_seconds)
    return max(0.0, later.at - earlier.at)


def seconds_since(earlier: Moment) -> float:
    """Return the seconds since a moment."""
    return seconds_between(earlier, moment())


@functools.cache
def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # not Linux: then only the wall clock counts
        return ""


def _clock() -> int:
    return int(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
