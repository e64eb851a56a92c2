"""A controller in the test's process: the real application on a free port, with nodes behind real SSH."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from ssh_node import SSHNode, ssh_node
from traitlets.config import Config
from waiting import eventually

from jupyterhub_agentfarm.controller.app import ControllerApp
from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.models import LaunchOrder, Lease
from jupyterhub_agentfarm.records import to_json
from jupyterhub_agentfarm.services.hub import close_shared_client

#: A server that answers every path with the GPUs it sees, on the socket it inherits.
SERVER = """
import http.server, os, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["CUDA_VISIBLE_DEVICES"].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        print("asked", flush=True)
listener = socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"]))
server = http.server.HTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
server.socket.close(); server.socket = listener
print("serving, secret length", len(os.environ.get("SECRET", "")), flush=True)
server.serve_forever()
"""


def order(command: tuple[str, ...] = ("{python}", "-c", SERVER), **changes: Any) -> LaunchOrder:
    """Return the order for the tests' server."""
    return LaunchOrder(command, "/user/ada/", {"SECRET": "never-in-a-log", "PATH": "/usr/bin:/bin"}, **changes)


class Controller:
    """One life of a controller."""

    def __init__(self, app: ControllerApp, client: FarmClient) -> None:
        self.app = app
        self.client = client


@asynccontextmanager
async def controller(
    directory: Path, *nodes: SSHNode, config: dict[str, dict[str, Any]] | None = None
) -> AsyncIterator[Controller]:
    """Run a controller whose database and runtime directory are below `directory`."""
    settings = Config({"Inventory": {"nodes": [to_json(each.spec) for each in nodes]}})
    settings.merge(Config(config or {}))
    app = ControllerApp(
        runtime_dir=str(directory / "run"),
        db_url=f"sqlite:///{directory}/farm.sqlite",
        service_url="http://127.0.0.1:0",
        config=settings,
    )
    client = FarmClient(runtime_dir=app.runtime_dir)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(app.close)
        stack.push_async_callback(close_shared_client)
        await app.open()
        server = app.listen()
        stack.push_async_callback(server.close_all_connections)
        stack.callback(server.stop)
        stack.push_async_callback(client.aclose)
        yield Controller(app, client)


@asynccontextmanager
async def gpu_nodes(*names: str) -> AsyncIterator[list[SSHNode]]:
    """Run nodes with the real noded and one simulated GPU each."""
    async with AsyncExitStack() as stack:
        made = [
            stack.enter_async_context(ssh_node(name, f"127.0.0.{11 + index}", sys.executable, simulated_gpus=1))
            for index, name in enumerate(names)
        ]
        yield list(await asyncio.gather(*made))


async def ready(farm: Controller, count: int) -> None:
    """Wait until this many nodes are eligible and have reported."""

    async def eligible() -> bool:
        nodes = await farm.client.nodes()
        checked = [farm.app.farm._reconciler.is_reconciled(node["name"]) for node in nodes]
        return sum(node["eligible"] and node["telemetry"] is not None for node in nodes) == count and all(checked)

    await eventually(eligible, f"{count} nodes are ready", timeout=30)


async def state(farm: Controller, lease: Lease, wanted: str, timeout: float = 10) -> Lease:
    """Wait until a lease is in a state; return it."""

    async def reached() -> Lease | None:
        now = await farm.client.lease(lease.id)
        return now if now.state == wanted else None

    found: Lease = await eventually(reached, f"the lease is {wanted}", timeout)
    return found


def alive(lease: Lease) -> bool:
    """Whether the lease's process is there (and no zombie)."""
    assert lease.server is not None
    try:
        return "\nState:\tZ" not in Path(f"/proc/{lease.server.pid}/status").read_text()
    except FileNotFoundError:
        return False
