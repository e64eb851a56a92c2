"""What the benchmark service sees of the world: the Hub's API, the controller's events, and servers on nodes.

One tornado server in this process plays them all; each has as much behind it as the benchmark uses, and one defect at
a time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tornado import httpserver, netutil, web

from jupyterhub_agentfarm.controller.views import node_view
from jupyterhub_agentfarm.errors import ConflictError
from jupyterhub_agentfarm.models import Filesystem, Gpu, Node, NodeFacts, NodeSpec, Telemetry
from jupyterhub_agentfarm.services.sse import stream_events

GIB = 2**30


def make_view(name: str, *, role: Any = "microserver", gpus: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a node as the controller tells it; `changes` go to the Node, `telemetry_changes` to its report."""
    report = changes.pop("telemetry_changes", {})
    spec = NodeSpec(name, "127.0.0.1", role=role, labels=changes.pop("labels", {}))
    facts = NodeFacts(1, "0.1", name, "boot", "Linux", "x86_64", "3.11.2", 0.0, 1, "550.54")
    devices = tuple(
        Gpu(f"GPU-{name}-{n}", "Simulated A100", 80 * GIB, 8 * GIB, 0.5, 210.5, 400, 51, simulated=True)
        for n in range(gpus)
    )
    values: dict[str, Any] = {
        "time": time.time(),
        "cpus": 8,
        "cpu_utilization_ratio": 0.25,
        "load1": 1.5,
        "load5": 1.0,
        "load15": 0.5,
        "memory_total_bytes": 32 * GIB,
        "memory_available_bytes": 24 * GIB,
        "boot_at": 1_700_000_000.0,
        "uptime_seconds": 5000.0,
        "filesystems": (Filesystem("/", 100 * GIB, 40 * GIB),),
        "gpus": devices,
        "gpu_health": "ok" if gpus else "absent",
    }
    now = time.time()
    known: dict[str, Any] = {"state": "ready", "detail": "", "since_at": now, "facts": facts, "reported_at": now}
    known |= {"telemetry": Telemetry(**(values | report)), "clock_skew_seconds": 0.01}
    return node_view(Node(spec, **(known | changes)), (), lambda lease: True)


