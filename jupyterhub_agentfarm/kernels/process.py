"""A forked kernel as its server sees it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence

from .wire import Channel, Message

#: The status of a kernel whose zygote ended before it and so could not tell. It is that of a kernel without a server.
UNKNOWN_STATUS = 1
#: How long the zygote may take to tell it, in seconds.
_TELLING_SECONDS = 1.0
_PAUSE_SECONDS = 0.02


class Child:
    """As much of :class:`subprocess.Popen` as is used of it, for a child that was forked.

    Parameters
    ----------
    pid
        The process.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = False

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it has ended.

        Raises
        ------
        subprocess.TimeoutExpired
            It lives after `timeout` seconds.
        """
        if self._ended:
            return
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # somebody else has reaped it
            self._wait(timeout)
        self._ended = True

    def _wait(self, timeout: float | None) -> None:
        pidfd = os.pidfd_open(self.pid)  # it is not reaped yet, so it is this process
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1e3):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        finally:
            os.close(pidfd)
        os.waitpid(self.pid, 0)

    def kill(self) -> None:
        """End it."""
        if not self._ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class KernelProcess:
    """As much of :class:`subprocess.Popen` as jupyter_client uses, for a process that is not our child.

    The zygote tells how it ended. It is signalled through a pidfd, which never means another process.

    Parameters
    ----------
    pid, pidfd
        The process; the descriptor belongs to the channel and is closed with it.
    channel
        Where the zygote tells.
    args
        The command line that it stands for.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, pidfd: int, channel: Channel, args: Sequence[str]) -> None:
        self.pid, self.args = pid, args
        self._pidfd, self._channel = pidfd, channel
        self.returncode: int | None = None
        self._gone_since: float | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None: it lives."""
        while self.returncode is None and (message := self._channel.next()) is not None:
            self.take(message)
        if self.returncode is None and self._untold():
            self._end(UNKNOWN_STATUS)
        return self.returncode

    def take(self, message: Message) -> None:
        """Take note of what the zygote or the kernel says."""
        if "exit" in message:
            self._end(message["exit"])

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended and return the exit status.

        Raises
        ------
        subprocess.TimeoutExpired
            It lives after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            time.sleep(_PAUSE_SECONDS)
        return status

    def send_signal(self, number: int) -> None:
        """Signal the process; one that has ended is left alone."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _untold(self) -> bool:
        """Return whether it has ended, and nobody is there to tell how."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(0):
            return False
        self._gone_since = self._gone_since or time.monotonic()
        return self._channel.closed or time.monotonic() - self._gone_since > _TELLING_SECONDS

    def _end(self, status: int) -> None:
        self.returncode = status
        self._channel.close()
