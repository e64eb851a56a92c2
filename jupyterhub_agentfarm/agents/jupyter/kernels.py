"""Named kernels of users' servers, and the connections to them that are kept open between two calls.

A named kernel belongs to a session of the server, so that JupyterLab shows it under its name, and whoever may use the
server can watch and use it too. A connection belongs to one caller's token; it is closed when it was not used for some
time. The kernel stays: it belongs to the server.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import Any, Literal

import aiohttp
from traitlets import Integer
from traitlets.config import LoggingConfigurable

from ...errors import ConflictError, InvalidField, KernelBusy, NotFoundError
from ...tasks import OwnedTasks
from ...traitlets import Seconds
from .kernel_connection import KernelConnection
from .server_api import JupyterServer, open_session

KERNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: How long a new kernel may take, in seconds.
_START_SECONDS = 90.0
_REAP_SECONDS = 30.0
#: Path of a named kernel's session: its folder is where the kernel works, the root of the server.
_PATH_PREFIX = "agent-console-"

Key = tuple[str, str, str]
#: What can be done to a kernel beside executing.
Action = Literal["interrupt", "restart", "shutdown"]


class Kernels(LoggingConfigurable):
    """The kernels that callers use through this service."""

    max_connections = Integer(
        1000,
        min=1,
        help="Connections to kernels that are open at a time, of all callers together. When there are more, those not "
        "used for longest are closed, and their next use takes some milliseconds longer.",
    ).tag(config=True)
    max_connections_per_caller = Integer(
        32, min=1, help="Connections to kernels that one user or agent has open at a time."
    ).tag(config=True)
    idle_timeout = Seconds(
        600,
        help="A connection that was not used for so long is closed, in seconds; the kernel stays. Smaller: fewer open "
        "connections; larger: a pause of its agent costs nothing.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tasks = OwnedTasks(self.log)
        self._connections: dict[Key, KernelConnection] = {}
        self._opening: dict[Key, asyncio.Lock] = {}
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Begin to close what is not used."""
        self._session = open_session()
        self._tasks.start(self._reap(), "reaping of kernel connections")

    async def aclose(self) -> None:
        """Close every connection; a second call does nothing."""
        connections, self._connections = list(self._connections.values()), {}
        await asyncio.gather(*(connection.aclose() for connection in connections))
        await self._tasks.aclose()
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session for requests to servers."""
        if self._session is None:
            raise ConflictError("the service is closing")
        return self._session

    # ---- connections ----------------------------------------------------------------------------------------------

    def warm(self, token: str, server_name: str, name: str) -> KernelConnection | None:
        """Return the open connection to a named kernel, if there is one."""
        connection = self._connections.get((token, server_name, name))
        return connection if connection is not None and connection.alive else None

    async def connection(self, server: JupyterServer, name: str, language: str = "") -> KernelConnection:
        """Return a connection to the kernel `name`; start it where it is not.

        Parameters
        ----------
        language
            A kernelspec or a language; "" takes what is there, or the server's default.

        Raises
        ------
        InvalidField
            `name` cannot be one, or the server has no such kernelspec.
        ConflictError
            The kernel is of another kernelspec.
        """
        check_kernel_name(name)
        key = (server.token, server.name, name)
        async with self._opening.setdefault(key, asyncio.Lock()):
            known = self._connections.get(key)
            if known is not None and known.alive:
                await self._check_language(server, known.spec, name, language)
                return known
            await self._drop(key)
            kernel = (await self._session_of(server, name, language))["kernel"]
            await self._make_room(server.token)
            connection = KernelConnection(server, kernel["id"], kernel["name"], self._tasks)
            await connection.open()
            self._connections[key] = connection
            return connection

    async def _session_of(self, server: JupyterServer, name: str, language: str) -> dict[str, Any]:
        known = await self.find(server, name)
        if known is not None:
            await self._check_language(server, known["kernel"]["name"], name, language)
            return known
        spec = await self._resolve(server, language) if language else None
        body = {"path": _PATH_PREFIX + name, "name": name, "type": "console", "kernel": {"name": spec} if spec else {}}
        made: dict[str, Any] = await server.request("POST", "sessions", body, seconds=_START_SECONDS)
        return made

    async def _check_language(self, server: JupyterServer, spec: str, name: str, language: str) -> None:
        if language and language != spec and await self._resolve(server, language) != spec:
            raise ConflictError(
                f"the kernel {name!r} is a {spec} kernel, not {language}: use another name, or shut it down first"
            )

    async def _resolve(self, server: JupyterServer, language: str) -> str:
        """Return the kernelspec of a name or a language."""
        answer = await server.request("GET", "kernelspecs")
        specs = {name: str(found["spec"].get("language", "")).lower() for name, found in answer["kernelspecs"].items()}
        if language in specs:
            return language
        wanted = language.lower()
        fit = sorted(name for name, spoken in specs.items() if spoken == wanted or name.lower() == wanted)
        if not fit:
            there = ", ".join(f"{name} ({spoken})" for name, spoken in sorted(specs.items()))
            raise InvalidField("language", f"a kernel of this server: {there}", language)
        return str(answer["default"]) if answer["default"] in fit else fit[0]

    async def _make_room(self, token: str) -> None:
        """Close the connections not used for longest where there are too many."""
        per_caller = Counter(key[0] for key in self._connections)
        mine = per_caller[token] >= self.max_connections_per_caller
        if not mine and len(self._connections) < self.max_connections:
            return
        unused = [key for key, connection in self._connections.items()
                  if not connection.busy and (key[0] == token or not mine)]  # fmt: skip
        if not unused:
            raise KernelBusy("too many kernels execute at a time: wait for one to end")
        await self._drop(min(unused, key=lambda key: self._connections[key].used_at))

    async def _drop(self, key: Key) -> None:
        connection = self._connections.pop(key, None)
        if connection is not None:
            await connection.aclose()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(min(_REAP_SECONDS, self.idle_timeout))
            oldest = time.monotonic() - self.idle_timeout
            for key, connection in list(self._connections.items()):
                if not connection.alive or (connection.used_at < oldest and not connection.busy):
                    await self._drop(key)
            for key, lock in list(self._opening.items()):
                if key not in self._connections and not lock.locked():
                    del self._opening[key]

    # ---- the server's kernels -------------------------------------------------------------------------------------

    async def sessions(self, server: JupyterServer) -> list[dict[str, Any]]:
        """Return the sessions of a server that have a kernel."""
        return [found for found in await server.request("GET", "sessions") if found.get("kernel")]

    async def find(self, server: JupyterServer, name: str) -> dict[str, Any] | None:
        """Return the session of a named kernel, or None."""
        path = _PATH_PREFIX + name
        return next((found for found in await self.sessions(server) if found["path"] == path), None)

    async def act(self, server: JupyterServer, name: str, action: Action) -> None:
        """Interrupt, restart or shut down a kernel, which is given by its name or its id.

        Raises
        ------
        NotFoundError
            There is no such kernel.
        """
        sessions = await self.sessions(server)
        path = _PATH_PREFIX + name
        found = next((one for one in sessions if one["path"] == path or one["kernel"]["id"] == name), None)
        if found is None:
            raise NotFoundError(f"{server.label} has no kernel {name!r}: look at list_kernels")
        if action == "shutdown":
            await server.request("DELETE", f"sessions/{found['id']}")
            await self._drop((server.token, server.name, name))
        else:
            await server.request("POST", f"kernels/{found['kernel']['id']}/{action}", {}, seconds=_START_SECONDS)


def check_kernel_name(name: str) -> str:
    """Return `name` when it can name a kernel.

    Raises
    ------
    InvalidField
        It cannot.
    """
    if not KERNEL_NAME.fullmatch(name):
        raise InvalidField("kernel", "1-64 letters, digits, '.', '_' and '-', as in main", name)
    return name


def kernel_name(session: dict[str, Any]) -> str:
    """Return the name under which a session's kernel is used here: that of its own, or its id."""
    path = str(session["path"])
    return path.removeprefix(_PATH_PREFIX) if path.startswith(_PATH_PREFIX) else str(session["kernel"]["id"])
