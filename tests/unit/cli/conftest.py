"""A controller that answers from memory, and the command run against it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tornado import httpserver, netutil, web

from jupyterhub_agentfarm import __version__
from jupyterhub_agentfarm.cli import main
from jupyterhub_agentfarm.models import NodeSpec
from jupyterhub_agentfarm.protocol import PROTOCOL_VERSION
from jupyterhub_agentfarm.records import from_json, to_json
from jupyterhub_agentfarm.server.versions import environment
from jupyterhub_agentfarm.services import local

FINGERPRINT = "SHA256:Zm9ydHktdHdvIGlzIHRoZSBhbnN3ZXI"


def gpu(number: int, **changes: Any) -> dict[str, Any]:
    """Return a GPU as NodeView has it."""
    plain = {
        "uuid": f"GPU-{number}", "name": "A100", "memory_total_bytes": 40 * 2**30, "memory_used_bytes": 2**30,
        "utilization_ratio": 0.5, "power_watts": 70.0, "power_limit_watts": 250.0, "temperature_celsius": 41.0,
        "pids": [], "foreign_pids": [], "parent_uuid": None, "simulated": False,
        "lease": None, "owner": None, "leased": False,
    }  # fmt: skip
    return plain | changes


def node_view(name: str, **changes: Any) -> dict[str, Any]:
    """Return a ready node as the controller answers it."""
    spec = NodeSpec(name=name, host="10.0.0.1", user="farm", host_key="ssh-ed25519 AAAA")
    telemetry = {
        "time": 0.0, "cpus": 8, "cpu_utilization_ratio": 0.25, "load1": 1.0, "load5": 0.5, "load15": 0.25,
        "memory_total_bytes": 16 * 2**30, "memory_available_bytes": 12 * 2**30, "boot_at": 0.0, "uptime_seconds": 7300,
        "filesystems": [{"mountpoint": "/", "size_bytes": 100 * 2**30, "avail_bytes": 50 * 2**30}],
        "gpus": [gpu(1)], "gpu_health": "ok", "gpu_error": None,
    }  # fmt: skip
    facts = {
        "protocol": PROTOCOL_VERSION, "version": __version__, "hostname": name, "boot_id": "b", "os": "Debian 12",
        "arch": "x86_64", "python": "3.11.2", "time": 0.0, "pid": 1, "driver_version": None,
    }  # fmt: skip
    view = {
        "name": name, "status": "ready", "eligible": True, "spec": to_json(spec), "state": "ready", "detail": "",
        "since_at": 0.0, "origin": "config", "cordon": None, "drain": None, "facts": facts, "telemetry": telemetry,
        "reported_at": 0.0, "clock_skew_seconds": 0.1, "kernels_error": "",
        "kernels": [{"name": "ir", "language": "R", "display_name": "R"},
                    {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"}],
    }  # fmt: skip
    return view | changes


@dataclass
class Controller:
    """What the double knows, and what it was asked."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    leases: list[dict[str, Any]] = field(default_factory=list)
    queue: list[dict[str, Any]] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=lambda: to_json(environment()))
    strays: dict[str, Any] = field(default_factory=lambda: {"servers": [], "processes": []})
    #: State in which an added node is.
    added_state: str = "ready"

    def view(self, name: str) -> dict[str, Any]:
        """Return a node, or answer 404."""
        if name not in self.nodes:
            raise web.HTTPError(404, f"there is no node {name!r}")
        return self.nodes[name]


class _Handler(web.RequestHandler):
    """All of the API."""

    @property
    def farm(self) -> Controller:
        return self.settings["farm"]

    def prepare(self) -> None:
        if self.request.headers.get("Authorization") != f"token {self.settings['token']}":
            raise web.HTTPError(401, "a Hub token is needed")
        body = json.loads(self.request.body) if self.request.body else None
        self.path = self.request.path.removeprefix("/api/v1/")
        self.farm.asked.append((self.request.method or "", self.path, body))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        message = kwargs["exc_info"][1].log_message
        reason = {404: "not_found", 409: "conflict"}.get(status_code, "error")
        self.finish({"message": message, "reason": reason})

    def get(self) -> None:
        if self.path == "nodes":
            self.finish({"nodes": list(self.farm.nodes.values())})
        elif self.path == "leases":
            self.finish({"leases": self.farm.leases})
        elif self.path == "queue":
            self.finish({"queue": self.farm.queue})
        elif self.path.endswith("/projects"):
            self.finish({"names": [], "faults": {}, "fault": ""})
        elif self.path.endswith("/strays"):
            self.farm.view(self.path.split("/")[1])
            self.finish(self.farm.strays)
        elif self.path == "usage":
            self.finish(self.farm.usage)
        elif self.path.endswith("/environment"):
            self.farm.view(self.path.split("/")[1])
            self.finish(self.farm.environment)
        else:
            self.finish(self.farm.view(self.path.removeprefix("nodes/")))

    def post(self) -> None:
        body = self.farm.asked[-1][2]
        if self.path == "nodes/scan":
            self.finish({"host_key": "ssh-ed25519 AAAA", "fingerprint": FINGERPRINT})
        elif self.path == "nodes":
            spec = from_json(NodeSpec, body)
            view = node_view(spec.name, spec=to_json(spec), state=self.farm.added_state, detail="python3: not found")
            self.farm.nodes[spec.name] = view | {"status": self.farm.added_state}
            self.finish(self.farm.nodes[spec.name])
        else:
            _, name, verb = self.path.split("/")
            status = {"cordon": "cordoned", "uncordon": "ready", "restart-noded": "ready", "drain": "draining"}[verb]
            self.farm.nodes[name] = self.farm.view(name) | {"status": status}
            self.finish(self.farm.nodes[name])

    def delete(self) -> None:
        if self.path.startswith("leases/"):
            lease = next(each for each in self.farm.leases if self.path == f"leases/{each['id']}")
            self.farm.leases.remove(lease)
            self.finish(lease | {"state": "released", "detail": "the request was withdrawn"})
            return
        name = self.path.removeprefix("nodes/")
        if self.farm.view(name)["origin"] == "config":
            raise web.HTTPError(409, f"{name} is in the configuration")
        del self.farm.nodes[name]
        self.finish({})


@pytest.fixture(name="node_view")
def _node_view() -> Callable[..., dict[str, Any]]:
    """Return a function that makes nodes as the controller answers them."""
    return node_view


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """Give a private runtime directory."""
    with tempfile.TemporaryDirectory(prefix="af") as name:
        yield Path(name)


@pytest.fixture
async def controller(runtime_dir: Path) -> AsyncIterator[Controller]:
    """Give a controller that listens and is announced."""
    farm = Controller()
    settings = {"farm": farm, "token": local.local_token(runtime_dir), "log_function": lambda handler: None}
    server = httpserver.HTTPServer(web.Application([(r"/api/v1/.*", _Handler)], **settings))
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    local.announce(runtime_dir, "agentfarm", f"http://127.0.0.1:{sockets[0].getsockname()[1]}/")
    yield farm
    server.stop()
    await server.close_all_connections()


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Agentfarm = Callable[..., Awaitable[Ended]]


@pytest.fixture
def agentfarm(runtime_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Agentfarm:
    """Return a coroutine function that runs the command in a thread: nothing of it is a terminal."""
    monkeypatch.setenv("AGENTFARM_RUNTIME_DIR", str(runtime_dir))
    monkeypatch.setattr("time.time", lambda: 300.0)

    async def _run(*argv: str) -> Ended:
        capsys.readouterr()
        status = await asyncio.to_thread(main, list(argv))
        return Ended(status, *capsys.readouterr())

    return _run
