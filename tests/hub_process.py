"""A real Hub as a process, booted from the root jupyterhub_config.py, with the real proxy and services.

::

    async with ssh_node("n1", "127.0.0.11", sys.executable, simulated_gpus=1) as node, hub_process([node.spec]) as hub:
        await hub.add_user("ada")
        await hub.start_server("ada", {"gpus": 1})
        assert "GPU-" in await hub.run_cell("ada", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
        await hub.kill()
        await hub.start()
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from ports import free_ports
from waiting import eventually

from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.demo.proxy import proxy_command
from jupyterhub_agentfarm.errors import AgentFarmError
from jupyterhub_agentfarm.models import NodeSpec
from jupyterhub_agentfarm.records import to_json
from jupyterhub_agentfarm.share import share_path

PASSWORD = "correct horse"
_PORTS = ("PORT", "HUB_PORT", "PROXY_API_PORT", "CONTROLLER_PORT", "BENCHMARK_PORT", "AGENTS_PORT")


def proxy_cache() -> Path:
    """Return the folder in which the proxy is kept between test runs; it is the account's alone.

    $FARM_TEST_CACHE names it where the account seems to be another: in a user namespace.
    """
    path = Path(os.environ.get("FARM_TEST_CACHE") or f"{tempfile.gettempdir()}/agentfarm-tests-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    assert path.stat().st_uid == os.getuid(), f"{path} belongs to somebody else"
    return path


class HubProcess:
    """The Hub, its proxy and its services; made by :func:`hub_process`."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory = directory
        self.environment = environment
        self.log_path = directory / "hub.log"
        self.url = f"http://127.0.0.1:{environment['AGENTFARM_PORT']}"
        self.farm = FarmClient(runtime_dir=environment["AGENTFARM_RUNTIME_DIR"])
        self.token = ""
        self.process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None

    # ---- the process ----

    def command(self) -> list[str]:
        """Return the Hub's program and arguments."""
        return [
            *(sys.executable, "-m", "jupyterhub", "-f", str(share_path("jupyterhub_config.py"))),
            f"--Spawner.environment=HOME={self.directory / 'home'}",  # not the home of who runs the tests
        ]

    async def start(self) -> None:
        """Start the Hub and return when it answers through its proxy."""
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command(),
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await eventually(self._answers, f"the Hub answers; its log is {self.log_path}", timeout=150, interval=0.1)
        if not self.token:
            self.token = await self._log_in("admin")

    async def kill(self) -> None:
        """SIGKILL the Hub alone: its proxy and services stay, as they do."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """Stop the Hub with SIGTERM, which servers survive; it may have ended already."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(30):
                    await self.process.wait()
            except TimeoutError:
                self.process.send_signal(signal.SIGUSR1)  # it writes into its log what it is doing
                await asyncio.sleep(3)
                await self.kill()
                tail = self.log_path.read_text(errors="replace")[-6000:]
                raise AssertionError(f"the Hub did not end within 30 s of SIGTERM: {tail}") from None

    async def close(self) -> None:
        """Stop every server, then the Hub, then whatever a killed Hub left behind."""
        with suppress(AgentFarmError, TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.gather(*(self.farm.release(lease.id, 0) for lease in await self.farm.leases()))
        await self.farm.aclose()
        if self._session is not None:
            await self._session.close()
        await self.stop()
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Return the processes of this Hub: itself, its services, its proxy."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get("AGENTFARM_TEST_HUB") == self.environment["AGENTFARM_TEST_HUB"]
                if ours and process.pid != os.getpid():
                    found.append(process)
        return found

    def services(self, name: str) -> list[psutil.Process]:
        """Return the processes of a service, by its package: one, or none while it is away."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if f"jupyterhub_agentfarm.{name}" in process.cmdline():
                    found.append(process)
        return found

    def log_text(self, after: int = 0) -> str:
        """Return what Hub, proxy and services wrote, from the byte `after` on."""
        return self.log_path.read_bytes()[after:].decode(errors="replace")

    async def emptied(self) -> None:
        """Stop every server, and forget every user but the admin: the Hub is as it was at first."""
        await asyncio.gather(*(self.farm.release(lease.id, 0) for lease in await self.farm.leases()))

        async def quiet() -> bool:
            _, users = await self.api("GET", "/users?include_stopped_servers=0")
            return not any(user["servers"] or user["pending"] for user in users)

        await eventually(quiet, "no server runs or is pending", timeout=30, interval=0.05)
        _, users = await self.api("GET", "/users")
        for name in {user["name"] for user in users} - {"admin"}:
            status, body = await self.api("DELETE", f"/users/{name}")
            assert status == 204, body

    # ---- its API ----

    @property
    def http(self) -> aiohttp.ClientSession:
        """A session without a token."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        return self._session

    def headers(self, token: str | None = None) -> dict[str, str]:
        """Return the header that carries a token, the admin's if none is given."""
        return {"Authorization": f"token {token or self.token}"}

    async def api(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Return status and decoded body of a request to the Hub's API."""
        url = f"{self.url}/hub/api{path}"
        async with self.http.request(method, url, json=body, headers=self.headers(token)) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def direct(self, method: str, path: str, body: Any = None) -> int:
        """Return the status of a request to the Hub's API that does not pass the proxy."""
        url = f"http://127.0.0.1:{self.environment['AGENTFARM_HUB_PORT']}/hub/api{path}"
        async with self.http.request(method, url, json=body, headers=self.headers()) as answer:
            return answer.status

    async def add_user(self, name: str) -> str:
        """Make a user; return a token of theirs."""
        status, body = await self.api("POST", f"/users/{name}")
        assert status == 201, body
        return await self._log_in(name)

    async def request_server(self, user: str, options: dict[str, Any] | None = None, name: str = "") -> int:
        """Ask for a server; return the status, at once."""
        status, body = await self.api("POST", self._server(user, name), options)
        assert status in (201, 202), f"{status}: {body}"
        return status

    async def start_server(self, user: str, options: dict[str, Any] | None = None, name: str = "") -> dict[str, Any]:
        """Start a server and return its model when it is ready."""
        await self.request_server(user, options, name)
        return await self.ready(user, name)

    async def ready(self, user: str, name: str = "", timeout: float = 90) -> dict[str, Any]:
        """Return the server's model when it is ready."""

        async def model() -> Any:
            found = await self.model(user, name)
            return found if found and found["ready"] else None

        server: dict[str, Any] = await eventually(model, f"{user}'s server {name!r} is ready", timeout, interval=0.1)
        return server

    async def model(self, user: str, name: str = "") -> dict[str, Any] | None:
        """Return the server's model, or None when it does not run and is not pending."""
        _, body = await self.api("GET", f"/users/{user}")
        found: dict[str, Any] | None = body["servers"].get(name)
        return found

    async def stop_server(self, user: str, name: str = "") -> None:
        """Stop a server and return when it is gone."""
        status, body = await self.api("DELETE", self._server(user, name))
        assert status in (202, 204), f"{status}: {body}"

        async def gone() -> bool:
            found = await self.model(user, name)
            return found is None or not (found["ready"] or found["pending"])

        await eventually(gone, f"{user}'s server {name!r} is stopped", timeout=60, interval=0.1)

    async def run_cell(self, user: str, code: str, name: str = "", kernel_name: str = "python3") -> str:
        """Run `code` in a new kernel of the server, through the proxy; return what it printed."""
        base = f"{self.url}/user/{user}/{name + '/' if name else ''}"
        async with self.http.post(f"{base}api/kernels", json={"name": kernel_name}, headers=self.headers()) as answer:
            assert answer.status == 201, await answer.text()
            kernel = (await answer.json())["id"]
        channels = f"{base}api/kernels/{kernel}/channels"
        async with asyncio.timeout(60), self.http.ws_connect(channels, headers=self.headers()) as socket_:
            printed = await _execute(socket_, code)
        async with self.http.delete(f"{base}api/kernels/{kernel}", headers=self.headers()) as answer:
            assert answer.status == 204, await answer.text()
        return printed

    async def _answers(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            raise AssertionError(f"the Hub ended with status {self.process.returncode}:\n{self.log_text()[-4000:]}")
        try:
            async with self.http.get(f"{self.url}/hub/api/") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _log_in(self, name: str) -> str:
        body = {"auth": {"username": name, "password": PASSWORD}, "note": "test"}
        async with self.http.post(f"{self.url}/hub/api/users/{name}/tokens", json=body) as answer:
            assert answer.status == 201, await answer.text()
            return str((await answer.json())["token"])

    @staticmethod
    def _server(user: str, name: str) -> str:
        return f"/users/{user}/servers/{name}" if name else f"/users/{user}/server"


async def _execute(channels: aiohttp.ClientWebSocketResponse, code: str) -> str:
    identity = uuid.uuid4().hex
    header = {"msg_id": identity, "msg_type": "execute_request", "username": "", "session": identity, "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    await channels.send_json({**message, "channel": "shell", "buffers": []})
    printed = ""
    while True:
        answer = await channels.receive_json()
        if answer["parent_header"].get("msg_id") != identity:
            continue
        kind, content = answer["msg_type"], answer["content"]
        if kind == "stream":
            printed += content["text"]
        elif kind == "error":
            raise AssertionError("\n".join(content["traceback"]))
        elif kind == "status" and content["execution_state"] == "idle":
            return printed


@asynccontextmanager
async def hub_process(
    nodes: Sequence[NodeSpec], *, kind: type[HubProcess] = HubProcess, **environment: str
) -> AsyncIterator[HubProcess]:
    """Run a Hub with these nodes.

    Parameters
    ----------
    nodes
        Their specifications, with port and host key.
    kind
        The class of the Hub's process.
    environment
        More variables; AGENTFARM_SERVICES="agentfarm" is the default.
    """
    directory = Path(tempfile.mkdtemp(prefix="af"))
    (directory / "nodes.json").write_text(json.dumps(to_json(list(nodes))))
    (directory / "home").mkdir()
    command = await asyncio.to_thread(proxy_command, proxy_cache())
    settings = {f"AGENTFARM_{name}": str(port) for name, port in zip(_PORTS, free_ports(len(_PORTS)), strict=True)}
    settings |= {
        "PATH": os.environ["PATH"],
        "HOME": str(directory / "home"),
        "AGENTFARM_IP": "127.0.0.1",
        "AGENTFARM_RUNTIME_DIR": str(directory / "run"),
        "AGENTFARM_DATA_DIR": str(directory),
        "AGENTFARM_NODES": str(directory / "nodes.json"),
        "AGENTFARM_PROXY_COMMAND": json.dumps(command),
        "AGENTFARM_DEMO_PASSWORD": PASSWORD,
        "AGENTFARM_SERVICES": "agentfarm",
        "AGENTFARM_TEST_HUB": str(directory),
    }
    hub = kind(directory, settings | environment)
    try:
        await hub.start()
        yield hub
    finally:
        await hub.close()
        sys.stderr.write(hub.log_text()[-20_000:])  # pytest shows it when the test failed
        shutil.rmtree(directory, ignore_errors=True)
