"""One traitlets application per Hub service: it starts, serves, and ends on a signal.

Life of a service::

    initialize   options from the command line and from a configuration file: jupyterhub_config.py, or for a service
                 that the Hub starts the services' part of it (JSON, see :mod:`jupyterhub_agentfarm.handover`)
    lock         one process per service (:mod:`.takeover`)
    open()       the service's own parts, in the order of their dependence
    listen       only now: whoever connects finds a working service
    announce     where it listens (:mod:`.local`)
    SIGTERM, SIGINT -> stop listening, close() in reverse order, exit 0
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import ssl
import sys
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
from jupyterhub.services.auth import HubOAuth
from tornado import httpserver, netutil, web
from traitlets import TraitError, Unicode, default
from traitlets.config import Application

from ..errors import AgentFarmError, ConfigError
from ..share import share_path
from ..traitlets import ByteSize
from . import hub, local, tls
from .bounds import BoundedApplication
from .handlers import CallbackHandler, NotFoundHandler
from .request_durations import RequestDurations
from .takeover import ServiceLock

#: Longer bodies end the connection; up to here they are read, if only to answer that they are too long.
DRAINED_BODY_BYTES = 64 * 2**20


class ServiceApp(Application):
    """A Hub service of the farm; subclasses say what it serves."""

    #: Name of the service, which is also the last part of its prefix.
    name: str = "service"

    config_file = Unicode(
        "jupyterhub_config.py",
        help="The Hub's configuration file, or one in Python or JSON with the options of this service's classes.",
    ).tag(config=True)
    runtime_dir = Unicode(
        help="Directory (0700) in which the Hub's account keeps the local token and where services listen. "
        "All parts of one farm must name the same one. Default: $AGENTFARM_RUNTIME_DIR or ./agentfarm-runtime."
    ).tag(config=True)
    service_url = Unicode(
        help="URL to listen on, as in http://127.0.0.1:8101. Default: $JUPYTERHUB_SERVICE_URL, which the Hub sets. "
        "Port 0 takes a free one; the runtime directory says which."
    ).tag(config=True)
    prefix = Unicode(help="Path under which the proxy reaches the service. Default: /services/NAME/.").tag(config=True)

    max_body = ByteSize(
        4 * 2**20,
        help="Longest body of a request, in bytes or as '4M'; a longer one is answered with 413. The longest that the "
        "farm itself sends is a launch, with its environment and keys: some tens of kB. Larger lets whoever may send "
        "requests fill more memory.",
    ).tag(config=True)

    aliases = {
        "f": "ServiceApp.config_file",
        "config": "ServiceApp.config_file",
        "runtime-dir": "ServiceApp.runtime_dir",
        "url": "ServiceApp.service_url",
        "log-level": "Application.log_level",
    }

    @default("runtime_dir")
    def _runtime_dir_default(self) -> str:
        return str(local.default_runtime_dir())

    @default("service_url")
    def _service_url_default(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_URL") or "http://127.0.0.1:0"

    @default("prefix")
    def _prefix_default(self) -> str:
        return os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or f"/services/{self.name}/"

    @default("log_level")
    def _log_level_default(self) -> int:
        return 20

    @default("raise_config_file_errors")
    def _raise_config_file_errors_default(self) -> bool:
        return True  # a service with half of its options is worse than none

    @property
    def hub_prefix(self) -> str:
        """Path of the Hub's pages, as in /hub/."""
        return os.environ.get("JUPYTERHUB_BASE_URL", "/") + "hub/"

    @property
    def runtime_path(self) -> Path:
        """The runtime directory."""
        return Path(self.runtime_dir)

    @property
    def longest_body(self) -> int:
        """The longest body that any handler takes."""
        return int(self.max_body)

    # ---- for subclasses ----

    def handlers(self) -> list[tuple[Any, ...]]:
        """Return the routes below the prefix, without it."""
        raise NotImplementedError

    def openapi(self) -> dict[str, Any]:
        """Return the description of the service's API in OpenAPI 3.1."""
        raise NotImplementedError

    async def open(self) -> None:
        """Start the service's parts; called once, before the first request."""

    async def close(self) -> None:
        """Stop the service's parts; called once, after the last request, also when `open` failed half-way."""

    # ---- life ----

    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the command line and the configuration file; one that was named must be there."""
        self.parse_command_line(argv)
        if self.config_file and Path(self.config_file).exists():
            command_line = self.cli_config
            self.load_config_file(self.config_file)
            self.update_config(command_line)
        elif any("config_file" in options for options in self.cli_config.values()):
            sys.exit(f"{self.name}: the configuration file {self.config_file} is not there")

    def start(self) -> None:
        """Serve until a signal; exit with one sentence when that is not possible."""
        try:
            asyncio.run(self.serve())
        except AgentFarmError as exc:
            sys.exit(f"{self.name}: {exc.message}")
        except TraitError as exc:
            sys.exit(f"{self.name}: the configuration cannot be used: {exc}")

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        self._log_the_package()
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        local.prepare(self.runtime_path)
        lock = ServiceLock(self.runtime_path / f"{self.name}.lock")
        await lock.take()
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(lock.release)
            stack.push_async_callback(self.close)
            stack.push_async_callback(hub.close_shared_client)
            await self.open()
            server = self.listen()
            stack.push_async_callback(server.close_all_connections)
            stack.callback(server.stop)
            await stopping.wait()
            self.log.info("stopping")

    def _log_the_package(self) -> None:
        """Send what modules log where the application logs."""
        package = logging.getLogger("jupyterhub_agentfarm")
        package.handlers = list(self.log.handlers)
        package.setLevel(self.log.level)
        package.propagate = False

    @cached_property
    def request_durations(self) -> RequestDurations:
        """How long requests took."""
        return RequestDurations(self.name)

    def log_request(self, handler: web.RequestHandler) -> None:
        """Count a request, and log it without its query, which may hold a token."""
        status, request = handler.get_status(), handler.request
        level = logging.DEBUG if status < 400 else logging.INFO if status < 500 else logging.ERROR
        seconds = request.request_time()
        self.request_durations.add(type(handler), status, seconds)
        self.log.log(
            level, "%d %s %s (%s) %.0f ms", status, request.method, request.path, request.remote_ip, seconds * 1e3
        )

    def listen(self) -> httpserver.HTTPServer:
        """Bind the service's URL, announce it, and return the server.

        Raises
        ------
        ConfigError
            The address cannot be bound, or its scheme and the certificates do not fit together.
        """
        url = urlsplit(self.service_url)
        context = self._tls_context(url.scheme)
        try:
            sockets = netutil.bind_sockets(url.port or 0, url.hostname or "127.0.0.1")
        except OSError as exc:
            raise ConfigError(
                f"ServiceApp.service_url {self.service_url} cannot be listened on: {exc.strerror}"
            ) from exc
        drained = max(DRAINED_BODY_BYTES, 2 * self.longest_body)
        server = httpserver.HTTPServer(self.application(), ssl_options=context, max_body_size=drained)
        server.add_sockets(sockets)
        port = sockets[0].getsockname()[1]
        where = f"{url.scheme}://{url.hostname}:{port}{self.prefix}"
        local.announce(self.runtime_path, self.name, where, os.environ.get(tls.ENV_CERTS_DIR) if context else None)
        self.log.info("serving at %s", where)
        return server

    def _tls_context(self, scheme: str) -> ssl.SSLContext | None:
        """Return what to listen with; None where internal_ssl is off."""
        certificates = tls.of_environment()
        if (certificates is not None) == (scheme == "https"):
            return None if certificates is None else certificates.server()
        if certificates is None:
            raise ConfigError(
                f"ServiceApp.service_url {self.service_url} needs certificates: set ${tls.ENV_CERTS_DIR} to the "
                "Hub's internal_certs_location"
            )
        raise ConfigError(
            f"ServiceApp.service_url {self.service_url} must begin with https:// where internal_ssl is on"
        )

    def hub_auth(self) -> HubOAuth:
        """Return who identifies users: from the environment that the Hub gives, or as the Hub would give it."""
        client_id = os.environ.get("JUPYTERHUB_CLIENT_ID") or f"service-{self.name}"
        ours = tls.of_environment()  # which JupyterHub's own code reads for services that the Hub starts
        files = {} if ours is None else {"keyfile": ours.keyfile, "certfile": ours.certfile, "client_ca": ours.cafile}
        shown = {name: str(path) for name, path in files.items()}
        return HubOAuth(parent=self, cache_max_age=30, base_url=self.prefix, oauth_client_id=client_id, **shown)

    def application(self) -> web.Application:
        """Return the tornado application: our routes, the OAuth callback, and 404 for the rest."""
        routes = [*self.handlers(), (r"oauth_callback", CallbackHandler)]
        token = local.local_token(self.runtime_path)
        return BoundedApplication(
            [(self.prefix + route[0], *route[1:]) for route in routes],
            default_handler_class=NotFoundHandler,
            service=self,
            log_function=self.log_request,
            local_token=token,
            max_body_bytes=int(self.max_body),
            # the same after a restart, so that open pages stay logged in
            cookie_secret=hashlib.sha256(f"cookies of {self.name}: {token}".encode()).digest(),
            xsrf_cookie_kwargs={"path": self.prefix},
            hub_auth=self.hub_auth(),
            templates=jinja2.Environment(
                loader=jinja2.FileSystemLoader(share_path("templates")),
                autoescape=True,
                undefined=jinja2.StrictUndefined,
            ),
            static_path=str(share_path("templates") / "static"),
            static_url_prefix=self.prefix + "static/",
        )
