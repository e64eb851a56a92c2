"""Starts servers, keeps track of them, stops them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from jupyterhub_agentfarm.errors import AgentFarmError, InvalidField, NodedError, NotFoundError
from jupyterhub_agentfarm.faults import undone
from jupyterhub_agentfarm.models import LaunchSpec, ServerExit, ServerStatus
from jupyterhub_agentfarm.protocol import Notice, StopResult

from . import procfs
from .adoption import adopt
from .claims import Claims
from .directories import ServerDirectories
from .grace import Grace
from .isolation.isolator import Isolator
from .lines import ServerLines
from .listening import failed
from .notices import put_notice
from .pending import Pending
from .process import check_launch
from .server import Server
from .starting import Starter
from .store import Store
from .sweeping import SETTLE_SECONDS, look, settle
from .warm.zygotes import Zygotes

log = logging.getLogger(__name__)

_LISTED_SECONDS = 3600.0
_KEPT_SECONDS = 86400.0
_MAX_GRACE_SECONDS = 600.0


class Devices(Protocol):
    """What the launcher asks about GPUs."""

    async def known_gpus(self) -> set[str]:
        """Return the UUIDs of all GPUs of the node."""

    async def free_of(self, pids: Iterable[int], uuids: Iterable[str]) -> bool:
        """Return whether none of the processes is on the GPUs."""


class Launcher:
    """The servers of this node.

    Parameters
    ----------
    store
        Where records and logs lie.
    isolator
        Keeps them apart and within limits.
    directories
        Makes the servers' private directories.
    zygotes
        Fork servers, where they can.
    devices
        Knows the GPUs.
    on_exit
        Called with the status of each server that ended.
    """

    def __init__(
        self,
        store: Store,
        isolator: Isolator,
        directories: ServerDirectories,
        zygotes: Zygotes,
        devices: Devices,
        on_exit: Callable[[ServerStatus], None],
    ) -> None:
        self._store, self._directories, self._devices, self._publish = store, directories, devices, on_exit
        self._isolator = isolator
        self._starter = Starter(store, isolator, directories, zygotes, procfs.boot_id(), self._ended)
        self._claims = Claims()
        self._lines = ServerLines()
        self._servers: dict[str, Server] = {}
        self._launches: dict[str, asyncio.Task[ServerStatus]] = {}
        self._pending: dict[str, Pending] = {}
        self._stops: dict[str, asyncio.Task[StopResult]] = {}
        self._graces: dict[str, Grace] = {}
        self._settling: dict[str, asyncio.Task[StopResult]] = {}

    def servers(self) -> list[Server]:
        """Return every server on record."""
        return list(self._servers.values())

    def leases(self) -> set[str]:
        """Return the leases of every server on record and of every launch under way."""
        return {*self._servers, *self._launches}

    def statuses(self) -> list[ServerStatus]:
        """Return the servers that run or ended less than an hour ago."""
        oldest = time.time() - _LISTED_SECONDS
        found = [server.status for server in self._servers.values()]
        return [status for status in found if status.exit is None or status.exit.at > oldest]

    # ---- taking over -----------------------------------------------------------------------------------------

    async def take_over(self) -> None:
        """Adopt the servers that an earlier noded left behind; finish off what is left of dead ones."""
        for server in await adopt(self._store, self._starter):
            lease = server.status.lease
            self._servers[lease] = server
            if not server.exited.is_set() and not server.watch(self._ended):
                server.mark_exited(ServerExit("unknown", time.time()))
            self._save(server)
            if server.exited.is_set() and server.status.boot_id != self._starter.boot_id:
                self._directories.remove(lease)
            elif not server.exited.is_set():
                self._claims.hold(lease, server.status.gpus)
                self._lines.adopted(server.status)
            else:
                self._claims.hold(lease, server.status.gpus)
                self._settle(server)

    # ---- launch ----------------------------------------------------------------------------------------------

    async def launch(self, spec: LaunchSpec) -> ServerStatus:
        """Start a server, or return the one that the lease has.

        Raises
        ------
        InvalidField
            A field of the request cannot be used.
        NodedError
            ``gpu_unknown``, ``stale_epoch``.
        GpuBusy
            A live server holds a GPU of the request.
        LaunchFailed
            The process could not be started.
        """
        check_launch(spec)
        known = self._known_server(spec)
        task = self._launches.get(spec.lease)
        if task is None:
            if known is not None:
                return known.status
            task = _keep(self._launches, spec.lease, self._launch(spec))
        # A lost connection cancels this call, not the launch: a repeated one joins it.
        return await asyncio.shield(task)

    def _known_server(self, spec: LaunchSpec) -> Server | None:
        server = self._servers.get(spec.lease)
        if server is None:
            return None
        epoch = server.status.epoch
        if spec.epoch < epoch:
            facts = {"epoch": epoch, "asked": spec.epoch}
            raise NodedError(f"lease {spec.lease} is at epoch {epoch}, not {spec.epoch}", "stale_epoch", facts)
        if server.exited.is_set():
            # Of the same epoch it is a repeated request: the answer is what became of it.
            return server if spec.epoch == epoch else None
        if spec.epoch > epoch:
            server.change(epoch=spec.epoch)
            self._save(server)
        return server

    async def _launch(self, spec: LaunchSpec) -> ServerStatus:
        pending = self._pending[spec.lease] = Pending()
        try:
            return await self._started(spec, pending)
        finally:
            del self._pending[spec.lease]
            pending.known()

    async def _started(self, spec: LaunchSpec, pending: Pending) -> ServerStatus:
        await self._wait_for_settling({spec.lease, *self._claims.holders(spec.gpus)})
        self._claims.take(spec.lease, spec.gpus, await self._devices.known_gpus() if spec.gpus else set())

        def began(server: Server) -> None:
            self._servers[spec.lease] = server
            pending.known()

        try:
            # Not when it is cancelled: noded may go while a server comes up, and the next one adopts it.
            async with undone(lambda: self._clear_failed(spec.lease)):
                server = await self._starter.start(spec, began, pending.permit)
        except OSError as exc:  # a full disk above all
            raise failed(f"noded cannot write what a server needs on this node: {exc}") from exc
        server.announced = True
        self._lines.launched(spec, server.status)
        if server.exited.is_set():
            asyncio.get_running_loop().call_soon(self._ended, server)
        return server.status

    async def _clear_failed(self, lease: str) -> None:
        server = self._servers.get(lease)
        if server is not None and server.status.boot_id == self._starter.boot_id:
            server.stop_requested = True
            result = await self._settle_now(server)
            if not (result.gone and result.gpus_free):
                # It keeps its GPUs until it has left them: a stop, or the next launch on one of them, tries again.
                server.announced = True
                return
            server.unwatch()
        self._servers.pop(lease, None)
        self._store.delete(lease)
        self._directories.remove(lease)
        self._claims.release(lease)

    async def _wait_for_settling(self, leases: Iterable[str]) -> None:
        """Wait for servers that have ended but may not have left their GPUs yet."""
        ended = [self._servers[lease] for lease in leases if lease in self._servers]
        ended = [server for server in ended if server.exited.is_set()]
        tasks = [self._settle(server) for server in ended if server.status.boot_id == self._starter.boot_id]
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE_SECONDS)

    # ---- the end ---------------------------------------------------------------------------------------------

    def _ended(self, server: Server) -> None:
        if not server.announced:
            return
        self._save(server)
        self._lines.exited(server.status)
        self._publish(server.status)
        self._settle(server)

    def _save(self, server: Server) -> None:
        """Write a server's record; a full disk keeps nobody from hearing of the server, nor from ending it."""
        try:
            self._store.save(server.record)
        except OSError as exc:
            log.warning(self._lines.line("record not written", server.status.lease, detail=exc))

    def _settle(self, server: Server) -> asyncio.Task[StopResult]:
        lease = server.status.lease
        return self._settling.get(lease) or _keep(self._settling, lease, self._settled(server))

    async def _settled(self, server: Server) -> StopResult:
        result = await self._settle_now(server)
        if result.gone:
            await asyncio.to_thread(self._directories.remove, server.status.lease)
        if result.gone and result.gpus_free:
            self._claims.release(server.status.lease)
        return result

    async def _settle_now(self, server: Server) -> StopResult:
        result = await settle(server, self._devices.free_of)
        if result.gone and server.sandbox != "none":
            await asyncio.to_thread(self._isolator.release, server.status.lease, server.cgroups, server.sandbox)
        return result

    async def stop(self, lease: str, grace_seconds: float) -> StopResult:
        """Stop a server: TERM, after the grace KILL to all of it; return when everything is gone.

        A stop that is under way is joined; a shorter grace shortens it.

        Raises
        ------
        InvalidField
            The grace is not 0-600 seconds.
        """
        if not 0 <= grace_seconds <= _MAX_GRACE_SECONDS:
            raise InvalidField("grace_seconds", "a number from 0 to 600", grace_seconds)
        task = self._stops.get(lease)
        if task is None:
            if lease not in self._servers and lease not in self._launches:
                return StopResult(gone=True, gpus_free=True)
            if lease not in self._servers or not self._servers[lease].exited.is_set():
                self._lines.stopping(lease, grace_seconds)
            grace = self._graces[lease] = Grace(grace_seconds)
            task = _keep(self._stops, lease, self._stop(lease, grace))
            task.add_done_callback(lambda _: self._graces.pop(lease, None))
        else:
            self._graces[lease].shorten(grace_seconds)
        return await asyncio.shield(task)

    async def _stop(self, lease: str, grace: Grace) -> StopResult:
        pending = self._pending.get(lease)
        if pending is not None and not await pending.call_off(SETTLE_SECONDS):
            return StopResult(gone=False, gpus_free=False)
        server = self._servers.get(lease)
        if server is None or server.status.boot_id != self._starter.boot_id:
            # A restart of the node leaves nothing, and what has the same pid and start time now is a stranger.
            return StopResult(gone=True, gpus_free=True)
        if not server.exited.is_set():
            await look(server)
            server.terminate()
            await grace.wait(server.exited)
        return await self._settle(server)

    # ---- records ---------------------------------------------------------------------------------------------

    async def tail(self, lease: str, lines: int) -> str:
        """Return the last lines of a server's log.

        Raises
        ------
        NotFoundError
            There is no such server.
        """
        if lease not in self._servers:
            raise NotFoundError(f"noded knows no server of the lease {lease}")
        return await asyncio.to_thread(self._store.tail, lease, lines)

    async def notify(self, lease: str, notice: Notice | None) -> None:
        """Have a server tell its user something, or nothing any more.

        Raises
        ------
        NotFoundError
            There is no such server.
        """
        server = self._servers.get(lease)
        if server is None or server.exited.is_set():
            raise NotFoundError(f"noded knows no server of the lease {lease} that runs")
        await asyncio.to_thread(put_notice, self._directories, lease, notice)

    def forget(self, lease: str) -> None:
        """Remove the record and the log of an ended server; of an unknown one there is nothing to remove.

        Raises
        ------
        InvalidField
            It still runs.
        """
        server = self._servers.get(lease)
        if server is None:
            return
        if not server.exited.is_set() or self._claims.holders(server.status.gpus) & {lease}:
            raise InvalidField("lease", "a server that has ended and left its GPUs", lease)
        del self._servers[lease]
        self._store.delete(lease)

    def forget_old(self) -> None:
        """Forget servers that ended a day ago."""
        oldest = time.time() - _KEPT_SECONDS
        for server in self.servers():
            if server.status.exit is not None and server.status.exit.at < oldest:
                with contextlib.suppress(InvalidField):  # a GPU that it never left
                    self.forget(server.status.lease)

    async def close(self) -> None:
        """Let go of the servers, which go on. What is under way is finished first, within its deadline."""
        launches = list(self._launches.values())
        if launches:
            await asyncio.wait(launches, timeout=SETTLE_SECONDS)
        for task in [*self._launches.values(), *self._stops.values(), *self._settling.values()]:
            task.cancel()
        for server in self._servers.values():
            server.unwatch()
        await asyncio.to_thread(self._directories.close)


def _keep(tasks: dict[str, asyncio.Task[Any]], lease: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start `work` and keep its task in `tasks` while it runs."""
    task = asyncio.create_task(work)
    tasks[lease] = task

    def done(_: asyncio.Task[Any]) -> None:
        if tasks.get(lease) is task:
            del tasks[lease]
        # Whoever waited has the error; when nobody did, the log has it.
        if not task.cancelled() and task.exception() and not isinstance(task.exception(), AgentFarmError):
            log.error("Lease %s: work failed", lease, exc_info=task.exception())

    task.add_done_callback(done)
    return task
