"""From a launch request to a process that is watched."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from functools import partial

from jupyterhub_agentfarm.faults import undone
from jupyterhub_agentfarm.logs import LogLine
from jupyterhub_agentfarm.models import LaunchSpec, ServerExit, ServerState, ServerStatus
from jupyterhub_agentfarm.protocol import LAUNCH_SECONDS

from . import procfs
from .census import Census
from .cgroups import cgroups_of
from .directories import ServerDirectories
from .isolation.entering import start
from .isolation.isolator import Isolator
from .isolation.layers import Confined
from .isolation.systemd import scope_name
from .listening import failed, free_port, listen, service_url
from .orphans import NODED_VARIABLE
from .process import server_environment
from .server import Child, Server
from .store import Record, Store
from .sweeping import SETTLE_SECONDS, settle
from .warm.forking import Rising
from .warm.zygotes import Zygotes

log = logging.getLogger(__name__)

_PORT_TRIES = 3
#: How long a server that binds its port itself may take to do so, all tries together, in seconds. Before it another
#: server's end may be waited for, and after it this one's; the rest is for starting processes.
_BIND_SECONDS = LAUNCH_SECONDS - 2 * SETTLE_SECONDS - 5
_BIND_PAUSE_SECONDS = 0.1
_TAIL_LINES = 50


class Starter:
    """Starts the processes.

    Parameters
    ----------
    store
        Where records and logs lie.
    isolator
        Keeps them apart and within limits.
    directories
        Makes the servers' private directories.
    zygotes
        Fork them, where they can.
    boot_id
        This boot of the node.
    on_exit
        Called when a server's process ended.
    """

    def __init__(
        self,
        store: Store,
        isolator: Isolator,
        directories: ServerDirectories,
        zygotes: Zygotes,
        boot_id: str,
        on_exit: Callable[[Server], None],
    ) -> None:
        self._store, self._isolator, self._directories, self._zygotes = store, isolator, directories, zygotes
        self.boot_id, self._on_exit = boot_id, on_exit

    async def start(
        self, spec: LaunchSpec, began: Callable[[Server], None], permit: Callable[[], None] = lambda: None
    ) -> Server:
        """Start a server and return it once it listens, or holds a socket that does.

        Parameters
        ----------
        spec
            What to start.
        began
            Called with the server as soon as there is a process.
        permit
            Called right before a process is started; what it raises ends the launch.

        Raises
        ------
        LaunchFailed
            It could not be started.
        """
        # A socket cannot be inherited through an engine.
        if spec.socket == "port" or spec.isolation.sandbox == "container":
            return await self._start_on_port(spec, began, permit)
        sock = await asyncio.to_thread(listen, spec.address, spec.port_range)
        # Once the server has it, noded's copy is closed: the port must not outlive the server.
        with sock:
            async with self._zygotes.turn(spec):
                permit()
                server, rising = await self._spawn(spec, sock.getsockname()[1], sock, began)
                if rising is None or await self._rose(server, rising):
                    return server
            permit()
            server, _ = await self._spawn(spec, sock.getsockname()[1], sock, began, warm=False)
            return server

    async def _rose(self, server: Server, rising: Rising) -> bool:
        """Return whether a forked server came to answer, or was stopped; if not, nothing is left of it."""
        outcome = await rising.outcome(self._zygotes.options.start_seconds)
        if outcome is None or server.stop_requested:
            return True
        log.warning(LogLine("tried cold", lease=server.status.lease, outcome=outcome, said=rising.said[-200:]))
        self._zygotes.gave_up(outcome)
        if not server.exited.is_set():
            await _end(rising.forked, [server])
        if not (await settle(server, _no_gpus)).gone:
            raise failed("the server's first process does not end")
        return False

    async def _start_on_port(
        self, spec: LaunchSpec, began: Callable[[Server], None], permit: Callable[[], None]
    ) -> Server:
        deadline = time.monotonic() + _BIND_SECONDS
        for _ in range(_PORT_TRIES):
            port = await asyncio.to_thread(free_port, spec.address, spec.port_range)
            permit()
            server, _ = await self._spawn(spec, port, None, began)
            if await self._listens(server, port, deadline):
                server.change(state="running")
                self._store.save(server.record)
                return server
            tail = await asyncio.to_thread(self._store.tail, spec.lease, _TAIL_LINES)
            how = server.status.exit.sentence() if server.status.exit else f"it does not listen on port {port}"
            if not server.exited.is_set() or server.stop_requested or not _says_port_taken(tail):
                raise failed(f"the server did not come up: {how}", tail)
        raise failed(f"the server found its port taken {_PORT_TRIES} times", tail)

    async def _spawn(
        self,
        spec: LaunchSpec,
        port: int,
        sock: socket.socket | None,
        began: Callable[[Server], None],
        *,
        warm: bool = True,
    ) -> tuple[Server, Rising | None]:
        status = ServerStatus(
            lease=spec.lease,
            epoch=spec.epoch,
            state="starting",
            boot_id=self.boot_id,
            pid=0,
            pid_start_ticks=0,
            address=spec.address,
            port=port,
            gpus=spec.gpus,
            started_at=time.time(),
        )
        # Written before the process exists: a noded that is killed right now leaves no server unknown.
        self._store.save(Record(status))
        socket_fd = None if sock is None else sock.fileno()
        record, confined = await asyncio.to_thread(self._prepare, spec, status, service_url(spec, port), socket_fd)
        child, rising = await self._execute(spec, record, confined, warm)
        known: list[Server] = []
        try:
            async with undone(lambda: _end(child, known)):
                process = procfs.read(child.pid)
                assert process is not None  # a child that was not waited for is there, if only as a zombie
                server = self.track(record, process, child=child, state="starting" if sock is None else "running")
                server.announced = False
                known.append(server)
                began(server)
                self._record(server)
        except OSError as exc:
            raise failed(f"noded cannot look after the server's process: {exc}") from exc
        return server, rising

    def _prepare(
        self, spec: LaunchSpec, status: ServerStatus, url: str, socket_fd: int | None
    ) -> tuple[Record, Confined]:
        """Make what the server needs before there is a process of it. It may wait for disks and directory services."""
        account = self._isolator.account_for(spec)
        try:
            directory = self._directories.create(spec.lease, spec.files, account.owner)
            environment = server_environment(spec, url, socket_fd, directory, account)
            environment[NODED_VARIABLE] = self._store.mark
            confined = self._isolator.confine(spec, account, environment, directory, socket_fd)
        except OSError as exc:
            raise failed(f"the server cannot be prepared: {exc}") from exc
        uid = None if account.own else account.uid
        return Record(status, confined.placed.cgroups, uid, spec.isolation.sandbox), confined

    async def _execute(
        self, spec: LaunchSpec, record: Record, confined: Confined, warm: bool
    ) -> tuple[Child, Rising | None]:
        release = partial(self._isolator.release, spec.lease, record.cgroups, record.sandbox)
        async with undone(lambda: asyncio.to_thread(release)):
            self._store.save(record)
            log_fd = self._store.open_log(spec.lease)
            try:
                rising = await self._zygotes.start(spec, confined, log_fd) if warm else None
                if rising is not None:
                    return rising.forked, rising
                return await asyncio.to_thread(start, spec, confined, log_fd), None
            finally:
                os.close(log_fd)

    def _record(self, server: Server) -> None:
        if not server.watch(self._on_exit):
            raise failed("the server's process cannot be watched")
        self._store.save(server.record)

    def track(
        self,
        record: Record,
        process: procfs.Process,
        *,
        child: Child | None,
        state: ServerState,
    ) -> Server:
        """Return the server of the record that `process` is."""
        # A scope's folder is known once systemd has made it.
        cgroups = record.cgroups or cgroups_of(process.pid, scope_name(record.status.lease))
        status = dataclasses.replace(
            record.status,
            state=state,
            pid=process.pid,
            pid_start_ticks=process.start_ticks,
            cgroup=cgroups[0] if cgroups else None,
        )
        return Server(dataclasses.replace(record, status=status, cgroups=cgroups), child, self._store.mark)

    async def _listens(self, server: Server, port: int, deadline: float) -> bool:
        """Return whether the server came to listen on `port`; false when it ended or took too long."""
        while not server.exited.is_set() and time.monotonic() < deadline:
            if await asyncio.to_thread(_has_listener, server, port):
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BIND_PAUSE_SECONDS):
                    await server.exited.wait()
        return False


async def _end(child: Child, known: list[Server]) -> None:
    """Kill and reap a process that was just started and must not go on."""
    # It leads a group of its own, and until it is reaped its pid is nobody else's. This needs no file descriptor.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        await asyncio.to_thread(child.wait, SETTLE_SECONDS)
    except subprocess.TimeoutExpired:
        return
    for server in known:
        server.unwatch()
        server.mark_exited(ServerExit("unknown", time.time()))


async def _no_gpus(_pids: Iterable[int], _uuids: Iterable[str]) -> bool:
    return True  # it did not come far enough to use one


def _has_listener(server: Server, port: int) -> bool:
    """Return whether a process of the server, and not just anybody, listens on the port."""
    inodes = procfs.listening_inodes(port)
    if not inodes:
        return False
    return any(procfs.holds_socket(process.pid, inodes) for process in Census().members(server.identity))


def _says_port_taken(text: str) -> bool:
    return "already in use" in text.lower() or "eaddrinuse" in text.lower()
