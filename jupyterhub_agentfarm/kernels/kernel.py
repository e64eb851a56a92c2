"""What a fork does to be a kernel. The order matters: what reads the environment comes after that is set."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipykernel import kernelapp

from .shown import show
from .title import set_title
from .wire import receive, send

#: Where the channel lies in a kernel: after the standard streams.
_CHANNEL = 3
#: What the control thread may take to end, in seconds.
_CONTROL_SECONDS = 1.0


def run(channel: socket.socket, streams: tuple[int, int, int], written: Mapping[str, str | None]) -> None:
    """Wait for the server's request, become the kernel that it describes, and return when that has ended.

    Parameters
    ----------
    channel, streams
        Where the request comes from, and the standard streams.
    written
        What the imports have changed in the environment, as they would have changed the kernel's.
    """
    channel = keep_only(channel, streams)
    request = receive(channel)
    if request is None:
        os._exit(0)
    environ(request["environment"], written)
    os.chdir(request["directory"])
    own()
    seed()
    sys.argv = [launcher(), *request["arguments"]]
    sys.orig_argv[:] = request["command"]
    try:
        show(request["command"], request["environment"])
    except OSError:  # an older kernel of Linux: ps shows the command all the same
        set_title(request["command"])
    serve(channel, request["arguments"])


def keep_only(channel: socket.socket, streams: tuple[int, int, int]) -> socket.socket:
    """Take the standard streams, close everything else but the channel, and return that."""
    # Away from where they are to lie, before anything is put there.
    copies = [os.dup(descriptor) for descriptor in (*streams, channel.detach())]
    high = [_above(descriptor, 64) for descriptor in copies]
    for wanted, descriptor in enumerate(high):
        os.dup2(descriptor, wanted, inheritable=wanted < _CHANNEL)
    os.closerange(_CHANNEL + 1, _most_descriptors())
    return socket.socket(fileno=_CHANNEL)


def _above(descriptor: int, least: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)


def _most_descriptors() -> int:
    return max(int(entry) for entry in os.listdir("/proc/self/fd")) + 1  # noqa: PTH208


def environ(wanted: Mapping[str, str], written: Mapping[str, str | None]) -> None:
    """Have exactly these variables, but for those that imports have written."""
    os.environ.clear()
    os.environ.update(wanted)
    for name, value in written.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    time.tzset()


def own() -> None:
    """Have modules know this process and its directory, where they keep those of the one that imported them."""
    process, rich = sys.modules.get("multiprocessing.process"), sys.modules.get("rich")
    if process is not None:
        process.ORIGINAL_DIR = str(Path.cwd())  # type: ignore[attr-defined]
        process.current_process().authkey = os.urandom(32)
    if rich is not None:
        rich._IMPORT_CWD = str(Path.cwd())  # type: ignore[attr-defined]  # noqa: SLF001


def launcher() -> str:
    """Return the file that a cold kernel executes."""
    spec = importlib.util.find_spec("ipykernel_launcher")
    return spec.origin or "" if spec is not None else ""


def seed() -> None:
    """Give the generators of libraries seeds of their own, as in a new process; Python's own does so at each fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()


class ServerWatch(threading.Thread):
    """Ends the kernel when its server is gone, as ipykernel's own watch of its parent does, but at once."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__(daemon=True)
        self._channel = channel

    def run(self) -> None:
        """Wait for the channel's end."""
        with contextlib.suppress(OSError):
            while self._channel.recv(16):
                pass
        os._exit(1)


class IPKernelApp(kernelapp.IPKernelApp):
    """ipykernel's application, which tells when its sockets are bound. It logs by its name, so it has the same."""

    channel: socket.socket

    def init_poller(self) -> None:
        """Watch the server."""
        self.poller = ServerWatch(self.channel)

    def init_heartbeat(self) -> None:
        """Bind the last socket; a client that connects before would try again only after 100 ms."""
        super().init_heartbeat()
        send(self.channel, {"bound": True})

    def start(self) -> None:
        """Be a kernel until it is asked to shut down, and its control thread has said that it has.

        An interpreter that ends stops the thread of the output channel first. A control thread that is just about to
        use that channel would wait for ever, and the kernel be killed seconds later.
        """
        super().start()
        if self.control_thread is not None and self.control_thread.is_alive():
            self.control_thread.stop()
            self.control_thread.join(_CONTROL_SECONDS)


def serve(channel: socket.socket, arguments: Sequence[str]) -> None:
    """Be a kernel until it ends."""
    server: dict[str, Any] = {"parent_handle": int(os.environ.get("JPY_PARENT_PID") or 0)}
    app = IPKernelApp.instance(**server)
    app.channel = channel
    try:
        app.initialize(list(arguments))
    except Exception:  # noqa: BLE001 - as an interpreter that ends with it
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)  # on its own it would wait for ever for sockets that are not closed, and keep ports that it has
    app.start()
