"""Who calls a tool, and everything that the tools reach with that caller's token."""

from __future__ import annotations

import asyncio
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from mcp.server.mcpserver import Context
from traitlets import Unicode, default
from traitlets.config import LoggingConfigurable

from ....controller.client import FarmClient
from ....errors import FarmUnavailable, InvalidField, ServerNotRunning
from ....services import local
from ....services.handlers import Principal
from ....services.hub import HubClient
from ....services.tls import HubConnections
from ....tasks import OwnedTasks
from ...jupyter.kernels import Kernels
from ...jupyter.server_api import JupyterServer
from .answers import AnswerTooLong, ServiceRefused

Ctx = Context[Any, Any]

#: Tokens whose connections are kept.
_MAX_KEPT = 200
_SERVICE = "agents"
_SERVICE_SECONDS = 60.0
#: Longer answers of the service are not read: their JSON would keep the interpreter busy for long.
MAX_ANSWER_BYTES = 8 * 2**20
#: Longer answers are read on a thread.
_SMALL_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Caller:
    """Who calls."""

    principal: Principal
    token: str = field(repr=False)
    #: Set when the caller's connection is gone.
    gone: asyncio.Event = field(default_factory=asyncio.Event, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The Hub user."""
        return self.principal.name


def caller_of(ctx: Ctx) -> Caller:
    """Return who made the request that a tool was called by."""
    request: Any = ctx.request_context.request
    caller: Caller = request.scope["state"]["caller"]
    return caller


class _Clients:
    """The clients with one token."""

    def __init__(self, token: str, runtime_dir: str) -> None:
        self.hub = HubClient(token=token)
        self.farm = FarmClient(token=token, runtime_dir=runtime_dir)

    async def aclose(self) -> None:
        await self.hub.aclose()
        await self.farm.aclose()


class ToolDesk(LoggingConfigurable):
    """What the tools work with.

    Parameters
    ----------
    kernels
        The kernels of users' servers.
    runtime_dir
        Where this machine's services say how they are reached.
    """

    proxy_url = Unicode(
        help="Address of the Hub's proxy, as in http://127.0.0.1:8000. Default: $AGENTFARM_PROXY_URL or that example."
    ).tag(config=True)

    @default("proxy_url")
    def _proxy_url_default(self) -> str:
        return os.environ.get("AGENTFARM_PROXY_URL") or "http://127.0.0.1:8000"

    def __init__(self, kernels: Kernels, runtime_dir: Path, **options: Any) -> None:
        super().__init__(**options)
        self.kernels = kernels
        self._runtime_dir = runtime_dir
        self._clients: OrderedDict[str, _Clients] = OrderedDict()
        self._tasks = OwnedTasks(self.log)
        self._connections = HubConnections()
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections; a second call does nothing."""
        while self._clients:
            await self._clients.popitem()[1].aclose()
        await self._tasks.aclose()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def hub(self, caller: Caller) -> HubClient:
        """Return the Hub's API."""
        return self._clients_of(caller).hub

    def farm(self, caller: Caller) -> FarmClient:
        """Return the controller's API."""
        return self._clients_of(caller).farm

    def _clients_of(self, caller: Caller) -> _Clients:
        clients = self._clients.get(caller.token)
        if clients is None:
            clients = self._clients[caller.token] = _Clients(caller.token, str(self._runtime_dir))
        self._clients.move_to_end(caller.token)
        if len(self._clients) > _MAX_KEPT:
            self._tasks.start(self._clients.popitem(last=False)[1].aclose(), "closing of clients")
        return clients

    # ---- the caller's servers -------------------------------------------------------------------------------------

    async def servers(self, caller: Caller) -> dict[str, dict[str, Any]]:
        """Return the models of the caller's servers by name, the stopped ones too."""
        return dict((await self.hub(caller).user(caller.name)).get("servers") or {})

    async def server(self, caller: Caller, name: str) -> JupyterServer:
        """Return one of the caller's servers.

        Raises
        ------
        ServerNotRunning
            It is not ready for use.
        """
        check_server_name(name)
        servers = await self.servers(caller)
        model = servers.get(name)
        if model is None or not model.get("ready"):
            raise ServerNotRunning(_not_ready(name, model, servers))
        return JupyterServer(self.kernels.session, self.proxy_url.rstrip("/") + model["url"], name, caller.token)

    # ---- this service's own API -----------------------------------------------------------------------------------

    async def service(
        self, caller: Caller, method: str, path: str, body: Any = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        """Return the decoded answer of this service's API to the caller.

        So a task that is submitted by a tool passes the same checks as any other.

        Raises
        ------
        ServiceRefused
            It refused, with its message and reason.
        AnswerTooLong
            There is more than is read here.
        """
        try:
            async with self._request(caller, method, path, json=body, params=query) as response:
                content = await _bounded(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise FarmUnavailable("the agents service does not answer itself: try again") from exc
        data = await _decoded(content) if "json" in response.content_type else {}
        if response.status >= 400:
            raise ServiceRefused(data, response.status)
        return data

    async def follow_task(self, caller: Caller, task_id: str, seconds: float) -> None:
        """Return when a task has ended, or after `seconds`."""
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._request(caller, "GET", f"tasks/{quote(task_id)}/events", timeout=timeout) as response:
                async for _ in response.content.iter_any():
                    pass
        except (aiohttp.ClientError, TimeoutError, OSError):
            return

    def _request(self, caller: Caller, method: str, path: str, **options: Any) -> Any:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=_SERVICE_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        url = local.find_service(self._runtime_dir, _SERVICE) + "api/v1/" + path
        certificates = self._connections.context(local.find_certs_dir(self._runtime_dir, _SERVICE))
        headers = {"Authorization": f"token {caller.token}"}
        return self._session.request(method, url, headers=headers, ssl=certificates, **options)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """Return what is answered; a longer answer ends the connection."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            response.close()
            raise AnswerTooLong(f"the answer is longer than the {MAX_ANSWER_BYTES:,} bytes that are read here")
    return bytes(content)


async def _decoded(content: bytes) -> Any:
    return json.loads(content) if len(content) <= _SMALL_BYTES else await asyncio.to_thread(json.loads, content)


def check_server_name(name: str) -> str:
    """Return `name` when it can name a server; "" is the default one.

    Raises
    ------
    InvalidField
        It cannot.
    """
    if len(name) > 100 or "/" in name or name != name.strip() or not name.isprintable():
        raise InvalidField("server", "the name of a server, at most 100 characters without '/'", name)
    return name


def _not_ready(name: str, model: dict[str, Any] | None, servers: Mapping[str, dict[str, Any]]) -> str:
    label = f"the server {name!r}" if name else "the default server"
    if model is not None and model.get("pending"):
        return f"{label} is not ready yet ({model['pending']}): call start_server, which waits for it"
    running = sorted(repr(other) for other, found in servers.items() if found.get("ready"))
    others = f"; these run: {', '.join(running)}" if running else ""
    return f"{label} is not running: call start_server first{others}"
