"""Numbers for people: sizes, shares, ages. What is not known is shown as "-", never as 0."""

from __future__ import annotations

UNKNOWN = "-"


def size(value: float | None) -> str:
    """Return bytes as in ``1.5G`` (powers of 1024)."""
    if value is None:
        return UNKNOWN
    for unit in ("", "K", "M", "G"):
        if value < 1024:
            return f"{value:.0f}{unit}" if value >= 10 or not unit else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def share(value: float | None) -> str:
    """Return a ratio of 0-1 as a percentage."""
    return UNKNOWN if value is None else f"{value:.0%}"


def number(value: float | None, unit: str = "", digits: int = 2) -> str:
    """Return a number with its unit."""
    return UNKNOWN if value is None else f"{value:.{digits}f}{unit}"


def age(at: float | None, now: float) -> str:
    """Return how long ago a time was, in its largest unit."""
    return UNKNOWN if at is None else duration(max(0.0, now - at))


def duration(seconds: float) -> str:
    """Return seconds as in ``42s``, ``15m``, ``4h``, ``3d``."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f}{name}"
    return f"{seconds / 86400:.0f}d"
