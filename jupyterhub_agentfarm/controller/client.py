"""FarmClient: the only client of the controller's REST API."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from traitlets import Unicode, default
from traitlets.config import Configurable

from ..errors import FarmUnavailable
from ..models import LaunchOrder, Lease, NodeSpec, OwnerLimits, PlacementRequest
from ..protocol import LAUNCH_SECONDS, ProjectsReport
from ..records import from_json, to_json
from ..server.versions import ServerEnvironment
from ..services import local
from ..services.tls import HubConnections
from ..traitlets import Seconds
from .answers import error_of

#: The service's name, which is also how it is found.
SERVICE = "agentfarm"
#: Silence after which a stream of events counts as lost, in seconds: three keep-alives.
SILENCE_SECONDS = 45.0
#: What the node may take for a stop beyond its grace, in seconds.
STOP_MARGIN_SECONDS = 30.0
#: What a node may take to end noded and start it anew, in seconds.
RESTART_SECONDS = 70.0


class FarmClient(Configurable):
    """Asks the controller. Error answers are raised as the exceptions of :mod:`..errors`.

    Every method raises :class:`~..errors.FarmUnavailable` when the controller does not answer.
    """

    url = Unicode(
        help="URL of the controller, as in http://127.0.0.1:8101/services/agentfarm/. Default: what the controller "
        "wrote into the runtime directory, read again for every request."
    ).tag(config=True)
    token = Unicode(help="A Hub token. Default: the runtime directory's local token, or $JUPYTERHUB_API_TOKEN.").tag(
        config=True
    )
    runtime_dir = Unicode(
        help="The farm's runtime directory. Default: $AGENTFARM_RUNTIME_DIR or ./agentfarm-runtime."
    ).tag(config=True)
    certs_dir = Unicode(
        help="The Hub's `internal_certs_location`, where `url` is that of a controller behind internal_ssl. Default: "
        "what the controller wrote into the runtime directory; with `url`, the system's authorities."
    ).tag(config=True)
    timeout = Seconds(
        30,
        help="How long an answer may take (in seconds), not counting what a node may take to start or stop a server. "
        "Smaller notices a controller that hangs sooner; larger bears a busy one.",
    ).tag(config=True)

    @default("runtime_dir")
    def _runtime_dir_default(self) -> str:
        return str(local.default_runtime_dir())

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._session: aiohttp.ClientSession | None = None
        self._hub_connections = HubConnections()

    async def aclose(self) -> None:
        """Close the connections; may be called again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # ---- nodes --------------------------------------------------------------------------------------------------

    async def nodes(self) -> list[dict[str, Any]]:
        """Return every node, as NodeView."""
        return list((await self._request("GET", "nodes"))["nodes"])

    async def node(self, name: str) -> dict[str, Any]:
        """Return a node, as NodeView."""
        return dict(await self._request("GET", f"nodes/{name}"))

    async def environment(self, name: str) -> ServerEnvironment:
        """Return the versions in the Python environment that a node's servers start from.

        Raises
        ------
        RemoteCommandFailed
            The environment lacks jupyterhub-agentfarm, or there is no such Python.
        """
        return from_json(ServerEnvironment, await self._request("GET", f"nodes/{name}/environment"), "environment")

    async def strays(self, name: str) -> dict[str, Any]:
        """Return `servers` and `processes` that run on a node without a lease."""
        return dict(await self._request("GET", f"nodes/{name}/strays"))

    async def projects(self, name: str) -> ProjectsReport:
        """Return what is there of the projects' workspaces on a node."""
        return from_json(ProjectsReport, await self._request("GET", f"nodes/{name}/projects"), "projects")

    async def scan(self, host: str, port: int = 22) -> dict[str, str]:
        """Return `host_key` and `fingerprint` that a machine shows."""
        return dict(await self._request("POST", "nodes/scan", {"host": host, "port": port}))

    async def add_node(self, spec: NodeSpec) -> dict[str, Any]:
        """Add a node; return its NodeView."""
        return dict(await self._request("POST", "nodes", to_json(spec)))

    async def remove_node(self, name: str) -> None:
        """Remove a node."""
        await self._request("DELETE", f"nodes/{name}")

    async def cordon(self, name: str, reason: str = "") -> dict[str, Any]:
        """Let no new server onto a node; return its NodeView."""
        return dict(await self._request("POST", f"nodes/{name}/cordon", {"reason": reason}))

    async def uncordon(self, name: str) -> dict[str, Any]:
        """End a cordon or drain; return the NodeView."""
        return dict(await self._request("POST", f"nodes/{name}/uncordon", {}))

    async def drain(self, name: str, reason: str = "", deadline_seconds: float | None = None) -> dict[str, Any]:
        """Empty a node; return its NodeView."""
        body = {"reason": reason, "deadline_seconds": deadline_seconds}
        return dict(await self._request("POST", f"nodes/{name}/drain", body))

    async def keep(self, name: str, owner: str, reason: str, deadline_seconds: float | None = None) -> dict[str, Any]:
        """Drain a node for the servers of one owner, if no admin marked it; return its NodeView."""
        body = {"owner": owner, "reason": reason, "deadline_seconds": deadline_seconds}
        return dict(await self._request("POST", f"nodes/{name}/keep", body))

    async def give_back(self, name: str, owner: str) -> dict[str, Any]:
        """End a drain for the servers of one owner, and no other mark; return the NodeView."""
        return dict(await self._request("POST", f"nodes/{name}/give-back", {"owner": owner}))

    async def restart_noded(self, name: str) -> dict[str, Any]:
        """Start a node's noded anew, servers go on; return the NodeView.

        Raises
        ------
        RemoteCommandFailed
            noded did not end, or could not be started again.
        """
        return dict(await self._request("POST", f"nodes/{name}/restart-noded", {}, extra_seconds=RESTART_SECONDS))

    # ---- leases -------------------------------------------------------------------------------------------------

    async def leases(self, all: bool = False) -> list[Lease]:  # noqa: A002 - the API's own word
        """Return the leases that the token may see; with `all` the released ones too."""
        answer = await self._request("GET", "leases", query={"all": "1"} if all else None)
        return [from_json(Lease, item, "leases") for item in answer["leases"]]

    async def lease(self, lease_id: str) -> Lease:
        """Return a lease."""
        return from_json(Lease, await self._request("GET", f"leases/{lease_id}"), "lease")

    async def place(self, request: PlacementRequest) -> Lease:
        """Ask for a lease.

        Raises
        ------
        PlacementRefused
            No node could ever take it.
        ConflictError
            The owner has a server of this name with another request.
        """
        return from_json(Lease, await self._request("POST", "leases", to_json(request)), "lease")

    async def launch(self, lease_id: str, order: LaunchOrder) -> Lease:
        """Start the lease's server; return the lease with its `url`."""
        answer = await self._request("POST", f"leases/{lease_id}/launch", to_json(order), extra_seconds=LAUNCH_SECONDS)
        return from_json(Lease, answer, "lease")

    async def release(self, lease_id: str, grace_seconds: float = 10) -> Lease:
        """Stop the server; the answer is `released`, or `stopping` when the node cannot be reached."""
        query = {"grace_seconds": f"{grace_seconds:g}"}
        answer = await self._request(
            "DELETE", f"leases/{lease_id}", query=query, extra_seconds=grace_seconds + STOP_MARGIN_SECONDS
        )
        return from_json(Lease, answer, "lease")

    async def log(self, lease_id: str, lines: int = 50) -> str:
        """Return the last lines of the server's log."""
        return str((await self._request("GET", f"leases/{lease_id}/log", query={"lines": str(lines)}))["text"])

    async def queue(self) -> list[dict[str, Any]]:
        """Return the waiting line."""
        return list((await self._request("GET", "queue"))["queue"])

    async def usage(self) -> dict[str, Any]:
        """Return `window_seconds`, and in `usage` and `pools` what each owner and group uses, used lately, and may."""
        return dict(await self._request("GET", "usage"))

    async def owner_limits(self, name: str) -> OwnerLimits:
        """Return an owner's own limits; one without any has a record without limits."""
        return from_json(OwnerLimits, await self._request("GET", _limits_path(name)), "limits")

    async def set_owner_limits(self, name: str, limits: OwnerLimits) -> OwnerLimits:
        """Limit an owner from now on; what runs goes on, what waits is decided anew."""
        return from_json(OwnerLimits, await self._request("PUT", _limits_path(name), to_json(limits)), "limits")

    async def drop_owner_limits(self, name: str) -> None:
        """End an owner's own limits; may be called again."""
        await self._request("DELETE", _limits_path(name))

    async def placements(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return why leases went where they went, newest first."""
        answer = await self._request("GET", "placements", query={"limit": str(limit)})
        return list(answer["placements"])

    async def events(self) -> AsyncIterator[tuple[str, Any]]:
        """Yield `(event, data)`, a snapshot first, until the connection is lost.

        Raises
        ------
        FarmUnavailable
            It is lost; the caller decides when to ask again.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=self.timeout, sock_read=SILENCE_SECONDS)
        try:
            async with self._http().get(
                self._base() + "api/v1/events", headers=self._headers(), timeout=timeout, ssl=self._ssl()
            ) as response:
                if response.status != 200:
                    raise error_of(response.status, await _json(response))
                async for event in _parse(response.content):
                    yield event
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise FarmUnavailable(f"the controller's events were lost: {type(exc).__name__}: {exc}") from exc
        raise FarmUnavailable("the controller ended its events")

    # ---- inside -------------------------------------------------------------------------------------------------

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(read_bufsize=2**20)
        return self._session

    def _base(self) -> str:
        url = str(self.url) or local.find_service(Path(self.runtime_dir), SERVICE)
        return url if url.endswith("/") else url + "/"

    def _ssl(self) -> ssl.SSLContext | bool:
        if self.certs_dir or self.url:
            return self._hub_connections.context(Path(self.certs_dir) if self.certs_dir else None)
        return self._hub_connections.context(local.find_certs_dir(Path(self.runtime_dir), SERVICE))

    def _headers(self) -> dict[str, str]:
        if self.token:
            return {"Authorization": f"token {self.token}"}
        try:
            token = (Path(self.runtime_dir) / "token").read_text().strip()
        except OSError:
            token = os.environ.get("JUPYTERHUB_API_TOKEN", "")
        return {"Authorization": f"token {token}"} if token else {}

    async def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        extra_seconds: float = 0,
    ) -> Any:
        timeout = aiohttp.ClientTimeout(total=self.timeout + extra_seconds)
        url = self._base() + "api/v1/" + path
        about: dict[str, Any] = {"headers": self._headers(), "timeout": timeout, "ssl": self._ssl()}
        try:
            async with self._http().request(
                method, url, json=body, params=query, allow_redirects=False, **about
            ) as response:
                answer = await _json(response)
                if response.status >= 300:
                    raise error_of(response.status, answer)
                return answer
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            why = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
            raise FarmUnavailable(
                f"the controller does not answer at {url} ({why}): see the log of the {SERVICE} service"
            ) from exc


def _limits_path(owner: str) -> str:
    return f"owners/{quote(owner, safe='')}/limits"


async def _json(response: aiohttp.ClientResponse) -> Any:
    try:
        return json.loads(await response.text())
    except ValueError:
        return {}


async def _parse(content: aiohttp.StreamReader) -> AsyncIterator[tuple[str, Any]]:
    """Yield the events of a stream; comments and ids are left out."""
    event, rest = "", b""
    while chunk := await content.readany():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"event: "):
                event = line[7:].decode()
            elif line.startswith(b"data: "):
                yield event, json.loads(line[6:])
