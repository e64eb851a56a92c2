"""The real server program on an inherited socket, against a small stand-in of the Hub's API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import pytest
from jupyterhub import __version__ as hub_version
from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import websocket_connect
from waiting import eventually

from jupyterhub_agentfarm.noded import procfs
from jupyterhub_agentfarm.runs.client import RunsNotServed, ServerRuns

PREFIX = "/user/ada/"
TOKEN = "token-of-ada"


class HubApi(RequestHandler):
    """What a server asks its Hub: the version, who a token is, and nothing else that matters here."""

    def set_default_headers(self) -> None:
        """Name the version, as the Hub does."""
        self.set_header("X-JupyterHub-Version", hub_version)

    def get(self, path: str) -> None:
        """Answer with the version, or with the user."""
        if path == "/user":
            scopes = ["access:servers!user=ada"]
            self.write({"kind": "user", "name": "ada", "admin": False, "groups": [], "scopes": scopes})
        else:
            self.write({"version": hub_version})

    def post(self, path: str) -> None:
        """Take a report of activity."""


@dataclass
class Served:
    """A server that answers."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Its address and prefix."""
        return f"127.0.0.1:{self.port}{PREFIX}"


@pytest.fixture
async def hub() -> AsyncIterator[str]:
    """URL of the stand-in's API."""
    server = HTTPServer(Application([(r"/hub/api(.*)", HubApi)]))
    (sock,) = bind_sockets(0, "127.0.0.1")
    server.add_sockets([sock])
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/hub/api"
    server.stop()
    await server.close_all_connections()


def environment(hub: str, home: Path, sock: socket.socket) -> dict[str, str]:
    """Return what the Hub and noded give a server."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "JUPYTERHUB_API_URL": hub,
        "JUPYTERHUB_ACTIVITY_URL": f"{hub}/users/ada/activity",
        "JUPYTERHUB_API_TOKEN": "token-of-the-server",
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-ada",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": json.dumps(["access:servers!server=ada/", "access:servers!user=ada"]),
        "JUPYTERHUB_USER": "ada",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{sock.getsockname()[1]}{PREFIX}",
        "AGENTFARM_LEASE_ID": "lease-1",
        "AGENTFARM_SOCKET_FD": str(sock.fileno()),
    }


@asynccontextmanager
async def serving(hub: str, folder: Path, **variables: str) -> AsyncIterator[Served]:
    """Run a server on a socket that it inherits."""
    log_path = folder / "server.log"
    with socket.create_server(("127.0.0.1", 0)) as sock, log_path.open("wb") as log:
        port = sock.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jupyterhub_agentfarm.server", "--allow-root"),
            env=environment(hub, folder, sock) | variables,
            pass_fds=(sock.fileno(),),
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield Served(process, port, log_path)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()


@pytest.fixture
async def served(hub: str, tmp_path: Path) -> AsyncIterator[Served]:
    """A server on a socket that it inherited."""
    async with serving(hub, tmp_path) as made:
        yield made


async def answer(served: Served, path: str, **headers: str) -> httpx.Response:
    """Return the server's answer; the kernel holds the request until the server accepts."""
    async with httpx.AsyncClient(timeout=40) as client:
        return await client.get(f"http://{served.url}{path}", headers=headers)


async def test_the_inherited_socket_is_served_and_every_answer_names_the_lease(served: Served) -> None:
    """The API answers without a token, a missing page too, each with the lease and the version of JupyterHub."""
    for path, status in (("api", 200), ("api/kernels", 403), ("no/such/page", 404)):
        response = await answer(served, path)
        assert response.status_code == status, served.log.read_text("utf-8")
        assert response.headers["X-AgentFarm-Lease"] == "lease-1"
        assert response.headers["X-JupyterHub-Version"] == hub_version


async def test_a_kernel_gets_neither_socket_nor_variable_and_can_be_talked_to(served: Served) -> None:
    """A kernel of the server does not hold the listening socket, and its WebSocket works."""
    await answer(served, "api")
    authorization = {"Authorization": f"token {TOKEN}"}
    async with httpx.AsyncClient(timeout=40, headers=authorization) as client:
        created = await client.post(f"http://{served.url}api/kernels", json={"name": "python3"})
    assert created.status_code == 201, served.log.read_text("utf-8")
    await _ask_kernel_info(served, created.json()["id"], authorization)
    inodes = procfs.listening_inodes(served.port)
    kernels = [p.pid for p in procfs.scan().values() if p.ppid == served.process.pid]
    assert kernels
    assert procfs.holds_socket(served.process.pid, inodes)
    for pid in (served.process.pid, *kernels):
        assert procfs.holds_socket(pid, inodes) == (pid == served.process.pid)
    for pid in kernels:
        assert procfs.lease_of(pid) == "lease-1"
        assert b"AGENTFARM_SOCKET_FD" not in environ(pid)