class World:
    """The Hub, the controller and the servers."""

    def __init__(self) -> None:
        self.url = ""
        self.views: dict[str, dict[str, Any]] = {}
        self.servers: dict[str, dict[str, Any]] = {}
        self.options: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        #: What was submitted, each run once.
        self.submitted: list[dict[str, Any]] = []
        #: What happened, in order: ("start", node), ("submit", node, case), ("end", node, case), ("stop", node) …
        self.history: list[tuple[str, ...]] = []
        #: Defects. Nodes whose server never gets ready, whose start the Hub refuses, or that do not answer.
        self.never_ready: set[str] = set()
        self.refused: set[str] = set()
        self.gone: set[str] = set()
        #: Nodes whose server goes on ending: until `let_go` the Hub says that it stops.
        self.lingering: set[str] = set()
        #: Answers 503 to so many requests of each node.
        self.hiccups: dict[str, int] = {}
        #: By node and case: "ok" (the default), "fail", "hang", "skip", "gone" (the node goes while it runs),
        #: "slow", "refuse" (the server does not take the notebook).
        self.behaviour: dict[tuple[str, str], str] = {}
        #: The Hub does not answer.
        self.hub_away = False
        #: Cases that execute on each node now, and the most that ever did.
        self.executing: dict[str, set[str]] = {}
        self.most_executing: dict[str, int] = {}
        self._streams: set[asyncio.Queue[tuple[str, Any]]] = set()

    def let_go(self) -> None:
        """Let the servers end that linger."""
        self.lingering.clear()
        self.servers.clear()

    async def events(self) -> AsyncIterator[tuple[str, Any]]:
        """Follow the farm as FarmClient does."""
        queue: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._streams.add(queue)
        try:
            yield "snapshot", {"nodes": list(self.views.values()), "leases": [], "queue": []}
            while True:
                yield await queue.get()
        finally:
            self._streams.discard(queue)

    def put(self, view: dict[str, Any]) -> None:
        """Add or change a node and tell everybody."""
        self.views[view["name"]] = view
        for queue in self._streams:
            queue.put_nowait(("node", view))

    def remove_server(self, node: str) -> None:
        """End a server and what it executes, as noded does when a node died."""
        self.servers.pop(f"bench-{node}", None)
        for run in self.runs.values():
            if run["node"] == node and run["state"] in ("queued", "executing"):
                run |= {"state": "failed", "reason": "server_stopped", "detail": "The Jupyter server went away"}
        self.executing.pop(node, None)

    # ---- the controller's client, as far as the benchmark uses it to keep nodes ----

    async def keep(self, name: str, owner: str, reason: str, deadline_seconds: float | None = None) -> dict[str, Any]:
        """Drain a node for an owner."""
        view = self.views[name]
        if view["cordon"] is not None:
            raise ConflictError(f"node {name} was cordoned by {view['cordon']['by']}")
        self.history.append(("keep", name, owner, reason))
        mark = {"reason": reason, "at": 0.0, "by": owner, "deadline_at": deadline_seconds, "kept_for": owner}
        self.put({**view, "drain": mark, "status": "draining", "eligible": False})
        return self.views[name]

    async def give_back(self, name: str, owner: str) -> dict[str, Any]:
        """End that drain."""
        view = self.views[name]
        if view["drain"] is not None and view["drain"]["kept_for"] == owner:
            self.history.append(("give_back", name))
            self.put({**view, "drain": None, "status": "ready", "eligible": True})
        return self.views[name]

    def lease(self, **fields: Any) -> None:
        """Tell everybody of a lease."""
        for queue in self._streams:
            queue.put_nowait(("lease", fields))

    def happened(self, kind: str) -> list[tuple[str, ...]]:
        """Return what happened of one kind, in order."""
        return [entry for entry in self.history if entry[0] == kind]


class _Handler(web.RequestHandler):
    @property
    def world(self) -> World:
        return self.settings["world"]

    def check_xsrf_cookie(self) -> None:
        pass


class _User(_Handler):
    def prepare(self) -> None:
        if self.world.hub_away:
            raise web.HTTPError(503)

    def get(self) -> None:
        self.finish({"name": "benchmark", "servers": self.world.servers})


class _Server(_User):
    def get(self) -> None:
        raise web.HTTPError(404)

    def post(self, node: str) -> None:
        self.world.history.append(("start", node))
        self.world.options[node] = json.loads(self.request.body)
        if node in self.world.refused:
            self.set_status(403)
            self.finish({"message": "quota"})
            return
        ready = node not in self.world.never_ready
        model = {"name": f"bench-{node}", "ready": ready, "pending": None if ready else "spawn", "stopped": False}
        self.world.servers[f"bench-{node}"] = {**model, "url": f"/user/benchmark/bench-{node}/"}
        self.set_status(202)

    def delete(self, node: str) -> None:
        assert json.loads(self.request.body) == {"remove": True}
        self.world.history.append(("stop", node))
        if node in self.world.lingering:
            self.world.servers[f"bench-{node}"]["pending"] = "stop"
        else:
            self.world.remove_server(node)
        self.set_status(204)


