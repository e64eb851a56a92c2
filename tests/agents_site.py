"""The agents service without Hub and controller; its pages, its API, its registry and its book of tasks are real.

Agents are put into the database before it opens, and tasks into its book; nothing executes them but the test.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jupyterhub_agentfarm.agents.app import AgentsApp
from jupyterhub_agentfarm.agents.dispatch.live import LiveNotebooks
from jupyterhub_agentfarm.agents.models import Agent, AgentLimits
from jupyterhub_agentfarm.agents.pages.rendering import Renderer
from jupyterhub_agentfarm.agents.registry.hub_users import HubUsers
from jupyterhub_agentfarm.agents.registry.limits import FarmLimits
from jupyterhub_agentfarm.agents.registry.registry import Registry
from jupyterhub_agentfarm.agents.registry.store import AgentStore, KeptAgent
from jupyterhub_agentfarm.agents.registry.views import AgentViews
from jupyterhub_agentfarm.agents.tasks.book import TaskBook
from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.services import local
from jupyterhub_agentfarm.services.hub import HubClient, close_shared_client


def make_agent(name: str, owner: str = "ada", **changes: Any) -> Agent:
    """Return an agent as the registry keeps it."""
    values: dict[str, Any] = {
        "description": "", "labels": {}, "limits": AgentLimits(), "kernels": (), "projects": (), "state": "active",
        "detail": "", "created_at": time.time() - 86400, "created_by": "admin",
    }  # fmt: skip
    return Agent(name=name, owner=owner, **(values | changes))


class Farm:
    """What is known of the farm."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}
        self.leases: dict[str, Any] = {}
        self.report: dict[str, Any] = {"window_seconds": 86400 * 7, "usage": []}

    async def usage(self) -> dict[str, Any]:
        """Return the use of owners."""
        return self.report


class AgentsSite(AgentsApp):
    """The service, with agents that are there from the beginning."""

    def __init__(self, agents: Sequence[Agent], **options: Any) -> None:
        super().__init__(**options)
        self.first = agents
        self.farm = Farm()
        self.url = ""
        #: Paths of all requests.
        self.asked: list[str] = []

    def log_request(self, handler: Any) -> None:
        """Keep what was asked for."""
        self.asked.append(handler.request.path)

    @property
    def token(self) -> str:
        """The token of this machine's own account, which may do everything."""
        return local.local_token(self.runtime_path)

    async def open(self) -> None:
        """Start what pages and API need."""
        self.database = self.own(Database(self.db_url))
        await self.database.open()
        self.renderer = self.own(Renderer())
        store = AgentStore(self.database)
        for agent in self.first:
            await store.add(agent)
            await store.save(KeptAgent(agent, "ready"))
        self.hub = self.own(HubClient("http://127.0.0.1:1/hub/api", "none"))
        client = self.own(FarmClient(runtime_dir=self.runtime_dir, token="none"))
        self.registry = self.own(Registry(store, HubUsers(self.hub), FarmLimits(client)))
        await self.registry.open()
        self.book = self.own(TaskBook(self.database, Path(self.data_dir) / "agent-tasks"))
        await self.book.open()
        self.live = self.own(LiveNotebooks(self.book, None))  # type: ignore[arg-type] - no attempt has a server
        self.views = AgentViews(lambda: self.farm.leases, self.farm.usage, self.registry.left_to_do, self.book)


@asynccontextmanager
async def agents_site(
    folder: Path, agents: Sequence[Agent] = (), *, kind: type[AgentsSite] = AgentsSite
) -> AsyncIterator[AgentsSite]:
    """Serve the site on a free port."""
    site = kind(agents, runtime_dir=str(folder / "run"), data_dir=str(folder), service_url="http://127.0.0.1:0")
    try:
        await site.open()
        server = site.listen()
        site.url = local.find_service(site.runtime_path, "agents")
        yield site
        server.stop()
        await server.close_all_connections()
    finally:
        await site.close()
        await close_shared_client()
