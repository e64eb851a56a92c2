"""The agents service: its parts, put together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jupyterhub.services.auth import HubOAuth
from tornado import web

from ..controller.client import FarmClient
from ..controller.farm_watch import FarmWatch
from ..inventory.database import Database
from ..services import reserved
from ..services.hub import HubClient
from ..services.stored import StoredService
from ..traitlets import ByteSize
from . import metrics
from .api import description
from .dispatch.carriers import Carriers
from .dispatch.dispatcher import Dispatcher
from .dispatch.farm_news import FarmNews
from .dispatch.live import LiveNotebooks
from .dispatch.observers import FarmObservers
from .dispatch.servers import TaskServers
from .dispatch.warm import WarmServers
from .mcp import server as mcp_server
from .metrics import TaskMetrics
from .pages import pages
from .pages.rendering import Renderer
from .registry import handlers as agent_handlers
from .registry.archive import Archiver
from .registry.hub_users import HubUsers
from .registry.limits import FarmLimits
from .registry.registry import Registry
from .registry.sharing import ServerSharing
from .registry.store import AgentStore
from .registry.views import AgentViews
from .tasks import handlers as task_handlers
from .tasks.book import TaskBook
from .tasks.files import TaskFiles, checked_path
from .tasks.intake import Intake


class AgentsApp(StoredService):
    """Registers agents and has their tasks executed on the farm."""

    name = "agents"
    description = "The agents service of the farm: registry, tasks, MCP."
    classes = [
        TaskBook,
        TaskFiles,
        Registry,
        Dispatcher,
        Carriers,
        TaskServers,
        WarmServers,
        FarmWatch,
        *mcp_server.CLASSES,
        FarmClient,
    ]

    max_task_body = ByteSize(
        64 * 2**20,
        help="Longest request that submits a task, in bytes or as '64M'; it may bring its notebook with it. It is kept "
        "only of those who may submit tasks, two at a time of each. Larger lets them fill more memory.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metrics = TaskMetrics()
        self._hub_auth: HubOAuth | None = None
        self.intake = Intake()

    @property
    def longest_body(self) -> int:
        """The longest body that any handler takes: that of a task."""
        return max(int(self.max_body), int(self.max_task_body))

    def application(self) -> web.Application:
        """Return the tornado application."""
        made = super().application()
        made.settings["max_task_body_bytes"] = self.longest_body
        return made

    def handlers(self) -> list[tuple[Any, ...]]:
        """Return pages and API."""
        return [*pages.ROUTES, *agent_handlers.ROUTES, *task_handlers.ROUTES, *mcp_server.ROUTES, *metrics.ROUTES]

    def openapi(self) -> dict[str, Any]:
        """Return the description of the API in OpenAPI 3.1."""
        return description(self.prefix + "api/v1")

    async def open(self) -> None:
        """Start the parts in the order of their dependence."""
        self.database = self.own(Database(self.db_url, "AgentsApp.db_url"))
        await self.database.open()
        self.renderer = self.own(Renderer())
        token = os.environ["JUPYTERHUB_API_TOKEN"]
        self.farm_client = self.own(FarmClient(parent=self, runtime_dir=self.runtime_dir, token=token))
        self.hub = self.own(HubClient())
        self.observers = FarmObservers()
        self.farm = self.own(FarmWatch(self.farm_client, self.observers, parent=self))
        self.book = self.own(TaskBook(self.database, self.data_path / "agent-tasks", parent=self))
        await self.book.open()
        await self._open_registry()
        self.farm.start()
        await self._open_dispatcher()
        self.mcp = self.own(mcp_server.McpEndpoint(self.runtime_path, parent=self))
        await self.mcp.open()

    async def _open_registry(self) -> None:
        """Start the registry, the sharing of servers, and what is shown of agents."""
        users, limits = HubUsers(self.hub), FarmLimits(self.farm_client)
        self.registry = self.own(Registry(AgentStore(self.database), users, limits, parent=self))
        self.registry.holds.append(self.book.hold)
        self.registry.aftercare.busy = self.book.busy
        self.registry.revoked.append(lambda name: self.forget_logins())
        self.observers.all.append(self.own(ServerSharing(self.registry, users)))
        base_url = os.environ.get("JUPYTERHUB_BASE_URL", "/")
        proxy_url = os.environ.get("AGENTFARM_PROXY_URL") or "http://127.0.0.1:8000"
        archives, hub_url = self.data_path / "agent-archives", proxy_url.rstrip("/") + base_url
        self.registry.packing.archiver = Archiver(users, lambda: self.farm.leases, archives, hub_url, checked_path)
        self.views = AgentViews(
            lambda: self.farm.leases,
            self.farm_client.usage,
            self.registry.left_to_do,
            self.book,
            base_url,
        )
        self.registry.reserved.path = Path(os.environ.get("AGENTFARM_DATA_DIR") or self.data_dir) / reserved.FILE_NAME
        await self.registry.open()

    async def _open_dispatcher(self) -> None:
        """Start what has tasks executed; last, and so it ends first."""
        self.news = FarmNews()
        self.observers.all.append(self.news)
        self.servers = self.own(TaskServers(self.hub, parent=self))
        self.warm = self.own(WarmServers(self.servers, parent=self))
        parts = (self.book, self.servers, self.warm, (self.farm, self.news), self.registry.tokens)
        self.carriers = self.own(Carriers(*parts, parent=self))
        self.carriers.usage = self.farm_client.usage
        self.live = self.own(LiveNotebooks(self.book, self.carriers))
        self.dispatcher = self.own(
            Dispatcher(self.book, self.registry, self.carriers, self.farm, self.news, parent=self)
        )
        self.dispatcher.observers.append(self.metrics)
        await self.dispatcher.open()

    def hub_auth(self) -> HubOAuth:
        """Return who identifies users, kept here, so that what it remembers can be forgotten."""
        self._hub_auth = super().hub_auth()
        return self._hub_auth

    def forget_logins(self) -> None:
        """Ask the Hub anew whose a token is: one was revoked."""
        if self._hub_auth is not None:
            self._hub_auth.cache.clear()
