"""What the doctor says: one finding per check, each with its mend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    #: What was checked, as in "proxy" or "node micro-1: clock".
    check: str
    level: Level
    #: What was found.
    message: str
    #: What to do about it, in a sentence; "" when it is fine.
    mend: str = ""


def ok(check: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, "ok", message)


def warn(check: str, message: str, mend: str) -> Finding:
    """Return a finding that works for now."""
    return Finding(check, "warn", message, mend)


def fail(check: str, message: str, mend: str) -> Finding:
    """Return a finding that stops the farm, or a part of it."""
    return Finding(check, "fail", message, mend)
