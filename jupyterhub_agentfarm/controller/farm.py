"""Farm: what can be asked of the farm.

A lease moves like this; each arrow is committed before its effect is relied on::

    place ──▶ waiting ──▶ granted ──launch──▶ running ──release──▶ stopping ──node says gone──▶ released

What is done with servers on their nodes is in :mod:`.servers`; what happens without being asked (exits, lost nodes,
timeouts) in :mod:`.reconcile`.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

from traitlets import Instance, default
from traitlets.config import LoggingConfigurable

from ..errors import ConflictError, InvalidField, NotFoundError, TransportError
from ..inventory import Database, Inventory
from ..inventory.watch import Event, NodeChanged, NodeRemoved, TelemetryArrived
from ..models import LaunchOrder, Lease, LeaseEnd, Mark, Node, PlacementRequest
from ..placement import LeaseBook, NodeView, OwnerLimitBook, Placement, PlacementPolicy
from ..records import from_json
from ..server.versions import ServerEnvironment
from ..services import tls
from ..traitlets import Seconds
from .endings import ExitCounts
from .events import Broadcast
from .launching import is_loopback, versions_command
from .lease_log import LeaseLog
from .limits import OwnerLimitKeeper
from .reconcile import Reconciler
from .servers import Servers
from .usage import UsageReport

#: How long a link may take to reach a noded that was started anew, in seconds.
RECONNECT_SECONDS = 10.0
#: Starting Python on a busy node and reading its packages, in seconds.
ENVIRONMENT_SECONDS = 20.0


class Farm(LoggingConfigurable):
    """The nodes, the leases, and what is done with them."""

    grant_timeout = Seconds(
        120,
        help="How long a granted lease may be without a server (in seconds) before it is given back. Longer bears a "
        "Hub that restarts in the middle of a start; shorter frees the GPUs of abandoned starts sooner.",
    ).tag(config=True)
    history = Seconds(
        90 * 86400.0,
        help="How long released leases are kept (in seconds, or as '90d'), for `agentfarm leases --why` and the API. "
        "Longer makes the database larger by about 2 kB for each server that was started.",
    ).tag(config=True)

    kernels_interval = Seconds(
        300,
        help="How often a node is asked which kernels its servers have (in seconds, or as '5m'), beside each time it "
        "is reached. Smaller notices an installed kernel sooner; larger starts Python on the nodes less often.",
    ).tag(config=True)

    inventory = Instance(Inventory, help="The nodes.")
    policy = Instance(PlacementPolicy, help="Chooses nodes.")

    @default("inventory")
    def _inventory_default(self) -> Inventory:
        return Inventory(parent=self)

    @default("policy")
    def _policy_default(self) -> PlacementPolicy:
        return PlacementPolicy(parent=self)

    def __init__(self, database: Database, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._database = database
        self._warned = False
        self.events = Broadcast()
        self.exits = ExitCounts(self.log)
        self._lease_log = LeaseLog(self.log)
        self.book = LeaseBook(database, on_change=self._lease_changed)
        self.owners = OwnerLimitBook()
        self.placement = Placement(self.policy, self.book, owners=self.owners)
        self.owner_limits = OwnerLimitKeeper(database, self.owners, self.placement, self.book)
        self.servers = Servers(self.inventory, self.book, self.placement, self.owners, self.log)
        self.usage = UsageReport(self.book, self.policy, self.owners)
        self._reconciler = Reconciler(self)
        self.inventory.follow(self._node_event)

    # ---- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load leases and nodes, begin to connect and to reconcile; the database is open already."""
        await self.book.open(self.policy.gpu_hours_window)
        await self.owner_limits.open()
        self._reconciler.start()
        await self.inventory.open(self._database)

    async def aclose(self) -> None:
        """End everything but the servers; may be called again."""
        self.events.close()
        await self._reconciler.aclose()
        await self.inventory.aclose()

    # ---- leases -------------------------------------------------------------------------------------------------

    async def place(self, request: PlacementRequest) -> Lease:
        """Return a lease, granted or waiting; see :meth:`..placement.Placement.place`."""
        return await self.placement.place(request)

    async def launch(self, lease_id: str, order: LaunchOrder) -> Lease:
        """Start a lease's server on its node; see :meth:`.servers.Servers.launch`."""
        return await self.servers.launch(lease_id, order)

    async def release(
        self,
        lease_id: str,
        grace_seconds: float = 10,
        detail: str = "the server was stopped",
        end: LeaseEnd = "stopped",
    ) -> Lease:
        """Stop a lease's server and free its GPUs; see :meth:`.servers.Servers.release`."""
        return await self.servers.release(lease_id, grace_seconds, detail, end)

    async def finish(self, lease_id: str, grace_seconds: float = 10) -> Lease:
        """Try to end a lease that is `stopping`; return it, released or not."""
        return await self.servers.finish(lease_id, grace_seconds)

    async def log_text(self, lease_id: str, lines: int = 50) -> str:
        """Return the last lines that a lease's server wrote; see :meth:`.servers.Servers.log_text`."""
        return await self.servers.log_text(lease_id, lines)

    def queue(self) -> list[Lease]:
        """Return the leases that wait, in their order."""
        waiting = self.book.waiting()
        return sorted(waiting, key=lambda lease: (lease.position or len(waiting), lease.created_at))

    # ---- nodes --------------------------------------------------------------------------------------------------

    async def remove_node(self, name: str) -> None:
        """Remove a node that was added at run time.

        Raises
        ------
        ConflictError
            It holds leases, or is declared in the configuration.
        """
        async with self.placement.paused():
            held = self.book.on_node(name)
            if held:
                owners = ", ".join(sorted({lease.owner for lease in held}))
                raise ConflictError(f"node {name} holds {len(held)} leases ({owners}): drain it first")
            await self.inventory.remove(name)

    async def environment(self, name: str) -> ServerEnvironment:
        """Return the versions in the Python environment that a node's servers start from.

        Raises
        ------
        NotFoundError
            There is no such node.
        RemoteCommandFailed
            The environment lacks jupyterhub-agentfarm, or there is no such Python.
        TransportError
            The node could not be asked, or answered something else.
        """
        node = self.inventory.node(name).spec
        command = versions_command(node, self.inventory.isolation_of(node))
        done = await self.inventory.link(name).run(command, ENVIRONMENT_SECONDS)
        try:
            return from_json(ServerEnvironment, json.loads(done.stdout.splitlines()[-1]))
        except (ValueError, IndexError, InvalidField) as exc:
            shown = f"`{' '.join(command)}` printed {done.stdout[-200:]!r}"
            raise TransportError(name, f"{shown}, which is no list of versions of this release") from exc

    async def restart_noded(self, name: str) -> Node:
        """Start a node's noded anew, as after an upgrade; servers go on. Return the node when it is reached again.

        After `RECONNECT_SECONDS` it is returned as it is then: its detail says why it is not reached.

        Raises
        ------
        NotFoundError
            There is no such node.
        RemoteCommandFailed
            noded did not end, or could not be started again.
        TransportError
            The node could not be told.
        """
        with self.inventory.watch() as watch, suppress(TimeoutError):
            pid = await self.inventory.link(name).restart_noded()
            async with asyncio.timeout(RECONNECT_SECONDS):
                async for _event in watch:
                    node = self.inventory.node(name)
                    if node.state == "ready" and node.facts is not None and node.facts.pid == pid:
                        break
        return self.inventory.node(name)

    async def drain_node(self, name: str, reason: str, by: str, deadline_seconds: float | None) -> Node:
        """Empty a node; after the deadline the servers there are stopped."""
        deadline_at = None if deadline_seconds is None else time.time() + deadline_seconds
        node = await self.inventory.drain(name, reason, by, deadline_at)
        self._reconciler.wake()
        return node

    async def keep_node(self, name: str, owner: str, reason: str, by: str, deadline_seconds: float | None) -> Node:
        """Empty a node for the servers of `owner`; after the deadline those of all others are stopped."""
        now = time.time()
        deadline_at = None if deadline_seconds is None else now + deadline_seconds
        node = await self.inventory.keep(name, Mark(reason, now, by, deadline_at, owner))
        self._reconciler.wake()
        return node

    # ---- inside -------------------------------------------------------------------------------------------------

    def _node_event(self, event: Event) -> None:
        """Tell placement at once, so that no decision is made by what a node was."""
        match event:
            case NodeChanged(name, node):
                self._warn_of_plain_http(node)
                self.node_changed(name)
            case TelemetryArrived(name):
                self.node_changed(name)
            case NodeRemoved(name):
                self.placement.forget(name)

    def _warn_of_plain_http(self, node: Node) -> None:
        if self._warned or tls.of_environment() is not None:
            return
        if not is_loopback(node.spec.address or node.spec.host):
            self._warned = True
            self.log.warning(
                "traffic between the Hub and node %s, as to every node on another machine, is plain HTTP: keep it on a "
                "network that you trust",
                node.name,
            )

    def node_changed(self, name: str) -> None:
        """Tell placement of a node that changed; one that is not part of the farm is not told of."""
        with suppress(NotFoundError):
            node = self.inventory.node(name)
            fresh = self.inventory.is_fresh(node, time.time())
            fresh_until = (node.reported_at or 0) + self.inventory.stale_after
            self.placement.tell(NodeView(node, self._reconciler.is_reconciled(name), fresh), fresh_until)

    def _lease_changed(self, lease: Lease) -> None:
        self._lease_log.note(lease)
        self.events.tell("lease", lease.id, lease)
        self.events.tell("queue")
        if lease.node is not None:
            self.events.tell("node", lease.node)
        if not lease.alive:
            self.exits.note(lease)
        if not lease.alive or lease.state == "stopping":
            self._reconciler.wake()