def environ(pid: int) -> bytes:
    """Return the environment of a process."""
    return Path(f"/proc/{pid}/environ").read_bytes()


async def _ask_kernel_info(served: Served, kernel: str, headers: dict[str, str]) -> None:
    url = f"ws://{served.url}api/kernels/{kernel}/channels"
    request = HTTPRequest(url, headers=headers)
    peer = await websocket_connect(request)
    header = {
        "msg_id": "1",
        "msg_type": "kernel_info_request",
        "username": "",
        "session": "s",
        "date": "",
        "version": "5",
    }
    message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": {}}
    await peer.write_message(json.dumps(message))
    async with asyncio.timeout(30):
        while json.loads(await peer.read_message() or "{}")["header"]["msg_type"] != "kernel_info_reply":
            continue
        peer.close()
        while await peer.read_message() is not None:
            continue


async def test_without_an_inherited_socket_it_binds_the_port_itself(hub: str, tmp_path: Path) -> None:
    """Started as plain jupyterhub-singleuser is, it listens where JUPYTERHUB_SERVICE_URL says."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        env = environment(hub, tmp_path, sock)
        port = sock.getsockname()[1]
    del env["AGENTFARM_SOCKET_FD"]
    log_path = tmp_path / "server.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jupyterhub_agentfarm.server", "--allow-root"),
            env=env,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    served = Served(process, port, log_path)
    await eventually(lambda: procfs.listening_inodes(port), "the server listens", timeout=40)
    assert (await answer(served, "api")).headers["X-AgentFarm-Lease"] == "lease-1"
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        await process.wait()


async def test_only_the_kernels_that_the_owner_may_use(hub: str, tmp_path: Path) -> None:
    """Others are neither shown nor started by name, session or run, whatever the user's configuration says."""
    folder = tmp_path / "share" / "kernels" / "mine"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Mine", "language": "python"}))
    (tmp_path / "config").mkdir()
    own = 'c.KernelSpecManager.allowed_kernelspecs = {"mine", "python3"}\n'
    (tmp_path / "config" / "jupyter_server_config.py").write_text(own)
    variables = {"JUPYTER_PATH": str(tmp_path / "share"), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    async with (
        serving(hub, tmp_path, AGENTFARM_KERNELS="ir,Mine", **variables) as served,
        httpx.AsyncClient(timeout=40, headers={"Authorization": f"token {TOKEN}"}) as client,
    ):
        api = f"http://{served.url}api/"
        shown = (await client.get(f"{api}kernelspecs")).json()
        assert (shown["default"], list(shown["kernelspecs"])) == ("mine", ["mine"])
        assert (await client.get(f"{api}kernelspecs/python3")).status_code == 404
        assert (await client.post(f"{api}kernels", json={"name": "python3"})).status_code >= 400
        session = {"path": "a.ipynb", "type": "notebook", "name": "", "kernel": {"name": "Python3"}}
        assert (await client.post(f"{api}sessions", json=session)).status_code == 501
        kernelspec = {"name": "python3", "display_name": "Python"}
        notebook = {"cells": [], "metadata": {"kernelspec": kernelspec}, "nbformat": 4, "nbformat_minor": 5}
        runs = f"http://{served.url}agentfarm/api/v1/runs"
        run = f"{runs}/{(await client.post(runs, json={'notebook': notebook})).json()['id']}"

        async def refused() -> bool:
            return (await client.get(run)).json()["reason"] == "kernel_not_found"

        await eventually(refused, "the run ended", timeout=40)
        assert (await client.get(f"{api}kernels")).json() == []
        started = await client.post(f"{api}kernels", json={})
        assert (started.status_code, started.json()["name"]) == (201, "mine")
        await _ask_kernel_info(served, started.json()["id"], {"Authorization": f"token {TOKEN}"})


async def test_a_server_without_the_farms_extension_says_so(hub: str, tmp_path: Path) -> None:
    """Whoever asks it for a run is told what to install, instead of taking the run for lost."""
    configuration = {"ServerApp": {"jpserver_extensions": {"jupyterhub_agentfarm.runs": False}}}
    (tmp_path / ".jupyter").mkdir()
    (tmp_path / ".jupyter" / "jupyter_server_config.json").write_text(json.dumps(configuration))
    async with (
        serving(hub, tmp_path) as served,
        aiohttp.ClientSession(headers={"Authorization": f"token {TOKEN}"}) as session,
    ):
        await answer(served, "api")
        with pytest.raises(RunsNotServed, match="on gpu-1 carries out no notebooks: install jupyterhub-agentfarm"):
            await ServerRuns(session, f"http://{served.url}", "gpu-1").get("0" * 16)
