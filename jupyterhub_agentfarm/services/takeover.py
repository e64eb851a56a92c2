"""One process per service: a new one takes over from an old one.

A Hub that was killed leaves its services running. The next Hub starts them again, and then there are two writers
for one database and two servers for one port. So a service holds a lock file for as long as it lives::

    flock(LOCK) free  -> held; who holds it is written into it
    flock(LOCK) taken -> its holder is sent SIGTERM, after `grace_seconds` SIGKILL; then the lock is ours

The holder is signalled only when it is the very process that stands in the file (a pid can be reused): its pid, its
start in ticks since the boot, and the boot. No step of the clock changes these.

A service is started by the Hub ("managed") or by somebody else, as systemd ("external"). Who starts one starts it
again when it ends, so the two kinds never take over from each other: they would go on for ever.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConflictError, InvalidField
from ..noded import procfs
from ..records import from_json, to_json

log = logging.getLogger(__name__)

Kind = Literal["managed", "external"]


def started_by() -> Kind:
    """Return who started this process: "managed" for the Hub, which sets $JUPYTERHUB_SERVICE_NAME."""
    return "managed" if os.environ.get("JUPYTERHUB_SERVICE_NAME") else "external"


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    pid: int
    #: Field 22 of /proc/PID/stat.
    start_ticks: int
    boot_id: str
    kind: Kind


class ServiceLock:
    """The lock of one service; held until the process ends or :meth:`release` is called.

    Parameters
    ----------
    path
        The lock file; it is never removed.
    grace_seconds
        How long an old holder may take to end by itself.
    kind
        Who started this process; None: see :func:`started_by`.
    """

    def __init__(self, path: Path, grace_seconds: float = 10, kind: Kind | None = None) -> None:
        self.path = path
        self.grace_seconds = grace_seconds
        self.kind: Kind = kind or started_by()
        self._fd: int | None = None

    async def take(self) -> None:
        """Return when the lock is held; an older process that held it has ended.

        Raises
        ------
        ConflictError
            The holder does not end, cannot be identified, or is of the other kind.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with ExitStack() as undo:
            undo.callback(os.close, fd)
            if not _try(fd):
                await self._evict(fd)
            os.truncate(fd, 0)
            os.pwrite(fd, json.dumps(to_json(self._ourselves())).encode(), 0)
            undo.pop_all()
        self._fd = fd

    def release(self) -> None:
        """Give the lock up; a second call does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    async def _evict(self, fd: int) -> None:
        """End the holder: TERM, then KILL."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal_holder(number)
            deadline = time.monotonic() + self.grace_seconds
            while time.monotonic() < deadline:
                if _try(fd):
                    return
                await asyncio.sleep(0.05)
        raise ConflictError(f"another process holds {self.path} and does not end: stop it, then start again")

    def _signal_holder(self, number: signal.Signals) -> None:
        try:
            holder = from_json(Holder, json.loads(self.path.read_text()))
        except (ValueError, InvalidField):
            return  # it took the lock a moment ago and has not signed yet
        if holder.boot_id != procfs.boot_id() or not procfs.alive(holder.pid, holder.start_ticks):
            return
        if holder.kind != self.kind:
            raise ConflictError(_other_kind(holder, self.path))
        log.warning("taking over from process %d, which holds %s: %s", holder.pid, self.path, number.name)
        procfs.send_signal(holder.pid, holder.start_ticks, number)

    def _ourselves(self) -> Holder:
        process = procfs.read(os.getpid())
        assert process is not None  # it is us
        return Holder(process.pid, process.start_ticks, procfs.boot_id(), self.kind)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _other_kind(holder: Holder, path: Path) -> str:
    theirs = "the Hub" if holder.kind == "managed" else "something else than the Hub"
    return (
        f"process {holder.pid}, which {theirs} started, is this service already and holds {path}: "
        "stop it, or configure the service in one place only"
    )
