"""The controller's REST API and page. Handlers are thin: who may, what is asked, and the farm's answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidField
from ..logs import LogLine
from ..models import LaunchOrder, Node, NodeSpec, PlacementRequest, check_host
from ..records import to_json
from ..services.description import DescriptionHandler
from ..services.handlers import NoOrder, PageHandler
from ..services.sse import stream_events
from ..transport import fetch_host_key
from .farm_handler import LEASES_MANAGE, LEASES_READ, NODES_MANAGE, NODES_READ, FarmHandler
from .keeping import GiveBackHandler, KeepHandler
from .metrics_page import MetricsHandler
from .owner_handlers import OwnerLimitsHandler
from .projects import projects_of
from .strays import strays_of
from .views import placement_view

#: Released leases that `leases?all=1` and `placements` answer with at most.
MAX_HISTORY = 200
MAX_GRACE_SECONDS = 600.0
MAX_LOG_LINES = 10_000


@dataclass(frozen=True)
class ScanOrder:
    """Where to fetch a host key."""

    host: str
    port: int = 22

    def __post_init__(self) -> None:
        """Refuse what no machine answers at."""
        check_host(self.host)
        if not 0 < self.port < 65536:
            raise InvalidField("port", "a TCP port, 1-65535", self.port)


@dataclass(frozen=True)
class MarkOrder:
    """A cordon or a drain."""

    reason: str = ""
    #: For a drain: after this many seconds the servers there are stopped.
    deadline_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse a moment that is over."""
        if self.deadline_seconds is not None and self.deadline_seconds < 0:
            raise InvalidField("deadline_seconds", "a number of seconds of at least 0, or null", self.deadline_seconds)


class NodesHandler(FarmHandler):
    """``nodes``."""

    scopes = {"GET": NODES_READ, "POST": NODES_MANAGE}

    async def get(self) -> None:
        """List the nodes."""
        self.answer({"nodes": self.nodes_view()})

    async def post(self) -> None:
        """Add a node; its host key must be pinned by whoever adds it."""
        spec = self.body(NodeSpec)
        if spec.host_key is None:
            raise InvalidField("host_key", "the node's public host key, which POST nodes/scan shows", None)
        self.answer(self.node_view(await self.farm.inventory.add(spec, self.principal.name)), 201)


class ScanHandler(FarmHandler):
    """``nodes/scan``."""

    scopes = {"POST": NODES_MANAGE}

    async def post(self) -> None:
        """Fetch the host key that a machine shows; nothing is trusted by this."""
        order = self.body(ScanOrder)
        key = await fetch_host_key(order.host, order.port)
        self.answer({"host_key": key.line, "fingerprint": key.fingerprint})


class NodeHandler(FarmHandler):
    """``nodes/{name}``."""

    scopes = {"GET": NODES_READ, "DELETE": NODES_MANAGE}

    async def get(self, name: str) -> None:
        """Show a node."""
        self.answer(self.node_view(self.farm.inventory.node(name)))

    async def delete(self, name: str) -> None:
        """Remove a node."""
        await self.farm.remove_node(name)
        self.answer({})


class RestartNodedHandler(FarmHandler):
    """``nodes/{name}/restart-noded``."""

    scopes = {"POST": NODES_MANAGE}

    async def post(self, name: str) -> None:
        """Start the node's noded anew; servers go on."""
        self.body(NoOrder)
        self.farm.log.info(LogLine("noded restarts", node=name, by=self.principal.name))
        self.answer(self.node_view(await self.farm.restart_noded(name)))


class EnvironmentHandler(FarmHandler):
    """``nodes/{name}/environment``."""

    scopes = {"GET": NODES_MANAGE}

    async def get(self, name: str) -> None:
        """Ask the node what its servers start from."""
        self.answer(await self.farm.environment(name))


class StraysHandler(FarmHandler):
    """``nodes/{name}/strays``."""

    scopes = {"GET": NODES_MANAGE}

    async def get(self, name: str) -> None:
        """Ask the node what runs there without a lease."""
        self.answer(await strays_of(self.farm, name))


