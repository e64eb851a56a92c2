"""A real Hub with the agents service and real nodes, and what tests of tasks ask of them.

The nodes share this machine's cores and report them busy, so tasks ask for none.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from configured_hub import configured
from hub_process import HubProcess, hub_process
from jupyter_server_process import notebook
from ssh_node import SSHNode, noded_pid, ssh_node
from waiting import eventually

#: What a request meets while the service or the Hub is started again.
AWAY = (OSError, TimeoutError, ValueError, aiohttp.ClientError)
#: Options of every test Hub with tasks.
LINES = """
c.TaskServers.cpus = 0
c.Carriers.retry_pause = 0.1
c.Carriers.poll_interval = 0.2
c.Inventory.down_after = 20
"""
ENDED = ("completed", "cancelled", "discarded")


@dataclass
class TasksHub:
    """A Hub whose agents have tasks executed on these nodes."""

    hub: HubProcess
    nodes: dict[str, SSHNode]
    tokens: dict[str, str] = field(default_factory=dict)

    # ---- the API ----

    async def request(self, method: str, path: str, body: Any = None, agent: str | None = None) -> Any:
        """Return the decoded answer to a request of the admin's, or of an agent's."""
        url = f"{self.hub.url}/services/agents/api/v1/{path}"
        # Not on a connection that the proxy may close for being idle at this moment.
        headers = self.hub.headers(self.tokens[agent] if agent else None) | {"Connection": "close"}
        timeout = aiohttp.ClientTimeout(total=60)
        async with self.hub.http.request(method, url, json=body, headers=headers, timeout=timeout) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise ValueError(f"{method} {path}: {answer.status} {text}")
            return json.loads(text) if "json" in answer.headers.get("Content-Type", "") else text

    async def answers(self) -> bool:
        """Whether the agents service answers."""
        with suppress(*AWAY):
            return isinstance(await self.request("GET", "agents"), dict)
        return False

    async def register(self, name: str, **fields: Any) -> None:
        """Register an agent."""
        fields.setdefault("limits", {"servers": 4, "gpus": 2})
        body = await self.request("POST", "agents", {"name": name, "owner": "ada", **fields})
        self.tokens[name] = body["token"]["token"]

    async def submit(self, agent: str, *cells: str, **fields: Any) -> str:
        """Submit a notebook of these cells as an agent; return the task's id."""
        body = {"notebook": notebook(*cells), **fields}
        return str((await self.request("POST", "tasks", body, agent))["id"])

    async def task(self, task_id: str) -> dict[str, Any]:
        """Return a task with its attempts and changes."""
        return dict(await self.request("GET", f"tasks/{task_id}"))

    async def until(self, task_id: str, wanted: Any, message: str, timeout: float = 60) -> dict[str, Any]:
        """Return the view of a task once `wanted` is true of it; the service may be away meanwhile."""
        seen: dict[str, Any] = {}

        async def fulfilled() -> bool:
            with suppress(*AWAY):
                seen.clear()
                seen.update(await self.task(task_id))
                return bool(wanted(seen))
            return False

        try:
            await eventually(fulfilled, message, timeout, interval=0.05)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{json.dumps(seen, indent=1)[:6000]}") from exc
        return seen

    async def ended(self, task_id: str, timeout: float = 90) -> dict[str, Any]:
        """Return the view of a task that has ended."""
        return await self.until(task_id, lambda view: view["state"] in ENDED, "it has ended", timeout)

    async def running(self, task_id: str, attempt: int = 1, timeout: float = 60) -> dict[str, Any]:
        """Return the view of a task whose run is known."""
        return await self.until(task_id, lambda view: _newest(view, attempt)["run_id"], "its run is known", timeout)

    async def in_phase(self, task_id: str, phase: str, attempt: int = 1) -> dict[str, Any]:
        """Return the view of a task whose attempt is in a phase."""
        return await self.until(task_id, lambda view: _newest(view, attempt)["phase"] == phase, f"it is {phase}")

    # ---- what is killed ----

    def service(self) -> psutil.Process:
        """Return the one process of the agents service."""
        (only,) = self.hub.services("agents")
        return only

    async def kill_service(self) -> None:
        """SIGKILL the agents service; return when the Hub's new one answers."""
        old = self.service()
        old.kill()
        await eventually(lambda: not old.is_running() or old.status() == "zombie", "it is gone")
        await eventually(self.answers, "the agents service answers again", 60, 0.1)

    async def ready(self) -> None:
        """Return when all nodes take servers."""

        async def all_are() -> bool:
            with suppress(Exception):
                nodes = await self.hub.farm.nodes()
                return all(node["eligible"] for node in nodes)
            return False

        await eventually(all_are, "the nodes are ready", 150, 0.1)

    async def servers_on(self, node: str) -> list[psutil.Process]:
        """Return the processes of the servers on a node."""
        leases = [lease for lease in await self.hub.farm.leases() if lease.node == node and lease.server is not None]
        return [psutil.Process(lease.server.pid) for lease in leases if lease.server and lease.server.pid]

    async def lose_power(self, node: str) -> None:
        """Kill everything that runs on a node, its link first."""
        servers = await self.servers_on(node)
        state_dir = self.nodes[node].state_dir
        daemon = noded_pid(state_dir)
        await self.nodes[node].stop(signal.SIGKILL)
        os.kill(daemon, signal.SIGKILL)
        for server in servers:
            for process in [*server.children(recursive=True), server]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def _newest(view: dict[str, Any], number: int) -> dict[str, Any]:
    attempts = [attempt for attempt in view["attempts"] if attempt["number"] == number]
    return attempts[0] if attempts else {"run_id": None, "phase": None}


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file that notebooks append to; none while it is not there."""
    return path.read_text().splitlines() if path.exists() else []


@asynccontextmanager
async def tasks_hub(count: int = 2, lines: str = "", warm: bool = False, **environment: str) -> AsyncIterator[TasksHub]:
    """Run a Hub with the agents service and so many nodes, whose agent `bot` is owned by ada.

    Parameters
    ----------
    count
        How many nodes.
    lines
        Lines of the Hub's configuration.
    warm
        Whether the nodes start servers warm, which is not the default.
    environment
        Variables of the Hub's process.
    """
    environment.setdefault("AGENTFARM_SERVICES", "agentfarm,agents")
    async with AsyncExitStack() as stack:
        nodes = {}
        for number in range(1, count + 1):
            name = f"n{number}"
            made = ssh_node(name, f"127.0.0.{10 + number}", sys.executable, simulated_gpus=1)
            nodes[name] = node = await stack.enter_async_context(made)
            if warm:
                node.spec = replace(node.spec, noded_args=("--NodedApp.warm_servers=True",))
        specs = [node.spec for node in nodes.values()]
        kind = configured(LINES + lines)
        hub = await stack.enter_async_context(hub_process(specs, kind=kind, **environment))
        site = TasksHub(hub, nodes)
        await site.ready()
        await hub.add_user("ada")
        await eventually(site.answers, "the agents service answers", 150, 0.1)
        await site.register("bot")
        yield site
