"""GPU-hours: how much each owner has used within a window, without looking at the history for each question.

What an owner has used until a time is a curve: it begins at 0, grows by one GPU-second a second for each GPU held, and
bends where a lease is granted or released. What was used within a window is the difference of two of its points, each
found by bisection; a bend is added when a lease is granted or released, and the bends before the window are dropped.
The database is read once, when the book of leases is opened.

A clock that was set back adds bends before the last ones: then the curve is drawn anew from there, and says what the
times written in the leases say.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import QuotaExceeded
from ..models import Lease

#: For `UsageBook`, in seconds.
WEEK_SECONDS = 7 * 86400.0
HOUR_SECONDS = 3600.0


class Curve:
    """GPU-seconds used until a time: does not fall, and is straight between its bends."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._totals: list[float] = []
        self._slopes: list[int] = []

    def bend(self, at: float, gpus: int) -> None:
        """Let this many more GPUs (fewer when below 0) be held from `at` on."""
        index = bisect_right(self._times, at)
        self._totals.insert(index, self.until(at))
        self._slopes.insert(index, self._slopes[index - 1] if index else 0)
        self._times.insert(index, at)
        for later in range(index, len(self._times)):
            self._slopes[later] += gpus
            if later > index:
                passed = self._times[later] - self._times[later - 1]
                self._totals[later] = self._totals[later - 1] + self._slopes[later - 1] * passed

    def until(self, time: float) -> float:
        """Return the GPU-seconds used until `time`."""
        index = bisect_right(self._times, time) - 1
        if index < 0:
            return self._totals[0] if self._totals else 0.0
        return self._totals[index] + self._slopes[index] * (time - self._times[index])

    def reached(self, total: float) -> float:
        """Return the first time at which this much, less than all, had been used."""
        index = max(bisect_left(self._totals, total) - 1, 0)
        slope = self._slopes[index]
        return self._times[index] + (total - self._totals[index]) / slope if slope else self._times[index]

    def forget(self, before: float) -> None:
        """Drop the bends that no difference from `before` on depends on."""
        index = bisect_right(self._times, before) - 1
        if index > 0:
            del self._times[:index], self._totals[:index], self._slopes[:index]

    @property
    def gpus(self) -> int:
        """GPUs held after the last bend."""
        return self._slopes[-1] if self._slopes else 0


@dataclass(frozen=True, slots=True)
class Used:
    """A stretch of the history: an owner's GPUs from the grant to the release, None while they are held."""

    lease: str
    owner: str
    gpus: int
    granted_at: float
    released_at: float | None
    groups: tuple[str, ...] = ()


def used_by(lease: Lease) -> Used | None:
    """Return what a lease uses or used of GPUs, or None."""
    if lease.granted_at is None or not lease.gpus:
        return None
    ended = None if lease.alive else lease.released_at
    return Used(lease.id, lease.owner, len(lease.gpus), lease.granted_at, ended, lease.request.groups)