class ProjectsHandler(FarmHandler):
    """``nodes/{name}/projects``."""

    scopes = {"GET": NODES_MANAGE}

    async def get(self, name: str) -> None:
        """Ask the node what is there of the projects' workspaces."""
        self.answer(await projects_of(self.farm, name))


class NodeMarkHandler(FarmHandler):
    """``nodes/{name}/cordon``, ``uncordon`` and ``drain``."""

    scopes = {"POST": NODES_MANAGE}

    async def post(self, name: str, verb: str) -> None:
        """Cordon, uncordon or drain a node."""
        if verb == "uncordon":
            self.body(NoOrder)
            node = await self.farm.inventory.uncordon(name)
        else:
            node = await self._mark(name, verb, self.body(MarkOrder))
        mark = node.drain if verb == "drain" else node.cordon
        why = {} if mark is None else {"reason": mark.reason or None, "deadline_at": mark.deadline_at}
        self.farm.log.info(LogLine(verb, node=name, by=self.principal.name, **why))
        self.answer(self.node_view(node))

    async def _mark(self, name: str, verb: str, order: MarkOrder) -> Node:
        if verb == "cordon":
            return await self.farm.inventory.cordon(name, order.reason, self.principal.name)
        return await self.farm.drain_node(name, order.reason, self.principal.name, order.deadline_seconds)


class LeasesHandler(FarmHandler):
    """``leases``."""

    scopes = {"POST": LEASES_MANAGE}

    async def get(self) -> None:
        """List the leases that whoever asks may see."""
        leases = self.farm.book.alive()
        every = self.get_query_argument("all", "0")
        if every not in ("0", "1"):
            raise InvalidField("all", "0 or 1", every)
        if every == "1":
            leases += await self.farm.book.released(MAX_HISTORY)
        self.answer({"leases": [lease for lease in leases if self.may_see(lease)]})

    async def post(self) -> None:
        """Place a request."""
        self.answer(await self.farm.place(self.body(PlacementRequest)), 201)


class LeaseHandler(FarmHandler):
    """``leases/{id}``."""

    async def get(self, lease_id: str) -> None:
        """Show a lease."""
        self.answer(await self.lease(lease_id))

    async def delete(self, lease_id: str) -> None:
        """Stop the server and free the GPUs."""
        await self.lease(lease_id, manage=True)
        grace_seconds = self.number("grace_seconds", 10, MAX_GRACE_SECONDS)
        self.answer(await self.farm.release(lease_id, grace_seconds, f"stopped by {self.principal.name}"))


class LaunchHandler(FarmHandler):
    """``leases/{id}/launch``."""

    scopes = {"POST": LEASES_MANAGE}

    async def post(self, lease_id: str) -> None:
        """Start the lease's server."""
        self.answer(await self.farm.launch(lease_id, self.body(LaunchOrder)))


class LogHandler(FarmHandler):
    """``leases/{id}/log``."""

    async def get(self, lease_id: str) -> None:
        """Show the end of the server's log."""
        await self.lease(lease_id, manage=True)
        lines = int(self.number("lines", 50, MAX_LOG_LINES))
        self.answer({"text": await self.farm.log_text(lease_id, lines)})


class QueueHandler(FarmHandler):
    """``queue``."""

    scopes = {"GET": NODES_READ}

    async def get(self) -> None:
        """List the waiting line."""
        self.answer({"queue": self.queue_view()})


class UsageHandler(FarmHandler):
    """``usage``."""

    async def get(self) -> None:
        """Tell who used how much: of everybody with the scope to read leases, otherwise of whoever asks.

        Likewise of the groups with a pool: all, or those of whoever asks.
        """
        usage, who = self.farm.usage, self.principal
        if who.may(LEASES_READ):
            owners, pools = usage.of_all(), usage.all_pools()
        elif who.kind == "user":
            owners, pools = [usage.of(who.name, who.groups)], usage.pools_of(who.groups)
        else:  # a service may have the name of a user
            owners, pools = [], []
        self.answer({"window_seconds": self.farm.book.usage.window_seconds, "usage": owners, "pools": pools})


