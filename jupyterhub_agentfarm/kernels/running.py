"""A zygote, as its server holds it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .wire import FORK, Channel, Message

#: The program that a zygote is.
ZYGOTE = f"{__package__}.zygote"
#: Room for a kernel's command line, which is written over the zygote's.
_TITLE_CHARACTERS = 1024


class RunningZygote:
    """A zygote, as its server holds it.

    Parameters
    ----------
    interpreter
        The Python and its options that it is started with.
    options
        What it is told, see :func:`~.zygote.main`.
    """

    def __init__(self, interpreter: Sequence[str], options: Mapping[str, Any]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.environment = dict(os.environ)
        self.begun_at = time.monotonic()
        self.read_at_import: set[str] = set()
        self.ready = False
        with theirs:
            text = json.dumps({"control": theirs.fileno(), **options})
            self._process = subprocess.Popen(
                [*interpreter, "-m", ZYGOTE, text.ljust(_TITLE_CHARACTERS)],
                env=self.environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        self._socket, self._control = ours, Channel(ours)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def over(self) -> bool:
        """Whether it takes no requests any more."""
        return self._control.closed

    def close(self) -> None:
        """Ask for nothing any more; it ends after its last kernel. A second call does nothing."""
        self._control.close()

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
