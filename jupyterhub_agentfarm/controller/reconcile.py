"""Reconciler: what happens without being asked, until leases and servers are the same thing again.

==============================  ===================================================================================
what happens                    what is done
==============================  ===================================================================================
a node is reached (again)       servers there without a lease are stopped, leases whose server is gone are released,
                                leases that are being stopped are finished; then the node counts for placement
some half a minute is over      the same again, for what slipped past: servers without a lease are stopped, and noded
                                is told which leases are held, so that it ends the orphans (:mod:`.strays`)
a node is reached, or some      it is asked which kernels its servers have (:mod:`.kernels`)
minutes are over
a server exits                  its lease is released with the exit's sentence and status
a node is down                  its leases are released, until it is back; the servers of those that were released by
                                then are stopped as above
a lease was never launched      released after `Farm.grant_timeout`
a drain has a deadline          the users of the servers there are told, and again when it changes or is taken back
a drain's deadline is over      what is still on the node is stopped
anything becomes free           the waiting line is served at once
a day is over                   leases that were released longer than `Farm.history` ago are forgotten
==============================  ===================================================================================

Every step can be repeated: whatever failed is done by a later pass, and whatever was interrupted by the end of the
process by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ..errors import AgentFarmError, NotFoundError
from ..faults import Edge
from ..inventory.watch import Event, EventsMissed, NodeChanged, NodeReady, NodeRemoved, ServerExited, TelemetryArrived
from ..logs import LogLine
from ..models import Lease, LeaseEnd, ServerStatus
from ..tasks import OwnedTasks
from .endings import end_of
from .kernels import NodeKernels
from .notices import Notices
from .strays import SWEEP_SECONDS, is_held, orphans_of

if TYPE_CHECKING:
    from .farm import Farm

log = logging.getLogger(__name__)

#: Time between two passes when nothing happens, in seconds.
TICK_SECONDS = 1.0
#: Least time between two passes, in seconds.
PAUSE_SECONDS = 0.05
#: Time between two removals of old leases, in seconds.
FORGET_SECONDS = 86400.0
#: Grace for servers that have no lease any more, in seconds.
STRAY_GRACE_SECONDS = 5.0


class Reconciled:
    """Names of the nodes that are reconciled.

    Parameters
    ----------
    on_change
        Called with a name that was added or discarded.
    """

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._names: set[str] = set()
        self._on_change = on_change

    def __contains__(self, name: object) -> bool:
        """Whether the node of this name is."""
        return name in self._names

    def add(self, name: str) -> None:
        """Note that a node is."""
        if name not in self._names:
            self._names.add(name)
            self._on_change(name)

    def discard(self, name: str) -> None:
        """Note that a node is not, or not any more."""
        if name in self._names:
            self._names.discard(name)
            self._on_change(name)

    def clear(self) -> None:
        """Note that none is."""
        for name in tuple(self._names):
            self.discard(name)


class Reconciler:
    """Follows the inventory and keeps the leases true.

    Parameters
    ----------
    farm
        Whose inventory, book and placement it works on.
    """

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._tasks = OwnedTasks(log)
        self._wake = asyncio.Event()
        self._reconciled = Reconciled(farm.node_changed)
        self._forget_at = 0.0
        self._sweep_at: dict[str, float] = {}
        self._notices = Notices(farm)
        self._kernels = NodeKernels(farm, self._tasks)

    def start(self) -> None:
        """Begin; before the inventory is opened, so that nothing is missed."""
        watch = self._farm.inventory.watch()

        async def follow() -> None:
            """Handle every event until the inventory is closed."""
            with watch:
                async for event in watch:
                    self._handle(event)

        self._tasks.start_single(follow(), "following the inventory")
        self._tasks.start_single(self._passes(), "serving the line")

    async def aclose(self) -> None:
        """End; may be called again."""
        await self._tasks.aclose()

    def wake(self) -> None:
        """Make a pass soon."""
        self._wake.set()

    def is_reconciled(self, node: str) -> bool:
        """Whether the servers of a node were compared with the leases since it was reached."""
        return node in self._reconciled

    # ---- events -------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        match event:
            case TelemetryArrived(name):
                self._farm.events.tell("node", name)  # the next pass sees it; a wake for each would be too many
            case ServerExited(name, status):
                noting = f"noting the exit of {status.lease}"
                # When it fails, only the comparison finds the exit again.
                self._tasks.start_single(self._exited(name, status), noting, on_fault=partial(self._check, name))
            case NodeReady(name, _):
                self._notices.forget(self._farm.book.on_node(name))
                self._kernels.forget(name)
                self._check(name)
            case NodeChanged(name, node):
                if node.state != "ready":
                    self._reconciled.discard(name)
                if node.state == "down":
                    self._tasks.start_single(self._give_up(name), f"giving up {name}")
                self._farm.events.tell("node", name)
                self.wake()
            case NodeRemoved(name):
                self._reconciled.discard(name)
                self._sweep_at.pop(name, None)
                self._kernels.forget(name)
                self._farm.events.tell("node_removed", name)
                self.wake()
            case EventsMissed():
                self._reconciled.clear()
                self.wake()

    def _check(self, name: str) -> None:
        self._reconciled.discard(name)
        self._tasks.start_single(self._compare(name), f"checking {name}", replace=True)

    async def _exited(self, name: str, status: ServerStatus) -> None:
        with suppress(NotFoundError):
            lease = self._farm.book.get(status.lease)
            if lease.node == name and lease.epoch == status.epoch and lease.state != "stopping":
                await self._end(lease, *end_of(lease, status, None), status)

    async def _give_up(self, name: str) -> None:
        """Release what a node holds for as long as it is down; once it is back, its servers are compared anew.

        A comparison may have met a lease that was just being released, and taken its server for one of the farm's.
        """
        for lease in self._farm.book.on_node(name):
            if not self._is_down(name):
                break
            await self._end(lease, "node_down", f"node {name} is down")
        if not self._is_down(name):
            self._check(name)

    def _is_down(self, name: str) -> bool:
        with suppress(NotFoundError):
            return self._farm.inventory.node(name).state == "down"
        return False

    async def _end(self, lease: Lease, end: LeaseEnd, detail: str, server: ServerStatus | None = None) -> None:
        await self._farm.book.release(lease.id, detail, server, end)

    # ---- a node that was reached --------------------------------------------------------------------------------

    async def _compare(self, name: str) -> None:
        """Make servers and leases of a node agree; on a failure a later pass tries again."""
        try:
            # Leases first: one that runs now has a server in any answer from now on.
            leases = {lease.id: lease for lease in self._farm.book.on_node(name)}
            servers = {server.lease: server for server in await self._farm.inventory.link(name).client.servers()}
            clean = all([await self._fence(name, server) for server in servers.values()])
            for lease in leases.values():
                await self._match(lease, servers.get(lease.id))
            await orphans_of(self._farm, name)
        except AgentFarmError as exc:
            log.info(LogLine("not checked", node=name, detail=exc.message))
            return
        if not clean:
            self._reconciled.discard(name)
        elif name not in self._reconciled:
            self._reconciled.add(name)
            self._farm.events.tell("node", name)
            self.wake()

    async def _fence(self, name: str, server: ServerStatus) -> bool:
        """Stop a server that no lease stands for; return whether the node is rid of it."""
        if server.state == "exited" or is_held(self._farm.book, name, server):
            return True
        log.warning(LogLine("fenced: the node does not hold the lease (any more)", node=name, lease=server.lease))
        result = await self._farm.inventory.link(name).client.stop(server.lease, STRAY_GRACE_SECONDS)
        return result.gone and result.gpus_free

    async def _match(self, lease: Lease, server: ServerStatus | None) -> None:
        with suppress(NotFoundError):
            if self._farm.book.get(lease.id).state != lease.state:
                return  # it moved on since the node was asked: whoever moved it sees to the rest
        if lease.state == "stopping":
            self._tasks.start_single(self._farm.finish(lease.id), f"stopping {lease.id}")
        elif (server is None and lease.state == "running") or (server is not None and server.state == "exited"):
            facts = self._farm.inventory.node(str(lease.node)).facts
            await self._end(lease, *end_of(lease, server, facts.boot_id if facts is not None else None), server)

    # ---- passes -------------------------------------------------------------------------------------------------

    async def _passes(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            with Edge(log, "a pass over the farm failed; the next one tries again"):
                await self._pass()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _pass(self) -> None:
        now = time.time()
        for node in self._farm.inventory.all_nodes():
            if node.state == "ready" and (node.name not in self._reconciled or self._sweep_due(node.name, now)):
                self._tasks.start_single(self._compare(node.name), f"checking {node.name}")
            if node.state == "down" and self._farm.book.on_node(node.name):
                self._tasks.start_single(self._give_up(node.name), f"giving up {node.name}")
            if node.drain is not None and node.drain.deadline_at is not None and node.drain.deadline_at <= now:
                self._stop_all(node.name, f"node {node.name} was drained: {node.drain.reason}", node.drain.kept_for)
        self._kernels.refresh(now)
        alive = self._farm.book.alive()
        for lease in alive:
            self._look_at(lease, now)
        self._notices.keep(alive)
        if now >= self._forget_at:
            self._forget_at = now + FORGET_SECONDS
            policy, keep = self._farm.policy, self._farm.history
            if policy.limits_gpu_hours or self._farm.owners.limits_gpu_hours:
                keep = max(keep, policy.gpu_hours_window)
            self._tasks.start_single(self._farm.book.forget(keep), "forgetting old leases")
        await self._farm.placement.advance()

    def _sweep_due(self, name: str, now: float) -> bool:
        """Whether a node that is reached is to be looked at for strays again; the nodes' times are spread."""
        due = self._sweep_at.get(name)
        if due is None or now >= due:
            pause = SWEEP_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 - spreads requests, guards nothing
            self._sweep_at[name] = now + pause
        return due is not None and now >= due

    def _look_at(self, lease: Lease, now: float) -> None:
        if lease.state == "granted" and now - (lease.granted_at or now) > self._farm.grant_timeout:
            detail = f"no server was started within {self._farm.grant_timeout:g} s"
            self._tasks.start_single(self._farm.release(lease.id, 0, detail, "not_started"), f"stopping {lease.id}")
        elif lease.state == "stopping" and lease.node in self._reconciled:
            self._tasks.start_single(self._farm.finish(lease.id), f"stopping {lease.id}")
        elif self._notices.due(lease):
            self._tasks.start_single(self._notices.tell(lease), f"telling {lease.id}")

    def _stop_all(self, name: str, detail: str, kept_for: str) -> None:
        for lease in self._farm.book.on_node(name):
            if lease.state != "stopping" and (not kept_for or lease.owner != kept_for):
                self._tasks.start_single(self._farm.release(lease.id, 10, detail, "drained"), f"stopping {lease.id}")
