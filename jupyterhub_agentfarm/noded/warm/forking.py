"""One warm start: a fork, and whether it comes up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

from jupyterhub_agentfarm.logs import LogLine
from jupyterhub_agentfarm.models import LaunchSpec

from ..isolation.entering import plan_of
from ..isolation.layers import Confined
from .becoming import UP, USER_SITE
from .making import Zygote, ZygoteDied

log = logging.getLogger(__name__)

#: What putting a process into a scope of systemd may take, in seconds.
_ADOPT_SECONDS = 10.0
_PAUSE_SECONDS = 0.002


class Forked:
    """A child of noded that another process forked; as far as noded needs it, like subprocess.Popen.

    Parameters
    ----------
    pid
        Its process id. Nobody else gets it until `wait` has returned.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._returncode: int | None = None
        self._lock = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """Reap it and return its exit status, or the negative number of the signal that ended it.

        Raises
        ------
        subprocess.TimeoutExpired
            It has not ended.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._returncode is None:
                self._await_end(deadline, timeout or 0)
                _, status = os.waitpid(self.pid, 0)
                self._returncode = os.waitstatus_to_exitcode(status)
            return self._returncode

    def _await_end(self, deadline: float | None, timeout: float) -> None:
        handle = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        finally:
            os.close(handle)


class Rising:
    """A forked process on its way to being a server.

    Parameters
    ----------
    forked
        The process.
    status
        The pipe that it tells its progress through; closed by :meth:`outcome`.
    """

    def __init__(self, forked: Forked, status: int) -> None:
        self.forked, self._status = forked, status
        self._said = b""

    async def outcome(self, seconds: float) -> str | None:
        """Return None once the server answers, or what became of it: "user_site", "slow", or "failed"."""
        loop = asyncio.get_running_loop()
        known: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._status, self._hear, known)
        try:
            async with asyncio.timeout(seconds):
                await known
        except TimeoutError:
            return "slow"
        finally:
            self.close()
        if self._said.endswith(UP):
            return None
        return "user_site" if self._said.endswith(USER_SITE) else "failed"

    def _hear(self, known: asyncio.Future[None]) -> None:
        said = os.read(self._status, 4096)
        self._said += said
        if (not said or self._said.endswith((UP, USER_SITE))) and not known.done():
            known.set_result(None)

    def close(self) -> None:
        """Listen no more."""
        if self._status >= 0:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._status)
            os.close(self._status)
            self._status = -1

    @property
    def said(self) -> str:
        """What it told."""
        return self._said.decode(errors="replace")


def fork(spec: LaunchSpec, zygote: Zygote, confined: Confined, log_fd: int) -> Rising:
    """Fork a server from a zygote; in a thread.

    Raises
    ------
    ZygoteDied
        There is none.
    """
    plan, (reader, writer) = plan_of(confined), os.pipe()
    descriptors = [plan, writer, log_fd] if confined.socket_fd is None else [plan, writer, log_fd, confined.socket_fd]
    try:
        forked = Forked(zygote.fork(descriptors))
    except ZygoteDied:
        os.close(reader)
        raise
    finally:
        os.close(plan)
        os.close(writer)
    os.set_blocking(reader, False)
    log.debug(LogLine("forked", lease=spec.lease, pid=forked.pid))
    _adopt(forked, confined)
    return Rising(forked, reader)


def _adopt(forked: Forked, confined: Confined) -> None:
    if not confined.placed.adopting:
        return
    words = [word.replace("{pid}", str(forked.pid)) for word in confined.placed.adopting]
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # the process waits for its scope in vain, and ends
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ADOPT_SECONDS, check=True)
        deadline = time.monotonic() + _ADOPT_SECONDS
        while f"/{confined.placed.scope}" not in _cgroup(forked.pid) and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)


def _cgroup(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")


def end(forked: Forked, seconds: float) -> bool:
    """Kill a forked process and what it started in its session, and reap it; in a thread.

    Returns
    -------
    bool
        False when it did not end in time.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(forked.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(forked.pid, signal.SIGKILL)
    try:
        forked.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
