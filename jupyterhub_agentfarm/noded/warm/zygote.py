"""``python -m jupyterhub_agentfarm.noded.warm.zygote FD VERSION``: a process that servers are forked from.

FD is a socket of noded's. What is to be imported comes first, as the survey tells it; the answer says what was read of
the environment meanwhile. From then on each message is four descriptors, the last of which may be missing: the plan, a
pipe for the server's status, its log, its listening socket. The answer is the server's pid.

It never reads a plan, and has no copy of a descriptor any more when it answers. It ends when noded does.

It is started in ``/``, with a home that does not exist and nothing of PYTHON* in its environment, so that only the
environment's own packages are imported. -I would do the same, but it stays in `sys.flags`, and in what servers start.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import socket
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from jupyterhub_agentfarm import __version__
from jupyterhub_agentfarm.kernels.inborn import Imported

from .becoming import Given, become
from .fixed import leave_directory
from .mending import MENDED
from .recording import EVERYTHING, Recording

#: Most bytes of a message.
MESSAGE_BYTES = 160 * 1024
FORK = b"fork"
_MOST_DESCRIPTORS = 4


class Unfit(Exception):
    """Nothing may be forked from this process.

    Parameters
    ----------
    why
        Part of a sentence.
    module
        The module that is to blame: without it all would be well.
    """

    def __init__(self, why: str, module: str = "") -> None:
        super().__init__(why)
        self.module = module


def preload(modules: Sequence[str], late: set[str], quiet: Collection[str] = ()) -> dict[str, set[str]]:
    """Import `modules` but for the late ones; return who read each variable meanwhile.

    Parameters
    ----------
    modules, late
        As the survey tells them.
    quiet
        Those that may say nothing: what they have to say concerns kernels.

    Raises
    ------
    Unfit
        A module does what cannot be forked.
    """
    descriptors = _descriptors()
    with Recording(identity=False) as recording:
        for name in modules:
            if name not in late and name not in sys.modules:
                if name in quiet:
                    with suppress(Exception), _silence():
                        importlib.import_module(name)
                else:
                    with suppress(ImportError):
                        importlib.import_module(name)
                _check(name, late, descriptors)
    if copying := recording.reads.get(EVERYTHING, set()) - set(MENDED):
        raise Unfit("it copies the environment", min(copying))
    return recording.reads


@contextmanager
def _silence() -> Iterator[None]:
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        yield


def kept(reads: Mapping[str, set[str]], environment: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables of which modules keep values, and these, but for what is set right in each server.

    Parameters
    ----------
    reads
        Who read each.
    environment
        The variables before the imports, which may have set some for themselves.
    """
    return {name: environment.get(name) for name, found in reads.items() if found - set(MENDED)}


def _descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def _check(name: str, late: set[str], descriptors: int) -> None:
    if len([*Path("/proc/self/task").iterdir()]) > 1:
        raise Unfit("it starts threads", name)
    if found := late & set(sys.modules):
        raise Unfit(f"it imports {min(found)}", name)
    if _descriptors() > descriptors:
        raise Unfit("it opens files", name)


def check_version(noded: str) -> None:
    """Refuse a noded of another version: it may mean something else.

    Raises
    ------
    Unfit
        It is one.
    """
    if noded != __version__:
        raise Unfit(f"it has jupyterhub-agentfarm {__version__}, and noded is {noded}: install the same version")


def check_fit() -> None:
    """Refuse a process in which something lives that does not survive a fork.

    Raises
    ------
    Unfit
        There is a ZeroMQ context, or the driver of a GPU.
    """
    zmq = sys.modules.get("zmq")
    if zmq is not None and zmq.Context._instance is not None:  # noqa: SLF001 - asking makes none
        raise Unfit("there is a ZeroMQ context")
    mapped = Path("/proc/self/maps").read_text("utf-8", "replace")
    if "libcuda" in mapped or "/dev/nvidia" in mapped:
        raise Unfit("the driver of a GPU is loaded")


def main() -> None:
    """Make ready, and fork when asked; in what is forked, be a server."""
    leave_directory()
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    order = json.loads(control.recv(MESSAGE_BYTES))
    coerced = _coerced(order["environment"])
    try:
        check_version(sys.argv[2])
        sys.modules.update(dict.fromkeys(order["absent"]))
        before = dict(os.environ)
        reads = preload(order["modules"], set(order["late"]), set(order["for_kernels"]))
        check_fit()
    except Unfit as exc:
        control.send(json.dumps({"unfit": str(exc), "module": exc.module}).encode())
        return
    gc.collect()
    gc.freeze()
    # What Python has put there itself, it would put there in a server as well: it is nothing that was given.
    control.send(json.dumps({"reads": kept(reads, before) | dict.fromkeys(coerced)}).encode())
    given = serve(control)
    if given is not None:
        control.close()
        become(given, coerced, Imported(frozenset(reads), _written(before)))


def _coerced(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what Python itself has put into its environment: the character set that it took in place of ASCII."""
    return {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ and name not in environment}


def _written(before: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables that imports have set and removed."""
    return {name: os.environ.get(name) for name in {*before, *os.environ} if os.environ.get(name) != before.get(name)}


def serve(control: socket.socket) -> Given | None:
    """Fork for each message; return what a server was given, in its process, and None in this one when noded ends."""
    while True:
        message, descriptors = _receive(control)
        if not message:
            return None
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            # Who is forked here loses its parent in a moment, and noded takes the parent's place.
            server = os.fork()
            if server == 0:
                return Given(*descriptors)
            os.write(writer, str(server).encode())
            os._exit(0)
        os.close(writer)
        for descriptor in descriptors:
            os.close(descriptor)
        pid = int(os.read(reader, 32) or 0)
        os.close(reader)
        os.waitpid(between, 0)
        control.send(json.dumps({"pid": pid}).encode())


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    found = array.array("i")
    room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * found.itemsize)
    message, ancillary, _, _ = control.recvmsg(MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return message, list(found)


if __name__ == "__main__":
    main()
