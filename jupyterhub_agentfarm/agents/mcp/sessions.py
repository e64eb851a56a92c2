"""How many sessions each user has open.

The SDK bounds the sessions of all together and tells nobody whose they are. So they are counted here by what passes:
a session is there from the answer that opened it until one that ends it, or until it was idle for as long as the SDK
lets it be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import TooMany


class _Session:
    """A session that is open, or about to be."""

    def __init__(self, user: str) -> None:
        self.user = user
        #: Requests that are under way.
        self.requests = 0
        #: When the last one ended, in the loop's time.
        self.used_at = 0.0


class Use:
    """What came of one request."""

    #: The session that the answer named.
    opened = ""
    #: Whether the request's session is no more.
    ended = False


class UserSessions:
    """The open sessions by user.

    Parameters
    ----------
    most
        Sessions of one user.
    idle_seconds
        After so long without a request a session has ended.
    """

    def __init__(self, most: int, idle_seconds: float) -> None:
        self._most, self._idle_seconds = most, idle_seconds
        self._sessions: dict[str, _Session] = {}
        self._opening: list[_Session] = []

    @contextmanager
    def opening(self, user: str) -> Iterator[Use]:
        """Count a request of `user` that opens a session, and the session, if it was opened.

        Raises
        ------
        TooMany
            The user has as many as one may have.
        """
        self._forget_idle()
        mine = [each for each in (*self._sessions.values(), *self._opening) if each.user == user]
        if len(mine) >= self._most:
            raise TooMany(
                f"you have {len(mine)} MCP sessions open, as many as one user may have: end one, or wait until one "
                f"was idle for {self._idle_seconds:.0f} s"
            )
        session, use = _Session(user), Use()
        self._opening.append(session)
        try:
            yield use
        finally:
            self._opening.remove(session)
            session.used_at = self._now()
            if use.opened:
                self._sessions[use.opened] = session

    @contextmanager
    def using(self, name: str, user: str) -> Iterator[Use]:
        """Note that a session of `user` is in use, and that it has ended, if it has."""
        session, use = self._sessions.get(name), Use()
        if session is None or session.user != user:
            yield use
            return
        session.requests += 1
        try:
            yield use
        finally:
            session.requests -= 1
            session.used_at = self._now()
            if use.ended:
                self._sessions.pop(name, None)

    def _forget_idle(self) -> None:
        oldest = self._now() - self._idle_seconds
        for name, session in list(self._sessions.items()):
            if not session.requests and session.used_at < oldest:
                del self._sessions[name]

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
