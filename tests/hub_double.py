"""The two answers of a Hub that a service's login needs: whose token this is, and the token for an OAuth code."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tornado import httpserver, netutil, web


class HubDouble:
    """Tokens and what they stand for; a code is exchanged for the token of the same text."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.models: dict[str, dict[str, Any]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What a Hub would put into the environment of its service."""
        return {
            "JUPYTERHUB_API_URL": f"http://127.0.0.1:{self.port}/hub/api",
            "JUPYTERHUB_API_TOKEN": "the-services-own",
            "JUPYTERHUB_BASE_URL": "/",
        }

    def token(self, name: str, *scopes: str, kind: str = "user", service: str = "agentfarm") -> str:
        """Return a new token of a user or service; it may reach the service when `service` is its name."""
        token = f"token-of-{name}-{len(self.models)}"
        access = [f"access:services!service={service}"] if service else []
        self.models[token] = {"name": name, "kind": kind, "groups": [], "scopes": [*access, *scopes]}
        return token


class _User(web.RequestHandler):
    def get(self) -> None:
        """Say whose token it is, as /hub/api/user does."""
        hub: HubDouble = self.settings["hub"]
        model = hub.models.get(self.request.headers["Authorization"].removeprefix("token "))
        if model is None:
            raise web.HTTPError(403)
        self.finish(json.dumps(model))


class _Token(web.RequestHandler):
    def post(self) -> None:
        """Exchange a code, as /hub/api/oauth2/token does."""
        self.finish({"access_token": self.get_body_argument("code"), "token_type": "bearer"})


@asynccontextmanager
async def hub_double() -> AsyncIterator[HubDouble]:
    """Serve the double on a free port."""
    (socket,) = netutil.bind_sockets(0, "127.0.0.1")
    hub = HubDouble(socket.getsockname()[1])
    routes = [(r"/hub/api/user", _User), (r"/hub/api/oauth2/token", _Token)]
    server = httpserver.HTTPServer(web.Application(routes, hub=hub))  # type: ignore[arg-type]
    server.add_socket(socket)
    try:
        yield hub
    finally:
        server.stop()
        await server.close_all_connections()