class _Runs(_Handler):
    def prepare(self) -> None:
        node = self.path_args[0]
        self.set_header("X-AgentFarm-Lease", "l1")
        if self.world.hiccups.get(node, 0) > 0:
            self.world.hiccups[node] -= 1
            raise web.HTTPError(503)
        if node in self.world.gone or f"bench-{node}" not in self.world.servers:
            raise web.HTTPError(503)

    def post(self, node: str) -> None:
        body = json.loads(self.request.body)
        run_id = body["idempotency_key"]
        case = body["name"].removeprefix("benchmark ")
        if self.world.behaviour.get((node, case)) == "refuse":
            self.set_status(400)
            self.finish({"message": "no such kernel", "reason": "invalid"})
            return
        if run_id not in self.world.runs:
            self.world.submitted.append(body)
            self.world.history.append(("submit", node, case))
            run = {"id": run_id, "state": "queued", "cells_total": 2, "cells_done": 0, "parameters": body["parameters"]}
            run |= {"environment": body["environment"]}
            self.world.runs[run_id] = {**run, "node": node, "case": case, "reason": None, "detail": None}
            executing = self.world.executing.setdefault(node, set())
            executing.add(run_id)
            self.world.most_executing[node] = max(len(executing), self.world.most_executing.get(node, 0))
        self.set_status(201)
        self.finish(self.world.runs[run_id])


class _Run(_Runs):
    def get(self, node: str, run_id: str) -> None:
        run = self.world.runs[run_id]
        how = self.world.behaviour.get((node, run["case"]), "ok")
        if how == "gone":
            self.world.gone.add(node)
            raise web.HTTPError(503)
        if run["state"] == "queued":
            run["state"] = "executing"
        elif run["state"] == "executing" and how != "hang":
            run["looks"] = run.get("looks", 0) + 1
            if how != "slow" or run["looks"] > 10:
                self._advance(run, how)
        self.finish(run)

    def _advance(self, run: dict[str, Any], how: str) -> None:
        if how == "fail":
            error = {"cell": 1, "line": 2, "source_line": "1/0", "ename": "ZeroDivisionError", "evalue": "division"}
            error["traceback"] = ["Traceback", "ZeroDivisionError: division"]
            run |= {"state": "failed", "reason": "cell_error", "detail": "cell 1 raised", "error": error}
        else:
            run |= {"state": "completed", "cells_done": 2}
        run["duration_seconds"] = 1.25
        self.world.executing[run["node"]].discard(run["id"])
        self.world.history.append(("end", run["node"], run["case"]))

    def delete(self, node: str, run_id: str) -> None:
        del self.world.runs[run_id]
        self.world.history.append(("forget", node))
        self.set_status(204)


class _Results(_Runs):
    def get(self, node: str, run_id: str) -> None:
        run = self.world.runs[run_id]
        if self.world.behaviour.get((node, run["case"])) == "skip":
            self.finish({"status": "skipped", "reason": "torch is not installed", "device": "none", "seconds": 0.0})
            return
        figures = {"samples_per_second": 100.5, "passes": 3}
        self.finish({"status": "ok", "device": "cpu", "seconds": 1.0, "primary": "samples_per_second", **figures})


class _Cancel(_Runs):
    def post(self, node: str, run_id: str) -> None:
        run = self.world.runs[run_id]
        self.world.history.append(("cancel", node, run["case"]))
        run |= {"state": "cancelled", "reason": "cancelled"}
        self.world.executing[node].discard(run_id)
        self.finish(run)


class _Events(_Handler):
    async def get(self) -> None:
        await stream_events(self, self.world.events())


@asynccontextmanager
async def opened(world: World) -> AsyncIterator[World]:
    """Serve the world while the block runs."""
    runs = r"/user/benchmark/bench-([a-z0-9-]+)/agentfarm/api/v1/runs"
    routes = [
        (r"/hub/api/users/benchmark", _User),
        (r"/hub/api/users/benchmark/servers/bench-([a-z0-9-]+)", _Server),
        (runs, _Runs),
        (runs + r"/([^/]+)", _Run),
        (runs + r"/([^/]+)/results", _Results),
        (runs + r"/([^/]+)/cancel", _Cancel),
        (r"/services/agentfarm/api/v1/events", _Events),
    ]
    server = httpserver.HTTPServer(web.Application(routes, world=world, log_function=lambda handler: None))
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    world.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    try:
        yield world
    finally:
        server.stop()
        await server.close_all_connections()