class UsageBook:
    """What every owner used of GPUs lately.

    Parameters
    ----------
    window_seconds
        How far back it is asked for.
    """

    def __init__(self, window_seconds: float = WEEK_SECONDS) -> None:
        self.window_seconds = window_seconds
        self._curves: dict[str, Curve] = {}
        self._open: set[tuple[str, str]] = set()
        self._groups: dict[str, tuple[str, ...]] = {}

    def note(self, used: Used) -> None:
        """Take in a grant or a release; the same grant again changes nothing. A release is told once."""
        self._groups[used.owner] = used.groups or self._groups.get(used.owner, ())
        curve = self._curves.setdefault(used.owner, Curve())
        opened = used.owner, used.lease
        if opened not in self._open:
            curve.bend(used.granted_at, used.gpus)
            self._open.add(opened)
        if used.released_at is not None:
            curve.bend(max(used.granted_at, used.released_at), -used.gpus)
            self._open.discard(opened)

    def gpu_seconds(self, owner: str, now: float) -> float:
        """Return the GPU-seconds that an owner used within the window that ends now."""
        curve = self._curves.get(owner)
        if curve is None:
            return 0.0
        curve.forget(now - 2 * self.window_seconds)  # a clock that is set back a little finds them still
        return curve.until(now) - curve.until(now - self.window_seconds)

    def falls_to(self, owner: str, gpu_seconds: float, now: float) -> float:
        """Return when no more than this much will count for an owner who uses nothing from now on; now or later."""
        curve = self._curves.get(owner)
        if curve is None or self.gpu_seconds(owner, now) <= gpu_seconds:
            return now
        return max(now, curve.reached(curve.until(now) - gpu_seconds) + self.window_seconds)

    def frees_at(self, owner: str, max_gpu_hours: float, now: float) -> float | None:
        """Return when an owner at this limit has an hour of it again, or all of a smaller one; None: never.

        Who uses nothing more until then has it then; who is below the limit has it now.
        """
        if max_gpu_hours <= 0:
            return None
        if self.gpu_seconds(owner, now) < max_gpu_hours * HOUR_SECONDS:
            return now
        return self.falls_to(owner, (max_gpu_hours - min(1.0, max_gpu_hours)) * HOUR_SECONDS, now)

    def owners(self, now: float) -> list[str]:
        """Return those who used something within the window, by name; forget those of before."""
        for owner in [name for name, curve in self._curves.items() if not curve.gpus and not self._lately(name, now)]:
            del self._curves[owner]
            self._groups.pop(owner, None)
        return sorted(self._curves)

    def groups(self, owner: str) -> tuple[str, ...]:
        """Return the groups that an owner was in at the latest grant."""
        return self._groups.get(owner, ())

    def check(self, owner: str, max_gpu_hours: float | None, now: float, called: str | None = None) -> None:
        """Refuse an owner who is at the limit.

        Parameters
        ----------
        called
            What the sentence calls the owner; None: by the name.

        Raises
        ------
        QuotaExceeded
            The limit is reached; it says what was used and when an hour is free again.
        """
        used = self.gpu_seconds(owner, now)
        if max_gpu_hours is None or used < max_gpu_hours * HOUR_SECONDS:
            return
        free_hours, frees_at = min(1.0, max_gpu_hours), self.frees_at(owner, max_gpu_hours, now)
        facts = {"quota": "gpu_hours", "used": used / HOUR_SECONDS, "limit": max_gpu_hours, "frees_at": frees_at}
        raise QuotaExceeded(_sentence(called or owner, self.window_seconds, facts, free_hours), facts)

    def _lately(self, owner: str, now: float) -> bool:
        return self.gpu_seconds(owner, now) > 0


def brute_force(history: Iterable[Used], owner: str, window_seconds: float, now: float) -> float:
    """Return what :meth:`UsageBook.gpu_seconds` must, by looking at everything: for tests and for audits."""
    total = 0.0
    for used in history:
        if used.owner == owner:
            ended = now if used.released_at is None else max(used.granted_at, used.released_at)
            total += used.gpus * max(0.0, min(ended, now) - max(used.granted_at, now - window_seconds))
    return total


def _sentence(owner: str, window_seconds: float, facts: dict[str, object], free_hours: float) -> str:
    window = f"{window_seconds / 86400:.3g} days" if window_seconds >= 2 * 86400 else f"{window_seconds / 3600:.3g} h"
    said = f"{owner} used {facts['used']:.1f} of {facts['limit']:g} GPU-hours in {window}"
    frees_at = facts["frees_at"]
    if not isinstance(frees_at, float):
        return f"{said}: no server with a GPU is allowed"
    when = dt.datetime.fromtimestamp(frees_at, dt.UTC)
    return f"{said}: {free_hours:g} h is free again on {when:%A %d %B %H:%M} UTC, if nothing more is used until then"
