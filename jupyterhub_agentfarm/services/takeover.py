"""One process per service: a new one takes over from an old one.

A Hub that was killed leaves its services running. The next Hub starts them again, and then there are two writers
for one database and two servers for one port. So a service holds a lock file for as long as it lives::

    flock(LOCK) free  -> held; pid and start time are written into it
    flock(LOCK) taken -> its holder is sent SIGTERM, after `grace_seconds` SIGKILL; then the lock is ours

The holder is signalled only when its pid still has the start time that stands in the file (a pid can be reused).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import time
from pathlib import Path

import psutil

from ..errors import ConflictError

log = logging.getLogger(__name__)


class ServiceLock:
    """The lock of one service; held until the process ends or :meth:`release` is called.

    Parameters
    ----------
    path
        The lock file; it is never removed.
    grace_seconds
        How long an old holder may take to end by itself.
    """

    def __init__(self, path: Path, grace_seconds: float = 10) -> None:
        self.path = path
        self.grace_seconds = grace_seconds
        self._fd: int | None = None

    async def take(self) -> None:
        """Return when the lock is held; an older process that held it has ended.

        Raises
        ------
        ConflictError
            The holder does not end, or cannot be identified.
        """
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try(fd):
                await self._evict(fd)
            os.truncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "started": _started(os.getpid())}).encode(), 0)
        except BaseException:
            os.close(fd)
            raise
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
            holder = json.loads(self.path.read_text())
        except ValueError:
            return  # it took the lock a moment ago and has not signed yet
        if _started(holder["pid"]) == holder["started"]:
            log.warning("taking over from process %d, which holds %s: %s", holder["pid"], self.path, number.name)
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder["pid"], number)


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _started(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None
