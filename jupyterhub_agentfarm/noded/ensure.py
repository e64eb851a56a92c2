"""``--ensure``: there is a noded, whether or not there was one before.

It is what the controller runs over SSH. The daemon gets a session of its own and no terminal, so that it survives
the end of the SSH session. Two at the same moment start one: the daemon holds a lock, and a second one gives up.

Where a service manager starts noded, with ``--managed``, a mark in the state directory says so from then on. There
--ensure first waits for the service manager to start it again: a noded of --ensure's own would keep the other one out.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jupyterhub_agentfarm.errors import ConfigError, ConflictError
from jupyterhub_agentfarm.protocol import PROTOCOL_VERSION

_DEADLINE_SECONDS = 15.0
_PAUSE_SECONDS = 0.03
_RESTART_SECONDS = 1.0
_ANSWER_SECONDS = 3.0
#: How long a service manager may take to start its noded again, in seconds; more than the RestartSec= of our unit.
MANAGED_SECONDS = 8.0
#: Its presence in the state directory means: a service manager starts noded here. Nobody removes it.
_MANAGED_NAME = "noded.managed"
#: Exit status of a daemon that found another one running.
ALREADY_RUNS = 75
#: sockaddr_un holds 108 bytes, a final NUL included.
_LONGEST_SOCKET_PATH = 107


def check_socket_path(path: Path) -> None:
    """Refuse a path that no unix socket can have.

    Raises
    ------
    ConfigError
        It is too long.
    """
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise ConfigError(f"{path} is too long for a unix socket: choose a shorter --state-dir")


def mark_managed(state_dir: Path) -> None:
    """Write down that a service manager starts noded with this state directory."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(state_dir / _MANAGED_NAME, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))


def running(path: Path) -> int | None:
    """Return the process id of the noded that answers on the socket, 0 for one that refuses us, or None."""
    request = json.dumps({"id": 0, "method": "hello", "params": {"protocol": PROTOCOL_VERSION}}).encode() + b"\n"
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_ANSWER_SECONDS)
        sock.connect(str(path))
        sock.sendall(request)
        with sock.makefile("rb") as answers:
            answer = json.loads(answers.readline())
        # An older or newer noded answers with an error; whoever connects next is told to install the same version.
        return int(answer["result"]["pid"]) if "result" in answer else 0
    return None


def ensure(socket_path: Path, arguments: Sequence[str]) -> int:
    """Start a noded unless one answers, wait until it does, and return its process id.

    Parameters
    ----------
    socket_path
        Where it listens.
    arguments
        Options for a new noded.

    Raises
    ------
    ConflictError
        None answered in time.
    """
    managed = socket_path.with_name(_MANAGED_NAME).exists()
    start_at = time.monotonic() + (MANAGED_SECONDS if managed else 0)
    deadline = start_at + _DEADLINE_SECONDS
    log_path = socket_path.with_name("noded.log")
    child: subprocess.Popen[bytes] | None = None
    taken = False
    while (pid := running(socket_path)) is None:
        if child is not None and child.poll() not in (None, ALREADY_RUNS):
            raise ConflictError(f"noded ended with status {child.returncode} at once; see {log_path} on the node")
        taken = taken or (child is not None and child.poll() == ALREADY_RUNS)
        if time.monotonic() > deadline:
            _leave(child)
            raise ConflictError(_no_answer(taken, log_path))
        # One that found the lock taken is tried again in a while: its holder may be about to end.
        if (child is None or child.poll() is not None) and time.monotonic() >= start_at:
            child = _start(arguments, log_path)
            start_at = time.monotonic() + _RESTART_SECONDS
        time.sleep(_PAUSE_SECONDS)
    if child is not None and pid not in (0, child.pid):
        # Another one was quicker. Ours must not sit about and take over when that one ends.
        child.kill()
        child.wait()
    else:
        _leave(child)
    return pid


def _leave(child: subprocess.Popen[bytes] | None) -> None:
    """Wait for it no more: it lives on, or ends by itself when the lock is taken."""
    if child is not None and child.poll() is None:
        child.returncode = 0


def _no_answer(taken: bool, log_path: Path) -> str:
    if taken:
        folder = log_path.parent
        return f"the noded of {folder} hangs or is stopped: end it with `agentfarm nodes restart-noded`"
    return f"noded did not answer within {_DEADLINE_SECONDS:.0f} s; see {log_path} on the node"


def _start(arguments: Sequence[str], log_path: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTFARM_")}
    log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "jupyterhub_agentfarm.noded", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            start_new_session=True,
        )
    finally:
        os.close(log_fd)
