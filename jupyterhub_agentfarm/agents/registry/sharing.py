"""ServerSharing: an agent's owner may open its servers and watch, by the Hub's own sharing.

Servers are shared as they come to run, whoever started them: the dispatcher for a task, or the agent itself. What runs
is known from the controller's events, so the Hub is not polled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

from ...controller.farm_watch import NodeView
from ...errors import HubApiError
from ...logs import LogLine
from ...tasks import OwnedTasks
from ..models import Agent
from .hub_users import HubUsers
from .registry import Registry

log = logging.getLogger(__name__)

#: Pauses before a server is shared, in seconds; the later ones after the Hub refused or did not answer.
_PAUSES = (0.0, 1.0, 5.0, 30.0)


class ServerSharing:
    """Shares the servers of agents with their owners; an observer of the farm.

    Parameters
    ----------
    registry
        Knows the agents and their owners.
    users
        Does it at the Hub.
    """

    def __init__(self, registry: Registry, users: HubUsers) -> None:
        self._registry, self._users = registry, users
        self._owned = OwnedTasks(log)
        #: For each lease with whom its server is shared.
        self._shared: dict[str, str] = {}
        self._leases: dict[str, Mapping[str, Any]] = {}
        registry.changed.append(self.owner_changed)

    async def close(self) -> None:
        """Share nothing more; a second call does nothing."""
        await self._owned.aclose()

    # ---- the farm's events ----

    def reset(self, nodes: list[NodeView], leases: list[Mapping[str, Any]]) -> None:
        """Share what runs now."""
        self._leases.clear()
        for lease in leases:
            self.update_lease(lease)
        self._shared = {lease: owner for lease, owner in self._shared.items() if lease in self._leases}

    def update_lease(self, lease: Mapping[str, Any]) -> None:
        """Share a server that has come to run."""
        if lease["state"] == "running":
            self._leases[lease["id"]] = lease
            self._share_soon(lease)
        elif lease["state"] == "released":
            self._leases.pop(lease["id"], None)
            self._shared.pop(lease["id"], None)

    def update_node(self, node: NodeView) -> None:
        """Nothing is shared for a node."""

    def remove_node(self, name: str) -> None:
        """Nothing is shared for a node."""

    def owner_changed(self, before: Agent, after: Agent) -> None:
        """Share an agent's running servers with its new owner; that the old one loses them is the registry's care."""
        if before.owner != after.owner:
            for lease in list(self._leases.values()):
                if lease["owner"] == after.name:
                    self._share_soon(lease, anew=True)

    # ---- sharing ----

    def _share_soon(self, lease: Mapping[str, Any], *, anew: bool = False) -> None:
        agent = self._registry.find(lease["owner"])
        if agent is not None and agent.state == "active" and self._shared.get(lease["id"]) != agent.owner:
            self._owned.start_single(self._share(lease["id"]), f"sharing {lease['id']}", replace=anew)

    async def _share(self, lease_id: str) -> None:
        for pause in _PAUSES:
            await asyncio.sleep(pause)
            lease = self._leases.get(lease_id)
            agent = None if lease is None else self._registry.find(lease["owner"])
            if lease is None or agent is None or agent.state != "active":
                return
            server = f"{agent.name}/{lease['server_name']}"
            if await self._try(server, agent.owner, self._users.share(agent.name, lease["server_name"], agent.owner)):
                self._shared[lease_id] = agent.owner
                log.info("%s", LogLine("server shared", server=server, user=agent.owner))
                return

    async def _try(self, server: str, user: str, work: Awaitable[None]) -> bool:
        """Do something about a share; return whether it was done."""
        try:
            await work
        except HubApiError as exc:
            log.warning("%s", LogLine("share not changed", server=server, user=user, detail=exc.message))
            return False
        return True
