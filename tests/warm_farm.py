"""A noded and a small stand-in of the Hub's API, for servers that are started cold and warm."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from jupyterhub import __version__ as hub_version
from noded_process import NodedProcess, running_noded
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from waiting import eventually

SERVER = (sys.executable, "-m", "jupyterhub_agentfarm.server", "--allow-root")
WARM_KERNELS = "--WarmKernels.enabled=True"


class _HubApi(RequestHandler):
    """What a server asks its Hub: the version, and who a token is: "token-of-NAME" is NAME's."""

    def set_default_headers(self) -> None:
        """Name the version, as the Hub does."""
        self.set_header("X-JupyterHub-Version", hub_version)

    def get(self, path: str) -> None:
        """Answer with the version, or with the user."""
        name = self.request.headers.get("Authorization", "").removeprefix("token token-of-")
        if path == "/user":
            scopes = [f"access:servers!user={name}"]
            self.write({"kind": "user", "name": name, "admin": False, "groups": [], "scopes": scopes})
        else:
            self.write({"version": hub_version})

    def post(self, path: str) -> None:
        """Take a report of activity."""


@dataclass
class Served:
    """A server that noded started."""

    lease: str
    user: str
    status: dict[str, Any]
    home: Path
    warm: bool

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.status["pid"])

    def url(self, path: str = "") -> str:
        """Return an address of it."""
        return f"http://127.0.0.1:{self.status['port']}/user/{self.user}/{path}"

    def client(self, **headers: str) -> httpx.AsyncClient:
        """Return a client that is its user."""
        return httpx.AsyncClient(timeout=180, headers={"Authorization": f"token token-of-{self.user}", **headers})

    async def get(self, path: str) -> httpx.Response:
        """Return what it answers its user."""
        async with self.client() as client:
            return await client.get(self.url(path))

    async def ran(self, code: str) -> str:
        """Return what a cell of Python prints that is run in a kernel of it."""
        cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None, "source": code}
        notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        runs = self.url("agentfarm/api/v1/runs")
        async with self.client() as client:
            run = (await client.post(runs, json={"notebook": notebook})).json()["id"]

            async def ended() -> Any:
                return (await client.get(f"{runs}/{run}")).json()["ended_at"]

            await eventually(ended, "the run has ended", timeout=60)
            (made,) = (await client.get(f"{runs}/{run}/notebook")).json()["cells"]
        assert [output["output_type"] for output in made["outputs"]] == ["stream"], made["outputs"]
        return str(made["outputs"][0]["text"])

    def proc(self, name: str) -> bytes:
        """Return a file of /proc."""
        return Path(f"/proc/{self.pid}/{name}").read_bytes()


@dataclass
class WarmFarm:
    """A noded, and what its servers are started with."""

    noded: NodedProcess
    hub: str
    folder: Path
    served: dict[str, Served] = field(default_factory=dict)

    async def warm_starts(self) -> dict[str, Any]:
        """Return what noded tells of them."""
        found: dict[str, Any] = (await self.noded.call("telemetry"))["warm_starts"]
        return found

    async def counts(self) -> tuple[int, dict[str, int]]:
        """Return how many starts were warm, and how many cold by reason, of a report from now on."""
        assert self.noded.client
        seen = len(self.noded.client.telemetry)
        await eventually(lambda: len(self.noded.client.telemetry) > seen + 1, "noded reports")  # type: ignore[union-attr]
        found = self.noded.client.telemetry[-1]["warm_starts"]
        return found["warm"], found["cold"]

    def environment(self, user: str, home: Path) -> dict[str, str]:
        """Return what the Hub gives a server."""
        prefix = f"/user/{user}/"
        return {
            "HOME": str(home),
            "USER": user,
            "JUPYTERHUB_API_URL": self.hub,
            "JUPYTERHUB_ACTIVITY_URL": f"{self.hub}/users/{user}/activity",
            "JUPYTERHUB_API_TOKEN": f"secret-token-of-the-server-of-{user}",
            "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{user}",
            "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{prefix}oauth_callback",
            "JUPYTERHUB_OAUTH_SCOPES": json.dumps([f"access:servers!server={user}/", f"access:servers!user={user}"]),
            "JUPYTERHUB_USER": user,
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_SERVICE_PREFIX": prefix,
            "JUPYTER_RUNTIME_DIR": "{server_dir}/jupyter",
        }

    async def start(
        self, user: str, lease: str = "", variables: Mapping[str, str] | None = None, **changes: Any
    ) -> Served:
        """Start a server, wait for its first answer, and say whether it was started warm."""
        lease = lease or f"lease-of-{user}"
        before, _ = await self.counts()
        status = await self.launch(user, lease, variables, **changes)
        after, _ = await self.counts()
        served = self.served[lease] = Served(lease, user, status, self.folder / user, after > before)
        answer = await served.get("api")
        assert answer.status_code == 200, await self.log(lease)
        return served

    async def launch(
        self, user: str, lease: str, variables: Mapping[str, str] | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Have noded launch a server, and return its status."""
        home = self.folder / user
        home.mkdir(exist_ok=True)
        environment = {**self.environment(user, home), **(variables or {})}
        spec: dict[str, Any] = {
            "environment": environment,
            "command": list(SERVER),
            "cwd": str(home),
            "base_url": f"/user/{user}/",
            "owner": user,
            **changes,
        }
        return await self.noded.launch(lease, timeout=90, **spec)

    async def log(self, lease: str) -> str:
        """Return what a server wrote."""
        return str((await self.noded.call("logs", {"lease": lease}))["text"])

    async def stop(self, served: Served, grace_seconds: float = 10) -> None:
        """Stop a server."""
        answer = await self.noded.call("stop", {"lease": served.lease, "grace_seconds": grace_seconds}, timeout=40)
        assert answer == {"gone": True, "gpus_free": True}
        await self.noded.call("forget", {"lease": served.lease})
        del self.served[served.lease]

    async def until_warm(self) -> None:
        """Wait until noded says that it starts servers warm."""

        async def warm() -> bool:
            found = await self.warm_starts()
            assert found["state"] != "cold", found
            return bool(found["state"] == "warm")

        await eventually(warm, f"the environment is warm; {self.noded.log[-2000:]}", timeout=200, interval=0.2)


@asynccontextmanager
async def warm_farm(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> AsyncIterator[WarmFarm]:
    """Run a noded that starts servers warm, unless `arguments` say otherwise, through `prefix`, beside a Hub."""
    if not any("warm_servers" in argument for argument in arguments):
        arguments = ("--NodedApp.warm_servers=True", *arguments)
    server = HTTPServer(Application([(r"/hub/api(.*)", _HubApi)]))
    (sock,) = bind_sockets(0, "127.0.0.1")
    server.add_sockets([sock])
    try:
        async with running_noded(1, arguments=list(arguments), prefix=prefix) as noded:
            yield WarmFarm(noded, f"http://127.0.0.1:{sock.getsockname()[1]}/hub/api", folder)
    finally:
        server.stop()
        await server.close_all_connections()
