"""Noded's side of `enter`: start it with a plan, and say in one sentence which step failed."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.models import LaunchSpec

from ..listening import failed
from ..procfs import MARKER, NODED_VARIABLE
from .enter import ENTERED
from .layers import Confined

#: How long a server's process may take until it executes its program, in seconds. A home on a slow file server
#: takes its time; systemd-run waits for systemd.
ENTER_SECONDS = 20.0

_PROGRAM = Path(__file__).with_name("enter.py")


def start(spec: LaunchSpec, confined: Confined, log_fd: int) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own and return once its program, or its sandbox's, is executed.

    Raises
    ------
    LaunchFailed
        A step failed: nothing runs.
    """
    given = dict(confined.environment)
    marks = {MARKER: spec.lease} | {name: given[name] for name in (NODED_VARIABLE,) if name in given}
    plan_fd = plan_of(confined)
    read_fd, status_fd = os.pipe()
    kept = [plan_fd, status_fd] if confined.socket_fd is None else [plan_fd, status_fd, confined.socket_fd]
    command = [sys.executable, "-I", "-S", str(_PROGRAM), str(plan_fd), str(status_fd)]
    try:
        child = subprocess.Popen(
            [*confined.placed.outer, *command],
            cwd="/",
            # The server's own environment might steer the programs before it, which may run as root.
            env=_plain_environment() | marks,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=kept,
            start_new_session=True,
        )
    except OSError as exc:
        os.close(read_fd)
        raise failed(f"cannot execute {(*confined.placed.outer, *command)[0]}: {exc.strerror}") from exc
    finally:
        os.close(plan_fd)
        os.close(status_fd)
    _wait_entered(child, read_fd, confined)
    return child


def _plain_environment() -> dict[str, str]:
    names = ("PATH", "LD_LIBRARY_PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
    return {name: os.environ[name] for name in names if name in os.environ}


def plan_of(confined: Confined) -> int:
    """Return a file in memory that has what the process is told, to be closed by who asked."""
    account, links = confined.account, confined.links
    plan = {
        "argv": list(confined.argv),
        "environment": dict(confined.environment),
        "cwd": confined.cwd,
        "cgroups": list(confined.placed.cgroups),
        "optional": confined.placed.optional,
        "rlimits": [list(pair) for pair in confined.placed.rlimits],
        "scope": confined.placed.scope,
        "umask": confined.umask,
        "links": None if links is None else {**vars(links), "home": str(links.home), "root": str(links.root)},
        "ids": None if account is None else [account.uid, account.gid, list(account.groups)],
    }
    handle = os.memfd_create("agentfarm-plan", os.MFD_CLOEXEC)
    with open(handle, "wb", closefd=False) as file:
        marshal.dump(plan, file)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _wait_entered(child: subprocess.Popen[bytes], read_fd: int, confined: Confined) -> None:
    with open(read_fd, "rb", buffering=0) as status:
        answer = _read(status.fileno(), time.monotonic() + ENTER_SECONDS)
    if answer == ENTERED:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if answer is None:
        raise failed(
            f"the server's process was not started within {ENTER_SECONDS:.0f} s: see the node's disks and load"
        )
    if not answer and confined.placed.outer:
        raise failed(f"{confined.placed.outer[0]} did not start the server, but ended with {child.returncode}")
    if not answer:
        raise failed(f"{sys.executable} -I -S, which noded runs with, cannot start the server: see the server's log")
    raise _why(answer.removeprefix(ENTERED).decode(errors="replace"), confined)


def _read(handle: int, deadline: float) -> bytes | None:
    """Return what comes until the other end is closed, or None when that takes too long."""
    # select() would refuse high descriptors, of which a noded with many servers has some.
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    parts: list[bytes] = []
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        part = os.read(handle, 4096)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None


def _why(answer: str, confined: Confined) -> LaunchFailed:
    step, code, path = answer.split("\n", 2)
    reason = os.strerror(int(code)) if int(code) else "it has the wrong form"
    account = confined.account
    who = "" if account is None else f" for the account {account.name}"
    sentences = {
        "cgroup": f"the server cannot join the cgroup {path}: {reason}",
        "limit": f"a limit of {path} cannot be set{who}: {reason}",
        "account": f"noded cannot take on the account {account.name if account else path}: {reason}",
        "directory": f"the working directory {path} does not exist on this node",
        "execute": f"cannot execute {path}{who}: {reason}",
    }
    if step == "directory" and int(code) != 2:
        sentences[step] = f"the working directory {path} cannot be entered{who}: {reason}"
    return failed(sentences.get(step, f"the step {step} failed: {reason}"))
