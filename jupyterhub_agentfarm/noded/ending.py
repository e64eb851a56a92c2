"""``--stop``: the noded of a state directory ends; its servers go on, and the next noded takes them over.

It is what the controller runs over SSH before it starts a noded of another version. The kernel says whose socket it
is, so that one of any version is found, and one that hangs as well: that one is killed when SIGTERM is of no use.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from pathlib import Path

from jupyterhub_agentfarm.errors import ConflictError

from . import procfs

#: How long it may take from the SIGTERM, in seconds.
DEADLINE_SECONDS = 10.0
#: How long after the SIGTERM it is killed, in seconds.
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.03
#: struct ucred: pid, uid, gid.
_PEER = struct.Struct("3i")


def listener(path: Path) -> int | None:
    """Return the process id of whoever listens on the socket, whether or not it answers; None when nobody does."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_PATIENCE_SECONDS)
        sock.connect(str(path))
        pid, _uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return int(pid)
    return None


def end_running(path: Path) -> int | None:
    """End the noded that listens on the socket, wait until it is gone, and return what its process id was.

    Parameters
    ----------
    path
        Its socket.

    Returns
    -------
    None when no noded listens there.

    Raises
    ------
    ConflictError
        It did not end in time.
    """
    pid = listener(path)
    found = procfs.read(pid) if pid else None
    if found is None:
        return None
    begun = time.monotonic()
    number = signal.SIGTERM
    _signal(found, number)
    while _alive(found):
        seconds = time.monotonic() - begun
        if seconds > DEADLINE_SECONDS:
            raise ConflictError(f"noded (process {found.pid}) did not end within {DEADLINE_SECONDS:.0f} s")
        if seconds > _PATIENCE_SECONDS and number != signal.SIGKILL:
            number = signal.SIGKILL
            _signal(found, number)
        time.sleep(_PAUSE_SECONDS)
    return found.pid


def _alive(process: procfs.Process) -> bool:
    now = procfs.read(process.pid)
    return now is not None and now.start_ticks == process.start_ticks and not now.zombie


def _signal(process: procfs.Process, number: signal.Signals) -> None:
    if _alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
