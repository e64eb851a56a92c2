"""Units are parsed once, here: the rest of the code sees bytes and seconds."""

from __future__ import annotations

import re
from typing import Any

from traitlets import Float, HasTraits, Integer, TraitError

_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str) -> int:
    """Return the bytes that `"512"`, `"1.5G"` or `"80GiB"` stand for (powers of 1024, as JupyterHub counts).

    Raises
    ------
    ValueError
        The text is not a number with an optional unit K, M, G or T.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(f"{text!r} is not a size such as 512M or 1.5G")
    return int(float(match[1]) * _BYTES[match[2].upper()])


def parse_seconds(text: str) -> float:
    """Return the seconds that `"90"`, `"500ms"`, `"15m"` or `"4h"` stand for.

    Raises
    ------
    ValueError
        The text is not a number with an optional unit ms, s, m, h or d.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)\s*", text)
    if not match:
        raise ValueError(f"{text!r} is not a duration such as 30s, 15m or 4h")
    return float(match[1]) * _SECONDS[match[2]]


class ByteSize(Integer):  # type: ignore[type-arg]
    """A number of bytes: an int, or a string such as `"8G"`."""

    info_text = "a size in bytes, or a string with a unit such as '512M' or '8G'"

    def validate(self, obj: HasTraits, value: Any) -> int:
        """Return `value` in bytes."""
        if isinstance(value, str):
            try:
                value = parse_bytes(value)
            except ValueError:
                self.error(obj, value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.error(obj, value)
        return int(value)

    def from_string(self, s: str) -> int:
        """Parse a command line's value."""
        return parse_bytes(s)


class Seconds(Float):  # type: ignore[type-arg]
    """A duration in seconds: a number, or a string such as `"500ms"`, `"15m"`, `"4h"`."""

    info_text = "a duration in seconds, or a string with a unit such as '500ms', '15m' or '4h'"

    def validate(self, obj: HasTraits, value: Any) -> float:
        """Return `value` in seconds."""
        if isinstance(value, str):
            try:
                value = parse_seconds(value)
            except ValueError:
                self.error(obj, value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            self.error(obj, value)
        return float(value)

    def from_string(self, s: str) -> float:
        """Parse a command line's value."""
        return parse_seconds(s)


__all__ = ["ByteSize", "Seconds", "TraitError", "parse_bytes", "parse_seconds"]
