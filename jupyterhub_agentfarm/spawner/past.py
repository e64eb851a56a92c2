"""What a user's earlier server came to, kept beside the spawner's state until the user has seen it.

::

    the server ends by itself ─▶ Ending in the spawner's state ─▶ first line of the next start's progress
                                                             └──▶ the next page of the Hub, once (:mod:`.notices`)

It is in the Hub's database: a restart of the Hub loses neither the sentence nor how often a server was started again.
What the user asked for, a stop or a start that failed in front of them, is no such ending.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InvalidField
from ..models import Lease, LeaseEnd
from ..records import from_json, to_json

_KEY = "past"
_DAY_SECONDS = 86400
#: Ends that the user, or the Hub for them, asked for.
_ASKED_FOR = {"stopped", "withdrawn", "not_started"}
#: Pages within this time of the first one that showed a sentence show it too: a page may be several requests.
_LINGER_SECONDS = 3.0


@dataclass(frozen=True)
class Ending:
    """How a server ended."""

    lease: str
    end: LeaseEnd
    #: What happened, as in "node gpu01 is down".
    detail: str
    at: float
    #: What is done about it; "" when the user has to.
    then: str = ""
    #: When a page showed it first.
    shown_at: float | None = None

    def sentence(self) -> str:
        """Say it to the server's user, as plain text."""
        form = "%H:%M" if time.time() - self.at < _DAY_SECONDS else "%Y-%m-%d %H:%M"
        when = time.strftime(form, time.localtime(self.at))
        return f"Your last server ended: {self.detail} ({when})" + (f"; {self.then}" if self.then else "")

    def due(self, now: float) -> bool:
        """Whether a page should show it now."""
        return self.shown_at is None or 0 <= now - self.shown_at < _LINGER_SECONDS


@dataclass(frozen=True)
class Past:
    """What is remembered of the servers of one name."""

    ending: Ending | None = None
    #: When a server of this name was started again without being asked for.
    restarts: tuple[float, ...] = ()

    def ended(self, ending: Ending) -> Past:
        """Return the past with a newer ending."""
        return replace(self, ending=ending)

    def shown(self, now: float) -> Past:
        """Return the past whose ending was shown."""
        if self.ending is None or self.ending.shown_at is not None:
            return self
        return replace(self, ending=replace(self.ending, shown_at=now))

    def restarted(self, now: float, window_seconds: float) -> Past:
        """Return the past with one restart more; those of before the window are forgotten."""
        return replace(self, restarts=(*self.restarts_within(now, window_seconds), now))

    def restarts_within(self, now: float, window_seconds: float) -> tuple[float, ...]:
        """Return when servers were started again lately."""
        return tuple(at for at in self.restarts if now - at < window_seconds)

    def state(self) -> dict[str, Any]:
        """Return what is added to the spawner's state: nothing when there is nothing."""
        return {} if self == Past() else {_KEY: to_json(self)}


def past_of(state: Mapping[str, Any] | None) -> Past:
    """Return what a spawner's state remembers; what another version wrote and this one cannot read is nothing."""
    try:
        return from_json(Past, (state or {}).get(_KEY) or {})
    except InvalidField:
        return Past()


def ending_of(lease_id: str, lease: Lease | None, now: float) -> Ending | None:
    """Return how the server of a lease ended, or None when it did not, or was asked to.

    Parameters
    ----------
    lease_id
        Its lease.
    lease
        The lease as last heard of; None: the controller does not know it any more.
    now
        The Hub's clock.
    """
    if lease is None:
        return Ending(lease_id, "unknown", "the controller lost its lease", now)
    exit_ = lease.server.exit if lease.server is not None else None
    if lease.end in _ASKED_FOR or (lease.alive and exit_ is None):
        return None
    end: LeaseEnd = lease.end or (exit_.cause if exit_ is not None else "unknown")
    detail = lease.detail if not lease.alive or exit_ is None else exit_.sentence()
    return None if end == "stopped" else Ending(lease_id, end, detail, lease.released_at or now)
