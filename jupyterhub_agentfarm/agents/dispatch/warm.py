"""Servers that wait for their agent's next task, so that it begins without a start.

A warm server is given up when its time is over, when somebody waits in the controller's line for what it may hold,
when its agent's limits keep another task back, and when its lease ends or its node takes no servers any more: a task is
not begun on a node that is down, cordoned or drained.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from traitlets import Integer
from traitlets.config import LoggingConfigurable

from ...models import UserOptions
from ...traitlets import Seconds


class Stopping(Protocol):
    """Who stops servers."""

    def stop(self, agent: str, name: str) -> None:
        """Have a server end."""


@dataclass(frozen=True)
class Warm:
    """A server that waits."""

    agent: str
    name: str
    options: UserOptions
    timer: asyncio.TimerHandle


class WarmServers(LoggingConfigurable):
    """The servers that wait for a task.

    Parameters
    ----------
    servers
        Stops those that waited long enough.
    """

    keep_warm = Seconds(
        30,
        help="How long a task's server waits for the agent's next task with equal options, in seconds. Longer saves "
        "more starts of some seconds each; shorter leaves cores and GPUs idle for less. While somebody waits in the "
        "controller's line, no server waits. 0: each task has a server of its own.",
    ).tag(config=True)
    max_warm = Integer(
        8, min=0, help="Most servers that wait for a task at a time. More save more starts and leave more idle."
    ).tag(config=True)

    def __init__(self, servers: Stopping, **options: Any) -> None:
        super().__init__(**options)
        self._servers = servers
        self._warm: dict[tuple[str, str], Warm] = {}
        #: The nodes of those that may be used now.
        self._nodes: dict[tuple[str, str], str] = {}

    def __iter__(self) -> Any:
        """Give the servers that wait, the oldest first."""
        return iter(list(self._warm.values()))

    async def aclose(self) -> None:
        """Wait for nothing any more; servers are left, for the next service to stop. A second call does nothing."""
        for warm in self._warm.values():
            warm.timer.cancel()
        self._warm.clear()
        self._nodes.clear()

    def keep(self, agent: str, name: str, options: UserOptions) -> None:
        """Have a server wait, or end where there are enough."""
        if not self.keep_warm or len(self._warm) >= self.max_warm:
            self._servers.stop(agent, name)
            return
        timer = asyncio.get_running_loop().call_later(self.keep_warm, self.drop, agent, name)
        self._warm[agent, name] = Warm(agent, name, _anywhere(options), timer)

    def look(self, leases: Iterable[Mapping[str, Any]], nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """Take how the farm is: end what waits in vain, and know what may be used until the next look.

        Parameters
        ----------
        leases, nodes
            As the controller tells them.
        """
        known = {(lease["owner"], lease["server_name"]): lease for lease in leases}
        self._nodes.clear()
        for server in list(self._warm):
            lease = known.get(server)
            node = nodes.get(lease["node"] or "") if lease is not None else None
            if lease is None or node is None or not node["eligible"] or lease["state"] not in ("granted", "running"):
                self.drop(*server)
            elif lease["state"] == "running":
                self._nodes[server] = lease["node"]

    def find(self, agent: str, options: UserOptions) -> str | None:
        """Return the name of a server of the agent that was started with these options, and that may be used.

        One on a node that the options avoid will not do.
        """
        wanted = agent, _anywhere(options)
        usable = (self._warm[server] for server, node in self._nodes.items() if node not in options.avoid)
        return next((warm.name for warm in usable if (warm.agent, warm.options) == wanted), None)

    def take(self, agent: str, name: str) -> None:
        """Have a server wait no more, because a task uses it."""
        self._nodes.pop((agent, name), None)
        warm = self._warm.pop((agent, name), None)
        if warm is not None:
            warm.timer.cancel()

    def drop(self, agent: str, name: str) -> None:
        """End a server that waits."""
        if (agent, name) in self._warm:
            self.take(agent, name)
            self._servers.stop(agent, name)

    def drop_of(self, agents: set[str] | None) -> None:
        """End the servers of these agents that wait; None: all."""
        for warm in list(self._warm.values()):
            if agents is None or warm.agent in agents:
                self.drop(warm.agent, warm.name)


def _anywhere(options: UserOptions) -> UserOptions:
    """Return options without the nodes to avoid, which are of one task and not of what its server is."""
    return replace(options, avoid=())
