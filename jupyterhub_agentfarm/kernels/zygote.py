"""``python -m jupyterhub_agentfarm.kernels.zygote``: the process that kernels are forked from.

It has one thread, no event loop, no ZeroMQ context and nothing of CUDA, and no connection but that to its server. A
library is first imported in a fork; only when that has ended well and is fit to be forked (:mod:`.fitness`) the zygote
imports it too. Nothing is said on the standard streams, which are the server's.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .environment import Watched
from .fitness import descriptors, unfit
from .inborn import NOTHING, Imported
from .packages import Packages
from .title import set_title
from .wire import FORK_DESCRIPTORS, send

#: What a kernel imports until it has answered its first messages, also where it does so inside functions.
BASE = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.debugger"),
    *("IPython.core.completerlib", "IPython.core.debugger", "IPython.extensions.storemagic", "jedi", "stack_data"),
    *("tornado.platform.asyncio", "tornado.queues", "psutil", "sqlite3", "encodings.idna"),
    "jupyterhub_agentfarm.kernels.kernel",
)
#: After so long without a request the next library is tried, in seconds.
_QUIET_SECONDS = 0.3
#: Where requests never pause for as long as that, it is tried after so many seconds all the same.
_LONGEST_WAIT_SECONDS = 5.0
#: How long the import of a library may take when it is tried, in seconds.
_TRIAL_SECONDS = 60


@dataclass(frozen=True)
class Kernel:
    """A kernel that lives: its process, its pidfd, and our end of its channel."""

    pid: int
    pidfd: int
    channel: socket.socket


@dataclass(frozen=True)
class Trial:
    """A fork that imports a library to see what that does."""

    library: str
    pid: int
    pidfd: int
    said: int
    until: float


@dataclass(frozen=True)
class Forked:
    """What a kernel's process has to begin with."""

    channel: socket.socket
    #: The standard streams.
    streams: tuple[int, int, int]
    #: Variables that imports have set, and with None those that they have removed.
    written: dict[str, str | None]


class Zygote:
    """Forks.

    Parameters
    ----------
    control
        Where the server asks.
    libraries
        What to import while nobody asks.
    idle_seconds
        How long to wait for a request while no kernel lives; 0: for ever.
    imported
        What this process has imported before.
    packages
        What was installed when this process began to import.
    """

    def __init__(
        self,
        control: socket.socket,
        libraries: list[str],
        idle_seconds: float,
        imported: Imported,
        packages: Packages,
    ) -> None:
        self._control, self._libraries, self._idle_seconds = control, libraries, idle_seconds
        self._read, self._written = set(imported.read), dict(imported.written)
        self._kernels: dict[int, Kernel] = {}
        self._trial: Trial | None = None
        self._packages = packages
        #: When a kernel was last asked for, and when the last library was dealt with.
        self._asked_at = self._minded_at = time.monotonic()
        self._open = True

    def load(self, modules: Sequence[str], **told: Any) -> None:
        """Import modules, and tell the server that, with the variables that they have read."""
        with Watched() as environment:
            for module in modules:
                _import(module)
        gc.collect()
        gc.freeze()
        self._read |= environment.read
        self._written |= environment.written
        self._tell(read=sorted(self._read), **told)

    def serve(self) -> Forked | None:
        """Fork kernels; return in each of them with what it begins with, and in the zygote, with None, when it is over.

        A zygote that is not asked any more stays until its last kernel has ended, to tell the server how.
        """
        self._tell(ready=True)
        while self._open or self._kernels:
            for descriptor in self._wait():
                if descriptor == self._control.fileno():
                    forked = self._fork()
                    if forked is not None:
                        return forked
                elif descriptor in self._kernels:
                    self._bury(self._kernels.pop(descriptor))
            self._mind_libraries()
        return None

    def _wait(self) -> list[int]:
        poll = select.poll()
        if self._open:
            poll.register(self._control, select.POLLIN)
        for descriptor in self._kernels:
            poll.register(descriptor, select.POLLIN)
        if self._trial is not None:
            poll.register(self._trial.pidfd, select.POLLIN)
        found = [descriptor for descriptor, _ in poll.poll(self._patience())]
        idle = time.monotonic() - self._asked_at
        if not found and not self._kernels and self._idle_seconds and idle >= self._idle_seconds:
            self._open = False
        return found

    def _patience(self) -> float | None:
        """Return how long to wait for anything, in milliseconds."""
        if self._trial is not None:
            return max(0.0, self._trial.until - time.monotonic()) * 1e3
        if self._libraries and self._open:
            return _QUIET_SECONDS * 1e3
        return self._idle_seconds * 1e3 if self._idle_seconds else None

    def _tell(self, **message: Any) -> None:
        if not send(self._control, message):
            self._open = False

    # ------------------------------------------------------------ kernels

    def _fork(self) -> Forked | None:
        data, received, _, _ = socket.recv_fds(self._control, 16, FORK_DESCRIPTORS)
        for descriptor in received:
            os.set_inheritable(descriptor, False)
        if len(received) != FORK_DESCRIPTORS:
            self._open = self._open and bool(data)
            return None
        self._asked_at = time.monotonic()
        channel = socket.socket(fileno=received[0])
        if self._packages.changed():
            send(channel, {"refused": "packages"})
            channel.close()
            self._open = False
        else:
            pid = os.fork()
            if pid == 0:
                os.setsid()
                self._control.close()  # here, by its object: the kernel will have something else under its number
                return Forked(channel, (received[1], received[2], received[3]), self._written)
            kernel = Kernel(pid, os.pidfd_open(pid), channel)
            self._kernels[kernel.pidfd] = kernel
            send(channel, {"pid": pid}, [kernel.pidfd])
        for descriptor in received[1:]:
            os.close(descriptor)
        return None

    def _bury(self, kernel: Kernel) -> None:
        _, status = os.waitpid(kernel.pid, 0)
        send(kernel.channel, {"exit": os.waitstatus_to_exitcode(status)})
        kernel.channel.close()
        os.close(kernel.pidfd)
        self._asked_at = time.monotonic()

    # ------------------------------------------------------------ libraries

    def _mind_libraries(self) -> None:
        if self._trial is not None:
            self._look_at(self._trial)
            self._minded_at = time.monotonic()
        elif self._libraries and self._open and self._may_try():
            self._trial = self._try(self._libraries.pop(0))

    def _may_try(self) -> bool:
        now = time.monotonic()
        return now - self._asked_at >= _QUIET_SECONDS or now - self._minded_at >= _LONGEST_WAIT_SECONDS

    def _try(self, library: str) -> Trial:
        reading, writing = os.pipe()
        known = descriptors()
        pid = os.fork()
        if pid == 0:
            os._exit(_trial(library, writing, known))
        os.close(writing)
        return Trial(library, pid, os.pidfd_open(pid), reading, time.monotonic() + _TRIAL_SECONDS)

    def _look_at(self, trial: Trial) -> None:
        """See whether the trial has ended, and take the library, or leave it out."""
        pid, status = os.waitpid(trial.pid, os.WNOHANG)
        if pid == 0:
            if time.monotonic() < trial.until:
                return
            os.kill(trial.pid, signal.SIGKILL)
            os.waitpid(trial.pid, 0)
        self._trial = None
        said = os.read(trial.said, 500).decode(errors="replace") if pid else f"its import took over {_TRIAL_SECONDS} s"
        os.close(trial.said)
        os.close(trial.pidfd)
        if status or not pid or said:
            ended = f"its import ended the process with {os.waitstatus_to_exitcode(status)}"
            self._tell(left_out=trial.library, why=said or ended)
        else:
            self.load([trial.library], preloaded=trial.library)


