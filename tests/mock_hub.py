"""JupyterHub's own mock of itself with AgentFarmSpawner or a double of it, its real REST API, and a proxy in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from jupyterhub.proxy import Proxy
from tornado import httpserver, netutil


class MemoryProxy(Proxy):
    """Keeps the routes and carries nothing."""

    should_start = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.routes: dict[str, dict[str, Any]] = {}

    async def add_route(self, routespec: str, target: str, data: Any) -> None:
        """Add a route."""
        self.routes[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec: str) -> None:
        """Remove a route."""
        self.routes.pop(routespec, None)

    async def get_all_routes(self) -> dict[str, dict[str, Any]]:
        """Return the routes."""
        return dict(self.routes)


class HubApi:
    """Requests to the API of a hub that :func:`serving` serves."""

    def __init__(self, hub: Any, session: aiohttp.ClientSession, port: int) -> None:
        self.hub, self._session = hub, session
        self.url = f"http://127.0.0.1:{port}{hub.hub.base_url}api"
        admin = hub.users["user"]
        admin.admin = True
        from jupyterhub import roles

        roles.assign_default_roles(hub.db, entity=admin.orm_user)
        self.token = str(admin.new_api_token())

    async def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Return status and decoded body."""
        headers = {"Authorization": f"token {token or self.token}"}
        async with self._session.request(method, self.url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def server(self, name: str = "") -> dict[str, Any]:
        """Return the model of the user's server, a stopped one too."""
        _, model = await self.ask("GET", "/users/user?include_stopped_servers=1")
        found: dict[str, Any] = model["servers"][name]
        return found

    async def progress(self) -> list[dict[str, Any]]:
        """Return the events that the progress of the user's default server has until it ends."""
        headers = {"Authorization": f"token {self.token}"}
        async with self._session.get(f"{self.url}/users/user/server/progress", headers=headers) as answer:
            text = await answer.text()
        return [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line.startswith("data:")]


@asynccontextmanager
async def serving(hub: Any) -> AsyncIterator[HubApi]:
    """Serve the hub's web application on a free port."""
    (socket,) = netutil.bind_sockets(0, "127.0.0.1")
    server = httpserver.HTTPServer(hub.tornado_application)
    server.add_socket(socket)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
            yield HubApi(hub, session, socket.getsockname()[1])
    finally:
        server.stop()
        await server.close_all_connections()
