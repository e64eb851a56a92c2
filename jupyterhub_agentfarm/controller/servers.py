"""What is done with the servers of leases on their nodes: launch, stop, log.

`launch` and the end of a lease hold the lease's own lock, so that a server is never started after its stop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import AgentFarmError, ConflictError, NotFoundError, ServerDied, TransportError
from ..inventory import Inventory
from ..logs import LogLine, about
from ..models import LaunchOrder, Lease, LeaseEnd, LeaseState, ServerStatus
from ..placement import LeaseBook, OwnerLimitBook, Placement
from .launching import launch_spec, limited_order

#: States in which something may be on the node.
GRANTED: tuple[LeaseState, ...] = ("granted",)
HOLDING: tuple[LeaseState, ...] = ("granted", "running", "stopping")


@dataclass
class _Lock:
    """A lease's lock, how many hold it or wait for it, and what they want of its stop."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    #: The smallest grace that any of them asked for, in seconds.
    grace_seconds: float = float("inf")
    #: Whether the node was asked to stop the server and has not answered yet.
    stopping: bool = False


class Servers:
    """The servers of the leases.

    Parameters
    ----------
    inventory
        Their nodes.
    book
        Their leases.
    placement
        Where requests wait that have no server yet.
    owners
        What their owners may use.
    log
        Where a stop that has to wait is written.
    """

    def __init__(
        self,
        inventory: Inventory,
        book: LeaseBook,
        placement: Placement,
        owners: OwnerLimitBook,
        log: logging.Logger | logging.LoggerAdapter[Any],
    ) -> None:
        self._inventory = inventory
        self._book = book
        self._placement = placement
        self._owners = owners
        self._log = log
        self._locks: dict[str, _Lock] = {}

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
        lease = await self._book.find(lease_id)
        if lease.state == "granted" and lease.node is not None:
            # A controller that took over from another has no connections for a moment.
            await self._inventory.link(lease.node).tried()
        async with self._locked(lease_id):
            lease = await self._book.find(lease_id)
            if lease.state == "running":
                return lease
            if lease.state != "granted" or lease.node is None:
                raise ConflictError(f"lease {lease_id} is {lease.state}, it cannot be launched: {lease.detail}")
            link = self._inventory.link(lease.node)
            node = self._inventory.node(lease.node).spec
            order = limited_order(order, self._owners.of(lease.owner))
            spec = launch_spec(lease, order, node, self._inventory.isolation_of(node), link.peer_address)
            status = await link.client.launch(spec)
            return await self._launched(lease, status, order)

    async def _launched(self, lease: Lease, status: ServerStatus, order: LaunchOrder) -> Lease:
        host = f"[{status.address}]" if ":" in status.address else status.address
        url = f"{order.protocol}://{host}:{status.port}"
        try:
            running = await self._book.change(lease.id, GRANTED, state="running", url=url, server=status)
        except NotFoundError:
            ended = await self._book.find(lease.id)
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
        lease = await self._book.find(lease_id)
        if lease.state == "waiting":
            try:
                return await self._placement.withdraw(lease_id, "the request was withdrawn")
            except (ConflictError, NotFoundError):
                lease = await self._book.find(lease_id)  # it was granted, or refused, a moment ago
        if not lease.alive:
            return lease
        if lease.state != "stopping":
            try:
                await self._book.change(lease_id, HOLDING, state="stopping", detail=detail, end=end)
            except NotFoundError:
                return await self._book.find(lease_id)
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
                await self._inventory.link(lease.node).client.stop(lease.id, grace_seconds)

    async def finish(self, lease_id: str, grace_seconds: float = 10) -> Lease:
        """Try to end a lease that is `stopping`; return it, released or not."""
        async with self._locked(lease_id) as held:
            lease = await self._book.find(lease_id)
            if lease.state != "stopping" or lease.node is None:
                return lease
            held.grace_seconds = min(held.grace_seconds, grace_seconds)
            held.stopping = True
            try:
                result = await self._inventory.link(lease.node).client.stop(lease_id, held.grace_seconds)
            except AgentFarmError as exc:
                return await self._unfinished(lease, exc)
            finally:
                held.stopping = False
            if not (result.gone and result.gpus_free):
                self._log.warning(LogLine("not free yet", **about(lease)))
                return lease
            return await self._book.release(lease_id, lease.detail)

    async def _unfinished(self, lease: Lease, exc: AgentFarmError) -> Lease:
        node = next((node for node in self._inventory.all_nodes() if node.name == lease.node), None)
        if node is None or node.state == "down":
            return await self._book.release(lease.id, f"node {lease.node} is down")
        level = self._log.info if isinstance(exc, TransportError) else self._log.warning
        level(LogLine("stop waits for the node", **about(lease), detail=exc.message))
        return lease

    async def log_text(self, lease_id: str, lines: int = 50) -> str:
        """Return the last lines that the lease's server wrote; for a released one as long as its node keeps them.

        Raises
        ------
        NotFoundError
            There is no such lease, or it never had a node.
        """
        lease = await self._book.find(lease_id)
        if lease.node is None:
            raise NotFoundError(f"lease {lease_id} has no log: it was not granted")
        return await self._inventory.link(lease.node).client.logs(lease_id, lines)

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
