"""The controller's API with as much behind it as the spawner can see, and one defect at a time.

The servers that it "launches" are real HTTP servers of this process, which answer as the farm's servers do.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from tornado import httpserver, netutil, web

from jupyterhub_agentfarm.errors import AgentFarmError, NotFoundError, PlacementRefused
from jupyterhub_agentfarm.models import LaunchOrder, Lease, PlacementRequest, ServerExit, ServerStatus
from jupyterhub_agentfarm.records import from_json, to_json
from jupyterhub_agentfarm.services.sse import encode_event

PREFIX = "/services/agentfarm/"


class FarmDouble:
    """What a controller knows, and how it misbehaves."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.orders: dict[str, LaunchOrder] = {}
        self.nodes: list[dict[str, Any]] = []
        self.server_headers = {"X-JupyterHub-Version": "6.1.1"}
        #: Defects.
        self.refusals: dict[str, str] | None = None
        self.in_line = 0
        self.down = False
        self.silent_servers = False
        self.strangers = False
        self.log_text = ""
        #: Set: placements are answered at once. Cleared: they hang after the lease was made.
        self.answering = asyncio.Event()
        self.answering.set()
        self.on_launch: Any = lambda lease: None
        self.url = ""
        #: Paths, as they came, of the requests to servers.
        self.paths: list[str] = []
        self._epochs = itertools.count(1)
        self._streams: set[asyncio.Queue[str | None]] = set()
        self._servers: dict[str, httpserver.HTTPServer] = {}

    def place(self, request: PlacementRequest) -> Lease:
        """Make a lease."""
        if self.refusals is not None:
            raise PlacementRefused(self.refusals)
        epoch = next(self._epochs)
        lease = Lease(f"{epoch:032x}", request.owner, request.server_name, "granted", epoch, request, time.time(), "n1")
        if self.in_line:
            lease = replace(lease, state="waiting", node=None, position=self.in_line, detail="needs 1 GPU, 0 are free")
        return self.put(lease)

    def put(self, lease: Lease) -> Lease:
        """Store a lease and tell everybody."""
        self.leases[lease.id] = lease
        self.tell("lease", lease)
        return lease

    def change(self, lease_id: str, **changes: Any) -> Lease:
        """Change a lease."""
        return self.put(replace(self.get(lease_id), **changes))

    def get(self, lease_id: str) -> Lease:
        """Return a lease."""
        if lease_id not in self.leases:
            raise NotFoundError(f"no lease {lease_id}")
        return self.leases[lease_id]

    def tell(self, event: str, data: Any) -> None:
        """Send an event to every stream."""
        for stream in self._streams:
            stream.put_nowait(encode_event(event, to_json(data)))

    def hang_up(self) -> None:
        """End every stream."""
        for stream in self._streams:
            stream.put_nowait(None)

    def launch(self, lease_id: str, order: LaunchOrder) -> Lease:
        """Start a server."""
        lease = self.get(lease_id)
        self.on_launch(lease)
        self.orders[lease_id] = order
        url = "http://127.0.0.1:9" if self.silent_servers else self.serve(lease)
        port = int(url.rpartition(":")[2])
        server = ServerStatus(
            lease.id, lease.epoch, "running", "boot", 4242, 1, "127.0.0.1", port, lease.gpus, time.time()
        )
        return self.change(lease_id, state="running", url=url, server=server)

    def serve(self, lease: Lease) -> str:
        """Return the URL of a server that answers as the lease's."""
        return f"http://127.0.0.1:{self.listen(lease.id, 0)}"

    def listen(self, lease_id: str, port: int) -> int:
        """Have the lease's server answer on `port`, 0 for a free one; return the port."""
        headers = dict(self.server_headers)
        if not self.strangers:
            headers["X-AgentFarm-Lease"] = lease_id
        (socket,) = netutil.bind_sockets(port, "127.0.0.1")
        server = httpserver.HTTPServer(web.Application([(r".*", _Server, {"headers": headers, "paths": self.paths})]))
        server.add_socket(socket)
        self._servers[lease_id] = server
        return int(socket.getsockname()[1])

    async def cut_off(self, lease_id: str) -> int:
        """Let nobody reach the lease's server; return the port for `listen`."""
        server = self._servers.pop(lease_id)
        server.stop()
        await server.close_all_connections()
        status = self.get(lease_id).server
        assert status is not None
        return status.port

    def end(self, lease_id: str, **how: Any) -> None:
        """Let a server end by itself."""
        lease = self.get(lease_id)
        assert lease.server is not None
        server = replace(lease.server, state="exited", exit=ServerExit(at=time.time(), **how))
        self.change(lease_id, state="released", released_at=time.time(), server=server)

    async def aclose(self) -> None:
        """Stop every server."""
        self.hang_up()
        for server in self._servers.values():
            server.stop()
            await server.close_all_connections()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[asyncio.Queue[str | None]]:
        """Follow the events."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        alive = [lease for lease in self.leases.values() if lease.alive]
        queue.put_nowait(encode_event("snapshot", to_json({"nodes": self.nodes, "leases": alive, "queue": []})))
        self._streams.add(queue)
        try:
            yield queue
        finally:
            self._streams.discard(queue)


class _Server(web.RequestHandler):
    def initialize(self, headers: dict[str, str], paths: list[str]) -> None:
        paths.append(self.request.path)
        for name, value in headers.items():
            self.set_header(name, value)

    def get(self) -> None:
        self.finish({"version": "2"})


class _Handler(web.RequestHandler):
    def initialize(self, farm: FarmDouble) -> None:
        self.farm = farm

    def prepare(self) -> None:
        if self.farm.down:
            self.request.connection.stream.close()
            raise web.Finish

    def answer(self, value: Any, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(to_json(value)))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1]
        if isinstance(error, AgentFarmError):
            facts = {**error.facts(), "message": error.message, "reason": error.reason}
            self.answer(facts, error.http_status)


class _Leases(_Handler):
    def get(self) -> None:
        self.answer({"leases": [lease for lease in self.farm.leases.values() if lease.alive]})

    async def post(self) -> None:
        lease = self.farm.place(from_json(PlacementRequest, json.loads(self.request.body)))
        await self.farm.answering.wait()
        self.answer(self.farm.get(lease.id), 201)


class _Lease(_Handler):
    def get(self, lease_id: str) -> None:
        self.answer(self.farm.get(lease_id))

    def delete(self, lease_id: str) -> None:
        lease = self.farm.get(lease_id)
        if lease.alive:
            lease = self.farm.change(lease_id, state="released", released_at=time.time(), position=None)
        self.answer(lease)


class _Launch(_Handler):
    def post(self, lease_id: str) -> None:
        self.answer(self.farm.launch(lease_id, from_json(LaunchOrder, json.loads(self.request.body))))


class _Log(_Handler):
    def get(self, lease_id: str) -> None:
        self.answer({"text": self.farm.log_text})


class _Nodes(_Handler):
    def get(self) -> None:
        self.answer({"nodes": self.farm.nodes})


class _Queue(_Handler):
    def get(self) -> None:
        self.answer({"queue": []})


class _Events(_Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        async with self.farm.stream() as queue:
            while (text := await queue.get()) is not None:
                self.write(text)
                await self.flush()


@asynccontextmanager
async def farm_double() -> AsyncIterator[FarmDouble]:
    """Serve a double on a free port."""
    farm = FarmDouble()
    routes = [
        (r"leases", _Leases),
        (r"leases/([0-9a-f]+)", _Lease),
        (r"leases/([0-9a-f]+)/launch", _Launch),
        (r"leases/([0-9a-f]+)/log", _Log),
        (r"nodes", _Nodes),
        (r"queue", _Queue),
        (r"events", _Events),
    ]
    application = web.Application([(f"{PREFIX}api/v1/{path}", cls, {"farm": farm}) for path, cls in routes])
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server = httpserver.HTTPServer(application)
    server.add_sockets(sockets)
    farm.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}{PREFIX}"
    try:
        yield farm
    finally:
        await farm.aclose()
        server.stop()
        await server.close_all_connections()
