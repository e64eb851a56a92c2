"""A zygote, as its server holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from .conditions import Cold, check_environment
from .inborn import Imported, take
from .wire import FORK, Channel, Message

#: The program that a zygote is.
ZYGOTE = f"{__package__}.zygote"
#: Room for a kernel's command line, which is written over the zygote's.
_TITLE_CHARACTERS = 1024


class Process(Protocol):
    """What is asked of a zygote's process."""

    pid: int

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for its end; raise :class:`subprocess.TimeoutExpired` after `timeout` seconds."""

    def kill(self) -> None:
        """End it."""


class RunningZygote:
    """A zygote, as its server holds it.

    Parameters
    ----------
    process, control
        Its process, and the connection to it.
    environment
        The variables that it was started with.
    imported
        What one that the server was born with has imported then.
    """

    def __init__(
        self,
        process: Process,
        control: socket.socket,
        environment: Mapping[str, str],
        imported: Imported | None = None,
    ) -> None:
        self.environment, self._imported = environment, imported
        self.begun_at = time.monotonic()
        self.read_at_import: set[str] = set()
        self.ready = False
        self._process, self._socket, self._control = process, control, Channel(control)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def inborn(self) -> bool:
        """Whether the server was born with it."""
        return self._imported is not None

    def awaken(self, options: Mapping[str, Any]) -> bool:
        """Have one that the server was born with begin; return false, and close it, where that cannot be."""
        assert self._imported is not None
        try:
            # What was imported is to find the variables that there are now.
            check_environment(os.environ, self.environment, self._imported.read)
            self.environment, self.begun_at = dict(os.environ), time.monotonic()
            self._socket.send(json.dumps({"environment": self.environment, **options}).encode())
        except (Cold, OSError):  # it has ended, or its socket does not take that much at once
            self.close()
            return False
        return True

    @property
    def over(self) -> bool:
        """Whether it takes no requests any more."""
        return self._control.closed

    def close(self) -> None:
        """Ask for nothing any more; it ends after its last kernel. A second call does nothing."""
        self._control.close()

    def kill(self) -> None:
        """End it now: it has forked nothing, or what it has forked is to go with it."""
        self.close()
        self._process.kill()

    def gone(self, seconds: float = 0.0) -> bool:
        """Return whether its process has ended, after waiting for that."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return True
        return False

    def news(self) -> Iterator[Message]:
        """Give what it has said since."""
        while (message := self._control.next()) is not None:
            yield self._note(message)

    def _note(self, message: Message) -> Message:
        self.read_at_import.update(message.get("read", ()))
        self.ready = self.ready or "ready" in message
        return message

    def fork(self, streams: Sequence[int]) -> Channel | None:
        """Ask for a kernel; return its channel, or None when nobody is there to ask."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._socket, [FORK], [theirs.fileno(), *streams])
            except OSError:
                ours.close()
                self.close()
                return None
        return Channel(ours)


def started(interpreter: Sequence[str], options: Mapping[str, Any]) -> RunningZygote:
    """Start a zygote.

    Parameters
    ----------
    interpreter
        The Python and its options that it is started with.
    options
        What it is told, see :func:`~.zygote.main`.

    Raises
    ------
    OSError
        It cannot be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = dict(os.environ)
    with theirs:
        text = json.dumps({"control": theirs.fileno(), **options})
        try:
            process = subprocess.Popen(
                [*interpreter, "-m", ZYGOTE, text.ljust(_TITLE_CHARACTERS)],
                env=environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
    return RunningZygote(process, ours, environment)


def inborn() -> RunningZygote | None:
    """Return the zygote that this process was born with, the first time; it has to be told what it needs."""
    taken = take()
    return None if taken is None else RunningZygote(taken.process, taken.control, taken.environment, taken.imported)
