"""One server as noded sees it: a process that is watched by a pidfd until it ends.

::

    starting ──▶ running ──▶ exited ──▶ settled (nothing of it is left, its GPUs are free)
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable
from typing import Protocol

from jupyterhub_agentfarm.models import ServerExit, ServerState

from . import cgroups, procfs
from .census import Identity
from .isolation import bubblewrap
from .isolation.minding import OUT_OF_MEMORY
from .store import Record

#: A large process takes a while to end after the kernel chose it; a kill that was longer ago explains nothing.
_OOM_SECONDS = 30.0
#: Statuses above it, as far as there are signals, say that one ended a process, and which.
_SIGNALLED = 128


class Child(Protocol):
    """A process that noded reaps: one that it executed, or one that was forked for it."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status, or the negative number of the signal that ended it."""


class Server:
    """A server's process and what is known about it.

    Parameters
    ----------
    record
        What is, or will be, written down.
    child
        The process, when this noded started it; None for an adopted one.
    noded
        What names this noded in the environment of its servers' processes; "": nothing does.
    """

    def __init__(self, record: Record, child: Child | None = None, noded: str = "") -> None:
        self._noded = noded
        self.status = record.status
        self.cgroups, self.uid, self.sandbox = record.cgroups, record.uid, record.sandbox
        self.exited = asyncio.Event()
        #: Somebody asked for its end: whatever ends it now, it "was stopped".
        self.stop_requested = False
        #: Launching is over; before that, the answer to the launch says what happened, not an event.
        self.announced = True
        #: The processes that were seen to belong to it, by pid with their start times: what must end with it.
        self.seen: dict[int, int] = {record.status.pid: record.status.pid_start_ticks}
        self._child = child
        self._end_was_watched = False
        self._pidfd: int | None = None
        self._oom_kills = cgroups.oom_kills(self.cgroups)
        self._oom_kill_at = -math.inf

    @property
    def identity(self) -> Identity:
        """What names its processes."""
        status = self.status
        return Identity(
            status.lease,
            status.pid,
            status.pid_start_ticks,
            self.cgroups,
            self._end_was_watched,
            self.uid,
            self._noded,
            seen=tuple(self.seen.items()),
        )

    @property
    def record(self) -> Record:
        """What is to be written down."""
        return Record(self.status, self.cgroups, self.uid, self.sandbox)

    def change(self, *, state: ServerState | None = None, epoch: int | None = None) -> None:
        """Set what can change while it runs."""
        self.status = dataclasses.replace(
            self.status, state=state or self.status.state, epoch=self.status.epoch if epoch is None else epoch
        )

    def watch(self, on_exit: Callable[[Server], None]) -> bool:
        """Call `on_exit` as soon as the process ends.

        Returns
        -------
        bool
            False when there is no such process any more; `on_exit` is not called then.
        """
        try:
            pidfd = os.pidfd_open(self.status.pid)
        except ProcessLookupError:
            return False
        process = procfs.read(self.status.pid)
        if process is None or process.start_ticks != self.status.pid_start_ticks:
            os.close(pidfd)
            return False
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended, on_exit)
        return True

    def _ended(self, on_exit: Callable[[Server], None]) -> None:
        self.unwatch()
        self._end_was_watched = True
        self.mark_exited(self._how())
        on_exit(self)

    def unwatch(self) -> None:
        """Watch no longer; the process goes on."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def mark_exited(self, exit_: ServerExit) -> None:
        """Write into the status how it ended."""
        self.status = dataclasses.replace(self.status, state="exited", exit=exit_)
        self.exited.set()

    def _how(self) -> ServerExit:
        # The pidfd said that it ended, so this reaps it without waiting.
        returncode = None if self._child is None else self._child.wait()
        if self.sandbox == "container" and returncode == OUT_OF_MEMORY and not self.stop_requested:
            return ServerExit("oom", time.time(), None, signal.SIGKILL)
        if returncode is not None and 0 < returncode - _SIGNALLED < signal.NSIG and self.sandbox != "none":
            # What stands around the server says with its own status that a signal ended it.
            returncode = _SIGNALLED - returncode
        code = returncode if returncode is not None and returncode >= 0 else None
        number = -returncode if returncode is not None and returncode < 0 else None
        now = time.time()
        if self.stop_requested:
            return ServerExit("stopped", now, code, number)
        self.note_oom_kills()
        out_of_memory = time.monotonic() - self._oom_kill_at < _OOM_SECONDS
        if out_of_memory and code is None and number in (None, signal.SIGKILL):
            return ServerExit("oom", now, None, signal.SIGKILL)
        if returncode is None:
            return ServerExit("unknown", now)
        return ServerExit("exited" if number is None else "signal", now, code, number)

    def note_oom_kills(self) -> None:
        """Remember when the kernel last killed a process for memory; called now and then, and at the end."""
        count = cgroups.oom_kills(self.cgroups)
        if count > self._oom_kills:
            self._oom_kill_at = time.monotonic()
        self._oom_kills = count

    def terminate(self) -> None:
        """Ask the server's own process to end; Jupyter then ends its kernels."""
        self.stop_requested = True
        pid, start_ticks = self.status.pid, self.status.pid_start_ticks
        if self.sandbox == "bubblewrap":
            inside = procfs.read(bubblewrap.inner(pid))
            # Children of the right process, when that is still there after they were looked up, are the right ones.
            if inside is not None and procfs.alive(pid, start_ticks):
                pid, start_ticks = inside.pid, inside.start_ticks
        procfs.send_signal(pid, start_ticks, signal.SIGTERM)