def _trial(library: str, writing: int, known: frozenset[tuple[int, str]]) -> int:
    """Import a library in this fork; say why the zygote should not."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        os.close(null)
    try:
        before = descriptors()
        importlib.import_module(library)
        why = unfit(known | before)
    except BaseException as exc:  # noqa: BLE001 - whatever an import raises, the zygote goes on without it
        why = f"its import failed: {type(exc).__name__}: {exc}"
    if why:
        os.write(writing, why.encode()[:500])
    return 0


def _import(module: str) -> None:
    """Import a module, quietly: a kernel would show what that says to its user, not on its server's streams."""
    with contextlib.ExitStack() as quiet:
        null = quiet.enter_context(Path(os.devnull).open("w"))
        quiet.enter_context(contextlib.redirect_stdout(null))
        quiet.enter_context(contextlib.redirect_stderr(null))
        quiet.enter_context(contextlib.suppress(Exception))
        importlib.import_module(module)


def begin(
    control: socket.socket, libraries: list[str], idle_seconds: float, imported: Imported, packages: Packages
) -> Forked | None:
    """Import what kernels need, and fork kernels; see :meth:`Zygote.serve`."""
    zygote = Zygote(control, libraries, idle_seconds, imported, packages)
    zygote.load(BASE)
    why = unfit(descriptors())
    if why:
        send(control, {"unfit": why})
    return None if why else zygote.serve()


def _forget_directory() -> None:
    """Take the directory that this was started in out of the search path, where -m has put it."""
    if sys.path and (sys.path[0] == "" or Path(sys.path[0]) == Path.cwd()):
        del sys.path[0]


def main() -> None:
    """Be a zygote, and in its forks a kernel."""
    _forget_directory()
    options = json.loads(sys.argv[1])
    set_title([*sys.orig_argv[:-1]])
    control = socket.socket(fileno=options["control"])
    forked = begin(control, options["libraries"], options["idle_seconds"], NOTHING, Packages())
    if forked is not None:
        from .kernel import run

        run(forked.channel, forked.streams, forked.written)


if __name__ == "__main__":
    main()
