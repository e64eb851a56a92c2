"""Whether an attempt is lost: its server does not answer, and others know why.

==============================================================  ======================
the server does not answer, and                                 the attempt is lost
==============================================================  ======================
its node is down or was removed, or its lease has ended         at once
its node is unreachable; see below                              after `loss_grace`
the Hub has no such server                                      as soon as it is asked
none of that: the way to it may be broken                       after `patience`
==============================================================  ======================

As long as the server answers, the attempt goes on, whatever is said about its node. A node is unreachable as soon as
its sshd ends, but where nothing answers only after some seconds of silence. So how long the server was silent and how
long the node has been unreachable count together: twice the grace, of which the server's part is at least one. Where
power is lost the server has been silent for long when that becomes known, and no more time is lost.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...errors import HubApiError
from ..models import TaskReason
from .farm_news import ServerEnd

#: Pause between two questions to the Hub about one server.
_HUB_SECONDS = 2.0


@dataclass(frozen=True)
class Lost:
    """Why an attempt is lost."""

    reason: TaskReason
    detail: str


class Farm(Protocol):
    """The newest state of the farm."""

    nodes: dict[str, Mapping[str, Any]]
    leases: dict[str, Mapping[str, Any]]

    @property
    def current(self) -> bool:
        """Whether the controller's events arrive."""

    def waiting_for(self, owner: str, server_name: str) -> str:
        """Return why a server's lease waits, or "" when it does not."""


class News(Protocol):
    """What the newest state does not tell."""

    def away_seconds(self, node: str) -> float:
        """Return for how long a node has been unreachable."""

    def end_of(self, owner: str, server_name: str) -> ServerEnd | None:
        """Return how a server's lease ended."""


class Models(Protocol):
    """What the Hub says of servers."""

    async def model(self, agent: str, name: str) -> dict[str, Any] | None:
        """Return the Hub's model of a server."""


@dataclass(frozen=True)
class Patience:
    """How long a silent server is waited for, in seconds."""

    #: When its node is unreachable.
    grace: float
    #: When nobody knows anything.
    otherwise: float


class LossWatch:
    """Judges one server that does not answer.

    Parameters
    ----------
    server
        Its agent and its name.
    farm, news, hub
        Whom to ask.
    patience
        How long it is waited for.
    """

    def __init__(self, server: tuple[str, str], farm: Farm, news: News, hub: Models, patience: Patience) -> None:
        self._agent, self._name = server
        self._farm, self._news, self._hub = farm, news, hub
        self._patience = patience
        self._asked_at = -_HUB_SECONDS

    def node(self) -> str | None:
        """Return the node that the server's lease is on, or was lately; None where that is not known."""
        lease = self._lease()
        if lease is None:
            end = self._news.end_of(self._agent, self._name)
            return None if end is None else end.node
        node: str | None = lease["node"]
        return node

    def _lease(self) -> Mapping[str, Any] | None:
        server = (self._agent, self._name)
        mine = (lease for lease in self._farm.leases.values() if (lease["owner"], lease["server_name"]) == server)
        return next(mine, None)

    async def verdict(self, silent_seconds: float) -> Lost | None:
        """Return why the attempt is lost, or None while it may go on.

        Parameters
        ----------
        silent_seconds
            For how long the server has not answered.
        """
        lost = self._by_farm(silent_seconds) if self._farm.current else None
        if lost is None and silent_seconds > self._patience.otherwise:
            lost = Lost("server_lost", f"its server did not answer for {silent_seconds:.0f} s")
        return lost or await self._by_hub()

    def _by_farm(self, silent_seconds: float) -> Lost | None:
        end = self._news.end_of(self._agent, self._name)
        if end is not None:
            return _ended(end)
        lease = self._lease()
        node = lease["node"] if lease is not None else None
        if node is None:
            return None
        view = self._farm.nodes.get(node)
        if view is None:
            return Lost("node_lost", f"node {node} was removed from the farm")
        if view["state"] == "down":
            return Lost("node_lost", f"node {node} is down" + (f": {view['detail']}" if view["detail"] else ""))
        if view["state"] == "unreachable" and self._is_silent_enough(node, silent_seconds):
            why = f": {view['detail']}" if view["detail"] else ""
            return Lost("node_lost", f"node {node} is unreachable, and the server there does not answer{why}")
        return None

    def _is_silent_enough(self, node: str, seconds: float) -> bool:
        grace = self._patience.grace
        return seconds >= grace and seconds + self._news.away_seconds(node) >= 2 * grace

    async def _by_hub(self) -> Lost | None:
        if time.monotonic() - self._asked_at < _HUB_SECONDS:
            return None
        self._asked_at = time.monotonic()
        try:
            model = await self._hub.model(self._agent, self._name)
        except HubApiError:
            return None
        if model is not None and (model["ready"] or model["pending"]):
            return None
        end = self._news.end_of(self._agent, self._name)
        return _ended(end) if end is not None else Lost("server_lost", "the Hub has no such server any more")


def _ended(end: ServerEnd) -> Lost:
    where = f" on {end.node}" if end.node else ""
    reason: TaskReason = "node_lost" if end.by_node else "server_lost"
    return Lost(reason, f"its server{where} ended: {end.detail or end.end or 'it was stopped'}")
