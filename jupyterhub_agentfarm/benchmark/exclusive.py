"""Nodes that a run has for itself: drained of all others before it, and given back after it.

The mark is a drain in the controller that names the benchmark's user as the one who may still place servers there. So
it outlives this service, everybody sees why the node takes nobody, and no mark of an admin is ever lifted by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from traitlets.config import LoggingConfigurable

from ..controller.farm_watch import FarmWatch
from ..errors import AgentFarmError
from ..traitlets import Seconds
from .servers import NodeServers, Told


class FarmMarks(Protocol):
    """The part of the controller's client that is used here."""

    async def keep(self, name: str, owner: str, reason: str, deadline_seconds: float | None = None) -> dict[str, Any]:
        """Drain a node for the servers of one owner."""

    async def give_back(self, name: str, owner: str) -> dict[str, Any]:
        """End that drain, and no other mark."""


class NodeKeeper(LoggingConfigurable):
    """Keeps nodes for the benchmark's servers.

    Parameters
    ----------
    client
        The controller's client.
    farm
        The farm's newest state.
    servers
        Knows whose servers those of the benchmark are.
    """

    drain_deadline = Seconds(
        600,
        help="How long the servers of others may stay on a node that an exclusive run waits for, in seconds; they are "
        "told, and then stopped. Smaller: the run begins sooner; larger: people have longer to save their work.",
    ).tag(config=True)
    poll_interval = Seconds(0.5, help="Pause between two looks at the leases of a node, in seconds.").tag(config=True)

    def __init__(self, client: FarmMarks, farm: FarmWatch, servers: NodeServers, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._client, self._farm, self._servers = client, farm, servers

    async def drain(self, node: str, reason: str) -> None:
        """Let nobody but the benchmark onto a node from now on.

        Raises
        ------
        ConflictError
            An admin cordoned or drained it.
        FarmUnavailable
            The controller does not answer.
        """
        await self._client.keep(node, self._servers.hub_user, reason, self.drain_deadline)

    async def until_empty(self, node: str, told: Told) -> None:
        """Return when nobody else has a server on a node; `told` is given who has."""
        while not self._farm.current or (others := self._others(node)):
            if self._farm.current:
                told(f"{len(others)} {'server' if len(others) == 1 else 'servers'} of others to end")
            await asyncio.sleep(self.poll_interval)

    def _others(self, node: str) -> list[str]:
        ours = self._servers.hub_user
        return [lease["id"] for lease in self._farm.leases.values() if lease["node"] == node and lease["owner"] != ours]

    def kept(self) -> list[str]:
        """Return the nodes that are kept for the benchmark, as far as the controller told."""
        ours = self._servers.hub_user
        return sorted(name for name, view in self._farm.nodes.items() if (view["drain"] or {}).get("kept_for") == ours)

    async def give_back(self, nodes: Sequence[str]) -> list[str]:
        """Give nodes back; return a sentence for each that could not be."""
        answers = await asyncio.gather(*(self._give_back(node) for node in nodes))
        return [answer for answer in answers if answer]

    async def _give_back(self, node: str) -> str:
        try:
            await self._client.give_back(node, self._servers.hub_user)
        except AgentFarmError as exc:
            return f"node {node} could not be given back: {exc.message}"
        return ""
