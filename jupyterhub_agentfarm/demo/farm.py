"""The parts of a demo farm: an embedded SSH server for the nodes, and a Hub that starts everything else."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..controller.client import FarmClient
from ..errors import AgentFarmError, FarmUnavailable
from ..share import share_path
from ..terminal.progress import Bars
from .gpus import described
from .layout import Layout, free_ports, tail
from .processes import ENV_DEMO_DIR, spawn, sweep, terminate

_NODES_SECONDS = 20
_READY_SECONDS = 120
_REPORT_SECONDS = 20
_RELEASE_SECONDS = 15
_HUB_SECONDS = 15
_POLL_SECONDS = 0.2
_TAIL_LINES = 15


class DemoFailed(AgentFarmError):
    """The demo could not be brought up."""

    reason = "demo"

    def __init__(self, message: str, log_tail: list[str] | None = None) -> None:
        self.log_tail = log_tail or []
        super().__init__(message)


class DemoFarm:
    """A farm of a few nodes on this machine.

    Parameters
    ----------
    layout
        The demo's directory, claimed.
    password
        What every user of the Hub logs in with.
    """

    def __init__(self, layout: Layout, password: str) -> None:
        self.layout = layout
        self.password = password
        self._proxy_command = ""
        self._ports: dict[str, str] = {}
        self._nodes: asyncio.subprocess.Process | None = None
        self._hub: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where people log in."""
        return f"http://127.0.0.1:{self._ports['AGENTFARM_PORT']}/"

    def client(self) -> FarmClient:
        """Return a client of the controller."""
        return FarmClient(runtime_dir=str(self.layout.runtime))

    async def start(self, bars: Bars) -> None:
        """Return when all nodes are ready.

        Raises
        ------
        AgentFarmError
            Something does not start; the message says which, `DemoFailed.log_tail` what it said last.
        """
        self.layout.make_keys()
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("installing the proxy", self._proxy),
            ("starting the nodes' SSH server", self._start_nodes),
            ("starting the Hub", self._start_hub),
        ]
        for done, (text, step) in enumerate(steps):
            bars.show("demo", done, len(steps), text)
            await step()
        bars.show("demo", len(steps), len(steps), "started")
        await self._ready(bars)

    async def stop(self) -> None:
        """End everything that was started, the servers on the nodes included; a second call finds nothing to do."""
        if self._hub is not None and self._hub.returncode is None:
            with suppress(AgentFarmError, TimeoutError):
                async with asyncio.timeout(_RELEASE_SECONDS):
                    await self._release_all()
            await terminate(self._hub, _HUB_SECONDS)
        if self._nodes is not None:
            await terminate(self._nodes, 5)
        await sweep(self.layout)

    async def _release_all(self) -> None:
        client = self.client()
        try:
            leases = await client.leases(all=False)
            await asyncio.gather(*(client.release(lease.id, 2) for lease in leases), return_exceptions=True)
        finally:
            await client.aclose()

    async def _proxy(self) -> None:
        """Find or install the proxy, unless the environment names one."""
        self._proxy_command = os.environ.get("AGENTFARM_PROXY_COMMAND", "")
        if self._proxy_command:
            return
        # In a process of its own, which a signal can end while npm works.
        command = [sys.executable, "-m", "jupyterhub_agentfarm.demo.proxy", "--dir", str(self.layout.cache)]
        log = self.layout.logs / "proxy-install.log"
        process = await spawn(command, self._environment(), log, pipe=True)
        out, _ = await process.communicate()
        if process.returncode:
            raise DemoFailed("\n".join(tail(log, 1)) or f"the proxy could not be installed: see {log}")
        self._proxy_command = out.decode().strip()

    async def _start_nodes(self) -> None:
        listening = [word for node in self.layout.demo_nodes for word in ("--listen", f"{node.address}:0")]
        folders = ["--dir", str(self.layout.ssh), "--state-dir", str(self.layout.nodes.resolve())]
        command = [sys.executable, "-m", "jupyterhub_agentfarm.demo.ssh_node", *folders, *listening]
        log = self.layout.logs / "nodes.log"
        environment = self._environment() | {"HOME": str(self.layout.home)}
        self._nodes = await spawn(command, environment, log, pipe=True)
        assert self._nodes.stdout is not None
        try:
            async with asyncio.timeout(_NODES_SECONDS):
                line = await self._nodes.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise DemoFailed(f"the nodes' SSH server did not start: see {log}", tail(log, _TAIL_LINES))
        bound = json.loads(line)
        self.layout.write_nodes(dict(bound["addresses"]), bound["host_key"], sys.executable)

    async def _start_hub(self) -> None:
        names = ("PORT", "HUB_PORT", "PROXY_API_PORT", "CONTROLLER_PORT", "BENCHMARK_PORT", "AGENTS_PORT")
        ports = free_ports(len(names))
        self._ports = {f"AGENTFARM_{name}": str(port) for name, port in zip(names, ports, strict=True)}
        command = [sys.executable, "-m", "jupyterhub", "-f", str(share_path("jupyterhub_config.py"))]
        # Servers get a home of the demo's, not that of whoever tries it, and can be found by the demo's mark.
        servers = {"HOME": self.layout.home, ENV_DEMO_DIR: self.layout.root}
        command += [f"--Spawner.environment={name}={value}" for name, value in servers.items()]
        if os.geteuid() == 0:  # Jupyter refuses to run as root unless told so
            command.append("--Spawner.args=--allow-root")
        self._hub = await spawn(command, self._environment(), self._hub_log, pipe=False)

    @property
    def _hub_log(self) -> Path:
        return self.layout.logs / "hub.log"

    def _environment(self) -> dict[str, str]:
        """Return this process's environment without a Hub's or a farm's settings, plus the demo's."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTERHUB_", "JPY_", "AGENTFARM_"))}
        programs = os.path.dirname(sys.executable)  # noqa: PTH120 - resolving the link would leave the venv
        return {
            **kept,
            "PATH": f"{programs}:{kept.get('PATH', os.defpath)}",
            ENV_DEMO_DIR: str(self.layout.root),
            "AGENTFARM_RUNTIME_DIR": str(self.layout.runtime),
            "AGENTFARM_DATA_DIR": str(self.layout.data),
            "AGENTFARM_NODES": str(self.layout.nodes_file),
            "AGENTFARM_PROXY_COMMAND": self._proxy_command,
            "AGENTFARM_DEMO_PASSWORD": self.password,
            "AGENTFARM_IP": "127.0.0.1",
            "AGENTFARM_PROXY_URL": f"http://127.0.0.1:{self._ports.get('AGENTFARM_PORT', 0)}",
            **self._ports,
        }

    async def _ready(self, bars: Bars) -> None:
        """Return when every node is ready."""
        deadline = time.monotonic() + _READY_SECONDS
        client = self.client()
        try:
            while True:
                ready, text = await self._state(client)
                bars.show("nodes ready", ready, len(self.layout.demo_nodes), text)
                if ready == len(self.layout.demo_nodes):
                    return
                self.check()
                if time.monotonic() > deadline:
                    raise self._failed(f"the farm was not ready after {_READY_SECONDS} s ({text})")
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await client.aclose()

    async def gpus(self) -> str:
        """Return what is to be said of the GPUs of the first node, as soon as it has reported."""
        client = self.client()
        try:
            async with asyncio.timeout(_REPORT_SECONDS):
                while True:
                    (node, *_) = await client.nodes()
                    if node["telemetry"] is not None:
                        return described(node["telemetry"])
                    await asyncio.sleep(_POLL_SECONDS)
        except (TimeoutError, FarmUnavailable):
            return f"The node did not report its GPUs within {_REPORT_SECONDS} s."
        finally:
            await client.aclose()

    async def _state(self, client: FarmClient) -> tuple[int, str]:
        """Return how many nodes are ready, and what is waited for."""
        try:
            nodes = await client.nodes()
        except FarmUnavailable:
            return 0, "waiting for the controller"
        waiting = [f"{node['name']}: {node['detail']}" for node in nodes if node["state"] != "ready"]
        return sum(node["state"] == "ready" for node in nodes), "; ".join(waiting)

    def check(self) -> None:
        """Raise when a part has ended by itself.

        Raises
        ------
        DemoFailed
            It says which.
        """
        if self._hub is not None and self._hub.returncode is not None:
            raise self._failed(f"the Hub ended with status {self._hub.returncode}")
        if self._nodes is not None and self._nodes.returncode is not None:
            raise self._failed(f"the nodes' SSH server ended with status {self._nodes.returncode}")

    def _failed(self, message: str) -> DemoFailed:
        return DemoFailed(f"{message}: see {self._hub_log}", tail(self._hub_log, _TAIL_LINES))
