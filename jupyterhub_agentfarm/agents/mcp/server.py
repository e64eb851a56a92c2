"""The MCP endpoint of the agents service: ``/services/agents/mcp``, streamable HTTP.

::

    agent ──▶ proxy ──▶ McpHandler: Hub token, access to the service, agent is active
                          └──▶ session manager of the `mcp` SDK, in process (:mod:`..services.asgi`)
                                 └──▶ tools (:mod:`.tools`) and resources (:mod:`.resources`), each with the
                                      caller's own token

Both kinds of clients are served: those of protocol version 2026-07-28, each of whose requests stands for itself, and
older ones, which open a session. A session belongs to whoever opened it; shown by another user it does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from tornado import web
from traitlets import Integer, List, Unicode
from traitlets.config import Configurable, LoggingConfigurable

from ... import __version__
from ...services.asgi import AsgiApp, AsgiHandler
from ...traitlets import Seconds
from ..access import admit
from ..jupyter.kernels import Kernels
from .resources import ResourceServer
from .sessions import UserSessions
from .tools.caller import Caller, ToolDesk
from .tools.code import CodeTools
from .tools.files import FileTools
from .tools.servers import ServerTools
from .tools.tasks import TaskTools

_TOKEN = re.compile(r"(?:token|bearer)\s+(\S+)", re.IGNORECASE)
_INSTRUCTIONS = """\
A farm of computers, some with GPUs. You have servers of your own there, each with your files (the workspace) and with
kernels that execute code.

- Work at once: start_server, then execute_code as often as you like; variables stay. stop_server when you are done.
- Long work: submit_task, which needs no server of yours, then get_task with `wait`.
- A failed call says why and gives a fixed reason; nothing is half done. Read it before you call again.
"""


class McpEndpoint(LoggingConfigurable):
    """The endpoint: the SDK's server with our tools, and what these work with.

    Parameters
    ----------
    runtime_dir
        Where this machine's services say how they are reached.
    """

    allowed_hosts = List(
        Unicode(),
        help="Host names, with their port where it is not the usual one, that requests may name in their Host header; "
        "'host:*' takes any port. Empty: any. Requests carry a Hub token in a header, which no page in a browser can "
        "make another site's visitor send, so that nothing is open without this.",
    ).tag(config=True)
    max_sessions = Integer(
        1000,
        min=1,
        help="Sessions of clients older than protocol version 2026-07-28 that are open at a time; more are told to "
        "come back later (503).",
    ).tag(config=True)
    max_user_sessions = Integer(
        32,
        min=1,
        help="How many of them one user may have; more are refused (429). Larger lets one agent take more of what "
        "all have.",
    ).tag(config=True)
    session_timeout = Seconds(
        1800, help="A session without a request for so long ends, in seconds; its client opens another one."
    ).tag(config=True)

    def __init__(self, runtime_dir: Path, **options: Any) -> None:
        super().__init__(**options)
        self.kernels = Kernels(parent=self)
        self.desk = ToolDesk(self.kernels, runtime_dir, parent=self)
        self.sessions = UserSessions(self.max_user_sessions, self.session_timeout)
        self._manager: StreamableHTTPSessionManager | None = None
        self._ending = asyncio.Event()
        self._served: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to serve."""
        await self.kernels.open()
        server = self.mcp_server()
        server.streamable_http_app(  # an application with routes of its own, of which only the sessions are used
            transport_security=TransportSecuritySettings(
                enable_dns_rebinding_protection=bool(self.allowed_hosts), allowed_hosts=list(self.allowed_hosts)
            ),
            session_idle_timeout=self.session_timeout,
            max_sessions=self.max_sessions,
        )
        begun = asyncio.Event()
        self._served = asyncio.create_task(self._serve(server.session_manager, begun), name="MCP sessions")
        await begun.wait()
        self._manager = server.session_manager

    async def _serve(self, manager: StreamableHTTPSessionManager, begun: asyncio.Event) -> None:
        # A task of its own: what the SDK enters here must be left by the task that entered it.
        async with manager.run():
            begun.set()
            await self._ending.wait()

    async def aclose(self) -> None:
        """End every session and connection; a second call does nothing."""
        self._manager = None
        self._ending.set()
        if self._served is not None:
            await self._served
        await self.kernels.aclose()
        await self.desk.aclose()

    def mcp_server(self) -> MCPServer[Any]:
        """Return the SDK's server with all tools and resources."""
        with _own_logging(self.log):
            mcp = ResourceServer(
                self.desk,
                name="agentfarm",
                title="AI Agent Farm",
                instructions=_INSTRUCTIONS,
                version=__version__,
                subscriptions=False,
            )
        for tools in (ServerTools, CodeTools, FileTools, TaskTools):
            tools(self.desk).add_to(mcp)
        return mcp

    @property
    def asgi_app(self) -> AsgiApp:
        """What answers requests.

        Raises
        ------
        tornado.web.HTTPError
            The service is closing.
        """
        if self._manager is None:
            raise web.HTTPError(503, "the service is closing")
        app: AsgiApp = self._manager.handle_request
        return app


