"""The daemon: a lock for its life, a socket, and everything behind it."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jupyterhub_agentfarm.errors import ConflictError
from jupyterhub_agentfarm.models import ServerStatus, Telemetry
from jupyterhub_agentfarm.protocol import MAX_LINE_BYTES, Event
from jupyterhub_agentfarm.records import to_json

from .capping import cap_logs_for_ever
from .cgroups import Cgroups
from .connection import Connection
from .directories import ServerDirectories, root_for
from .gpus import GpuCollector
from .isolation.isolator import isolator_for
from .launcher import Launcher
from .methods import Methods
from .orphans import Orphans, noded_mark
from .simulated import SimulatedGpus
from .store import Store
from .telemetry import Sampler
from .warm.orphaned import reap_for_ever
from .warm.zygotes import WarmOptions, Zygotes

log = logging.getLogger(__name__)

SOCKET_NAME = "noded.sock"
LOCK_NAME = "noded.lock"


@dataclass(frozen=True)
class Settings:
    """What an admin chose; see the options of :class:`~.app.NodedApp`."""

    state_dir: Path
    telemetry_interval: float = 2
    simulated_gpus: int = 0
    mountpoints: tuple[str, ...] = ("/",)
    nvml_timeout: float = 5
    cgroups: bool = True
    orphan_grace: float = 60
    sandbox_binds: tuple[str, ...] = ()
    warm: WarmOptions = field(default_factory=WarmOptions)


def lock_state_dir(state_dir: Path) -> int:
    """Take the state directory for this process's life and return the lock's file descriptor.

    Raises
    ------
    ConflictError
        Another noded has it.
    """
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state_dir.chmod(0o700)
    handle = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(handle)
        raise ConflictError(f"another noded runs with the state directory {state_dir}") from exc
    return handle


class Noded:
    """The daemon of one node and account.

    Parameters
    ----------
    settings
        What an admin chose.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connections: set[Connection] = set()
        simulated = SimulatedGpus(settings.simulated_gpus, str(settings.state_dir))
        self._zygotes = Zygotes(settings.warm, settings.state_dir / "warm")
        self._sampler = Sampler(
            GpuCollector(settings.nvml_timeout), simulated, settings.mountpoints, self._zygotes.report
        )
        self._servers_dir = settings.state_dir / "servers"
        self._isolator = isolator_for(
            Cgroups(settings.cgroups),
            hidden=(settings.state_dir,),
            binds=settings.sandbox_binds,
            minors=self._sampler.gpus.minors,
        )
        self._launcher = Launcher(
            Store(self._servers_dir),
            self._isolator,
            ServerDirectories(root_for(settings.state_dir)),
            self._zygotes,
            self._sampler,
            self._server_exited,
        )
        self._orphans = Orphans(noded_mark(settings.state_dir), self._launcher.leases, settings.orphan_grace)
        self._methods = Methods(
            self._launcher,
            self._sampler,
            self._orphans,
            self._isolator.enforcement(),
            settings.telemetry_interval,
            settings.nvml_timeout + 2,
        )

    @property
    def socket_path(self) -> Path:
        """Where it listens."""
        return self._settings.state_dir / SOCKET_NAME

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Servers go on."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        await self._launcher.take_over()
        living = [server.status.lease for server in self._launcher.servers() if not server.exited.is_set()]
        await asyncio.to_thread(self._isolator.sweep, noded_mark(self._settings.state_dir), living)
        sampling = self._sampler.run(self._settings.telemetry_interval, self._launcher.servers, self._telemetry)
        work = [sampling, cap_logs_for_ever(self._servers_dir), self._orphans.run()]
        work += [self._zygotes.run(), reap_for_ever()] if self._settings.warm.enabled else []
        tasks = [asyncio.create_task(each) for each in work]
        for task in tasks:
            task.add_done_callback(lambda _: ended.set())
        server = await self._listen()
        log.info("Listening on %s", self.socket_path)
        try:
            await ended.wait()
        finally:
            await self._close(server, tasks)
        log.info("Ended; servers go on")

    async def _listen(self) -> asyncio.Server:
        # Only the holder of the lock is here: whoever made an old socket is dead.
        self.socket_path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            sock.bind(str(self.socket_path))
        finally:
            os.umask(before)
        return await asyncio.start_unix_server(self._connected, sock=sock, limit=MAX_LINE_BYTES)

    async def _close(self, server: asyncio.Server, tasks: Sequence[asyncio.Task[None]]) -> None:
        server.close()
        self.socket_path.unlink(missing_ok=True)
        for task in tasks:
            task.cancel()
        for fault in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(fault, Exception):
                log.error("A task of noded failed, and noded ends", exc_info=fault)
        await self._launcher.close()
        await self._zygotes.close()
        for connection in list(self._connections):
            connection.end()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer, self._methods.dispatch)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)

    def _telemetry(self, sample: Telemetry) -> None:
        self._launcher.forget_old()
        self._broadcast("telemetry", sample)

    def _server_exited(self, status: ServerStatus) -> None:
        self._broadcast("server_exited", status)

    def _broadcast(self, event: Event, record: Telemetry | ServerStatus) -> None:
        data = to_json(record)
        for connection in list(self._connections):
            connection.event(event, data)
