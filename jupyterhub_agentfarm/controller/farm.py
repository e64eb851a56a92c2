"""Farm: what can be asked of the farm.

A lease moves like this; each arrow is committed before its effect is relied on::

    place ──▶ waiting ──▶ granted ──launch──▶ running ──release──▶ stopping ──node says gone──▶ released

`launch` and the end of a lease hold the lease's own lock, so that a server is never started after its stop. What
happens without being asked (exits, lost nodes, timeouts) is in :mod:`.reconcile`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from traitlets import Instance, default
from traitlets.config import LoggingConfigurable

from ..errors import AgentFarmError, ConflictError, InvalidField, NotFoundError, ServerDied, TransportError
from ..inventory import Database, Inventory
from ..inventory.watch import Event, NodeChanged, NodeRemoved, TelemetryArrived
from ..logs import LogLine, about
from ..models import (
    LaunchOrder,
    Lease,
    LeaseEnd,
    LeaseState,
    Node,
    PlacementRequest,
    ServerStatus,
)
from ..placement import LeaseBook, NodeView, OwnerLimitBook, Placement, PlacementPolicy
from ..records import from_json
from ..server.versions import ServerEnvironment
from ..services import tls
from ..traitlets import Seconds
from .endings import ExitCounts
from .events import Broadcast
from .launching import is_loopback, launch_spec, versions_command
from .lease_log import LeaseLog
from .limits import OwnerLimitKeeper
from .reconcile import Reconciler
from .usage import UsageReport

#: States in which something may be on the node.
GRANTED: tuple[LeaseState, ...] = ("granted",)
HOLDING: tuple[LeaseState, ...] = ("granted", "running", "stopping")

#: How long a link may take to reach a noded that was started anew, in seconds.
RECONNECT_SECONDS = 10.0
#: Starting Python on a busy node and reading its packages, in seconds.
ENVIRONMENT_SECONDS = 20.0


@dataclasses.dataclass
class _Lock:
    """A lease's lock, how many hold it or wait for it, and what they want of its stop."""

    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    users: int = 0
    #: The smallest grace that any of them asked for, in seconds.
    grace_seconds: float = float("inf")
    #: Whether the node was asked to stop the server and has not answered yet.
    stopping: bool = False


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
        self._locks: dict[str, _Lock] = {}
        self._warned = False
        self.events = Broadcast()
        self.exits = ExitCounts(self.log)
        self._lease_log = LeaseLog(self.log)
        self.book = LeaseBook(database, on_change=self._lease_changed)
        self.owners = OwnerLimitBook()
        self.placement = Placement(self.policy, self.book, owners=self.owners)
        self.owner_limits = OwnerLimitKeeper(database, self.owners, self.placement, self.book)
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
        """Start the lease's server on its node; once it runs, the same lease is returned again.

        Raises
        ------
        NotFoundError
            There is no such lease.
        ConflictError
            It does not hold anything yet, or not any more.
        ServerDied
            The server ended at once.
        """
        async with self._locked(lease_id):
            lease = await self.book.find(lease_id)
            if lease.state == "running":
                return lease
            if lease.state != "granted" or lease.node is None:
                raise ConflictError(f"lease {lease_id} is {lease.state}, it cannot be launched: {lease.detail}")
            link = self.inventory.link(lease.node)
            node = self.inventory.node(lease.node).spec
            spec = launch_spec(lease, order, node, self.inventory.isolation_of(node), link.peer_address)
            status = await link.client.launch(spec)
            return await self._launched(lease, status, order)

    async def _launched(self, lease: Lease, status: ServerStatus, order: LaunchOrder) -> Lease:
        host = f"[{status.address}]" if ":" in status.address else status.address
        url = f"{order.protocol}://{host}:{status.port}"
        try:
            running = await self.book.change(lease.id, GRANTED, state="running", url=url, server=status)
        except NotFoundError:
            ended = await self.book.find(lease.id)
            raise ServerDied(ended.detail) from None
        return running

    async def release(
        self,
        lease_id: str,
        grace_seconds: float = 10,
        detail: str = "the server was stopped",
        end: LeaseEnd = "stopped",
    ) -> Lease:
        """Stop the lease's server and free its GPUs, in whatever state it is.

        When the node cannot be reached the lease stays `stopping`, durably, and is finished when the node is back or
        is given up. A stop that is under way is joined; a smaller grace shortens it.

        Raises
        ------
        NotFoundError
            There is no such lease.
        """
        lease = await self.book.find(lease_id)
        if lease.state == "waiting":
            try:
                return await self.placement.withdraw(lease_id, "the request was withdrawn")
            except (ConflictError, NotFoundError):
                lease = await self.book.find(lease_id)  # it was granted, or refused, a moment ago
        if not lease.alive:
            return lease
        if lease.state != "stopping":
            try:
                await self.book.change(lease_id, HOLDING, state="stopping", detail=detail, end=end)
            except NotFoundError:
                return await self.book.find(lease_id)
        await self._hurry(lease, grace_seconds)
        return await self.finish(lease_id, grace_seconds)

    async def _hurry(self, lease: Lease, grace_seconds: float) -> None:
        """Give a stop that is under way, or that waits for the lock, no more than this grace."""
        held = self._locks.get(lease.id)
        if held is None or held.grace_seconds <= grace_seconds:
            return
        held.grace_seconds = grace_seconds
        if held.stopping and lease.node is not None:
            with suppress(AgentFarmError):  # whoever holds the lock meets it too
                await self.inventory.link(lease.node).client.stop(lease.id, grace_seconds)

    async def finish(self, lease_id: str, grace_seconds: float = 10) -> Lease:
        """Try to end a lease that is `stopping`; return it, released or not."""
        async with self._locked(lease_id) as held:
            lease = await self.book.find(lease_id)
            if lease.state != "stopping" or lease.node is None:
                return lease
            held.grace_seconds = min(held.grace_seconds, grace_seconds)
            held.stopping = True
            try:
                result = await self.inventory.link(lease.node).client.stop(lease_id, held.grace_seconds)
            except AgentFarmError as exc:
                return await self._unfinished(lease, exc)
            finally:
                held.stopping = False
            if not (result.gone and result.gpus_free):
                self.log.warning(LogLine("not free yet", **about(lease)))
                return lease
            return await self.book.release(lease_id, lease.detail)

    async def _unfinished(self, lease: Lease, exc: AgentFarmError) -> Lease:
        node = next((node for node in self.inventory.all_nodes() if node.name == lease.node), None)
        if node is None or node.state == "down":
            return await self.book.release(lease.id, f"node {lease.node} is down")
        level = self.log.info if isinstance(exc, TransportError) else self.log.warning
        level(LogLine("stop waits for the node", **about(lease), detail=exc.message))
        return lease

    async def log_text(self, lease_id: str, lines: int = 50) -> str:
        """Return the last lines that the lease's server wrote; for a released one as long as its node keeps them.

        Raises
        ------
        NotFoundError
            There is no such lease, or it never had a node.
        """
        lease = await self.book.find(lease_id)
        if lease.node is None:
            raise NotFoundError(f"lease {lease_id} has no log: it was not granted")
        return await self.inventory.link(lease.node).client.logs(lease_id, lines)

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
            self._reconciler.wake()

    @asynccontextmanager
    async def _locked(self, lease_id: str) -> AsyncIterator[_Lock]:
        lock = self._locks.setdefault(lease_id, _Lock())
        lock.users += 1
        try:
            async with lock.lock:
                yield lock
        finally:
            lock.users -= 1
            if not lock.users:
                del self._locks[lease_id]