class McpHandler(AsgiHandler):
    """``mcp``: requests of MCP clients."""

    caller: Caller

    async def prepare(self) -> None:
        """Identify who asks; only a token in the header counts, since the tools act with it."""
        match = _TOKEN.fullmatch(self.request.headers.get("Authorization", "").strip())
        if match is None:
            raise web.HTTPError(401, "a Hub token is needed: send `Authorization: Bearer …`")
        await super().prepare()
        admit(self.service.registry, self.principal)
        if self.principal.kind != "user":
            raise web.HTTPError(403, "the tools act as a Hub user: send a token of one")
        self.caller = Caller(self.principal, match[1], self._gone)

    async def _call(self) -> None:
        name, endpoint = self.request.headers.get(MCP_SESSION_ID_HEADER), self._endpoint
        if name is None and not self._may_open():
            await super()._call()
            return
        user = self.principal.name
        with endpoint.sessions.opening(user) if name is None else endpoint.sessions.using(name, user) as use:
            await super()._call()
            status, ends = self.get_status(), self.request.method == "DELETE"
            use.opened = self._headers.get(MCP_SESSION_ID_HEADER, "") if status < 400 else ""
            use.ended = status == 404 or (ends and status < 400)

    def _may_open(self) -> bool:
        """Whether the request is of a protocol version that has sessions."""
        version = self.request.headers.get(MCP_PROTOCOL_VERSION_HEADER)
        return version is None or version in HANDSHAKE_PROTOCOL_VERSIONS

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error as JSON; to somebody unknown, with how to make oneself known."""
        if status_code == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        super().write_error(status_code, **kwargs)

    def asgi_app(self) -> AsgiApp:
        """Return the session manager."""
        return self._endpoint.asgi_app

    @property
    def _endpoint(self) -> McpEndpoint:
        endpoint: McpEndpoint = self.service.mcp
        return endpoint

    def asgi_scope(self) -> Mapping[str, Any]:
        """Say who asks: to the SDK, which keeps sessions apart by it, and to the tools."""
        name = self.principal.name
        token = AccessToken(token=self.caller.token, client_id=name, scopes=[], subject=name)
        return {"user": AuthenticatedUser(token), "state": {"caller": self.caller}}


@contextlib.contextmanager
def _own_logging(log: Any) -> Iterator[None]:
    """Keep the SDK from setting up the process's logging, and have it log where the service does."""
    theirs, root = logging.getLogger("mcp"), logging.getLogger()
    theirs.handlers, theirs.propagate = list(log.handlers), not log.handlers
    theirs.setLevel(max(log.level, logging.WARNING))  # at INFO it writes each request, of which there is a log already
    kept = logging.NullHandler()
    root.addHandler(kept)
    try:
        yield
    finally:
        root.removeHandler(kept)


#: Classes whose options the service takes.
CLASSES: list[type[Configurable]] = [McpEndpoint, Kernels, ToolDesk]
#: Routes below the service's prefix.
ROUTES: list[tuple[Any, ...]] = [(r"mcp/?", McpHandler)]
