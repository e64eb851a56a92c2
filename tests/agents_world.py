"""A registry between JupyterHub's own mock of itself, with its real REST API, and a real controller without nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controllers import controller
from mock_hub import HubApi, MemoryProxy, serving

from jupyterhub_agentfarm.agents.registry.hub_users import HubUsers
from jupyterhub_agentfarm.agents.registry.limits import FarmLimits
from jupyterhub_agentfarm.agents.registry.registry import Registry
from jupyterhub_agentfarm.agents.registry.store import AgentStore
from jupyterhub_agentfarm.configure import CUSTOM_SCOPES
from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import OwnerLimits
from jupyterhub_agentfarm.service_roles import agent_roles
from jupyterhub_agentfarm.services.hub import HubClient

SERVICE_TOKEN = "the-token-of-the-agents-service"


def hub_config(directory: Path, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the configuration of a Hub with the agents service and its roles."""
    config: dict[str, dict[str, Any]] = {
        "JupyterHub": {
            "proxy_class": MemoryProxy,
            "cookie_secret_file": str(directory / "cookie_secret"),
            "cleanup_servers": False,
            "cleanup_proxy": False,
            "custom_scopes": {scope: {"description": text} for scope, text in CUSTOM_SCOPES.items()},
            "load_roles": agent_roles(("weather",)),
            "load_groups": {"weather": {"users": []}},
            "services": [{"name": "agents", "api_token": SERVICE_TOKEN}, {"name": "agentfarm"}],
        },
    }
    for name, options in sections.items():
        config[name] = config.get(name, {}) | options
    return config


@dataclass
class World:
    """Hub and controller, and the parts of registries between them."""

    directory: Path
    hub: HubApi
    farm: FarmClient
    client: HubClient
    #: Seconds since the epoch, as the registries see them.
    now: list[float] = field(default_factory=lambda: [1_000_000.0])
    #: Of the registries' database; SQLite's when there is none.
    database_url: str = ""

    @asynccontextmanager
    async def registry(
        self,
        users: Callable[[HubClient], HubUsers] = HubUsers,
        limits: Callable[[FarmClient], FarmLimits] = FarmLimits,
        store: Callable[[Database], AgentStore] = AgentStore,
        **options: Any,
    ) -> AsyncIterator[Registry]:
        """Run one life of a registry on the world's one database."""
        database = Database(self.database_url or f"sqlite:///{self.directory / 'agents.sqlite'}")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database.aclose)
            await database.open()
            parts = (store(database), users(self.client), limits(self.farm))
            registry = Registry(*parts, clock=lambda: self.now[0], **options)
            stack.push_async_callback(registry.close)
            await registry.open()
            yield registry

    async def at_hub(self, name: str) -> bool:
        """Whether the Hub has a user of this name."""
        return (await self.hub.ask("GET", f"/users/{name}"))[0] == 200

    async def limits_of(self, name: str) -> OwnerLimits:
        """Return an owner's limits at the controller."""
        return await self.farm.owner_limits(name)

    async def status(self, token: str) -> int:
        """Return what the Hub answers a token that asks whose it is."""
        return (await self.hub.ask("GET", "/user", token=token))[0]


@asynccontextmanager
async def agents_world(directory: Path, app: Any, database_url: str = "") -> AsyncIterator[World]:
    """Run a controller, and serve the mock of the Hub `app`, which is initialized."""
    async with serving(app) as hub, controller(directory / "farm") as farm, AsyncExitStack() as stack:
        client = HubClient(hub.url, SERVICE_TOKEN)
        stack.push_async_callback(client.aclose)
        yield World(directory, hub, farm.client, client, database_url=database_url)