class PlacementsHandler(FarmHandler):
    """``placements``."""

    scopes = {"GET": LEASES_READ}

    async def get(self) -> None:
        """List why leases went where they went, newest first."""
        limit = int(self.number("limit", 100, MAX_HISTORY))
        leases = [*self.farm.book.alive(), *await self.farm.book.released(limit)]
        newest = sorted(leases, key=lambda lease: lease.created_at, reverse=True)
        self.answer({"placements": [placement_view(lease) for lease in newest[:limit]]})


class EventsHandler(FarmHandler):
    """``events``."""

    scopes = {"GET": NODES_READ}

    async def get(self) -> None:
        """Stream a snapshot and every change after it."""
        await stream_events(self, self._events())

    async def _events(self) -> AsyncIterator[tuple[str, Any]]:
        follower = self.farm.events.follow()
        try:
            yield "snapshot", self._snapshot()
            async for (event, name), value in follower:
                data = self._data(event, name, value)
                if data is not None:
                    yield event, data
        finally:
            follower.close()

    def _snapshot(self) -> dict[str, Any]:
        return {
            "nodes": self.nodes_view(),
            "leases": [to_json(lease) for lease in self.farm.book.alive() if self.may_see(lease)],
            "queue": self.queue_view(),
        }

    def _data(self, event: str, name: str, value: Any) -> Any:
        """Return the event's data, or None when it is not for whoever follows."""
        if event == "lease":
            return to_json(value) if self.may_see(value) else None
        if event == "queue":
            return self.queue_view()
        if event == "node_removed":
            return {"name": name}
        node = next((node for node in self.farm.inventory.all_nodes() if node.name == name), None)
        return None if node is None else self.node_view(node)


class FarmPage(PageHandler):
    """The page of nodes, leases and the waiting line."""

    scopes = {"GET": NODES_READ}

    async def get(self) -> None:
        """Show it; its script follows the events."""
        self.render_page("farm.html", manage=self.principal.may(NODES_MANAGE))


_NODE = r"([a-z0-9][a-z0-9-]*)"
_LEASE = r"([0-9a-f]{32})"

ROUTES: list[tuple[Any, ...]] = [
    (r"", FarmPage),
    (r"metrics", MetricsHandler),
    (r"api/v1/nodes", NodesHandler),
    (r"api/v1/nodes/scan", ScanHandler),
    (rf"api/v1/nodes/{_NODE}", NodeHandler),
    (rf"api/v1/nodes/{_NODE}/environment", EnvironmentHandler),
    (rf"api/v1/nodes/{_NODE}/restart-noded", RestartNodedHandler),
    (rf"api/v1/nodes/{_NODE}/keep", KeepHandler),
    (rf"api/v1/nodes/{_NODE}/give-back", GiveBackHandler),
    (rf"api/v1/nodes/{_NODE}/strays", StraysHandler),
    (rf"api/v1/nodes/{_NODE}/projects", ProjectsHandler),
    (rf"api/v1/nodes/{_NODE}/(cordon|uncordon|drain)", NodeMarkHandler),
    (r"api/v1/leases", LeasesHandler),
    (rf"api/v1/leases/{_LEASE}", LeaseHandler),
    (rf"api/v1/leases/{_LEASE}/launch", LaunchHandler),
    (rf"api/v1/leases/{_LEASE}/log", LogHandler),
    (r"api/v1/queue", QueueHandler),
    (r"api/v1/usage", UsageHandler),
    (r"api/v1/owners/([^/]+)/limits", OwnerLimitsHandler),
    (r"api/v1/placements", PlacementsHandler),
    (r"api/v1/events", EventsHandler),
    (r"api/v1/openapi\.json", DescriptionHandler),
]
