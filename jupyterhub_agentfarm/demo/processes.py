"""Everything that the demo started, and how it ends.

noded and the servers are meant to outlive whoever started them, so the demo cannot end them as its children. It finds
them, and the leftovers of a demo that was killed, by what they carry: the demo's directory in their environment
(``AGENTFARM_DEMO_DIR``), the directory of its nodes in their arguments (noded), or one of its leases in their
environment (servers, and what runs in them).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from .layout import Layout

ENV_DEMO_DIR = "AGENTFARM_DEMO_DIR"
_POLL_SECONDS = 0.1


async def spawn(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, pipe: bool
) -> asyncio.subprocess.Process:
    """Start a process in a session of its own, so that Ctrl-C in the terminal reaches only the demo.

    Parameters
    ----------
    log
        File that its messages are appended to.
    pipe
        Its stdout is for us to read; otherwise it goes to the log too.
    """
    with log.open("ab") as file:
        return await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            cwd=log.parent.parent,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if pipe else file,
            stderr=file,
            start_new_session=True,
        )


async def terminate(process: asyncio.subprocess.Process, grace_seconds: float) -> None:
    """End a process: TERM, and KILL after the grace. One that ended already is fine."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace_seconds)


async def sweep(layout: Layout, grace_seconds: float = 5) -> int:
    """End every process of the demo in `layout`; return how many there were.

    They are asked with TERM and, after the grace, made to with KILL; new ones that appear meanwhile too.
    """
    asked: set[int] = set()
    started = time.monotonic()
    while left := await asyncio.to_thread(find, layout):
        late = time.monotonic() - started > grace_seconds
        for process in left:
            if late or process.pid not in asked:
                asked.add(process.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        if time.monotonic() - started > 2 * grace_seconds:
            break
        await asyncio.sleep(_POLL_SECONDS)
    return len(asked)


def find(layout: Layout) -> list[psutil.Process]:
    """Return the living processes of the demo in `layout`, this one and its ancestors excepted."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    nodes = str(layout.nodes.resolve()).encode()
    marks = {f"{ENV_DEMO_DIR}={layout.root}".encode()}
    records = layout.nodes.resolve().glob("*/servers/*.*")
    marks |= {f"AGENTFARM_LEASE_ID={record.name.partition('.')[0]}".encode() for record in records}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in own and _carries(process.pid, marks, nodes) and _lives(process):
                found.append(process)
    return found


def _carries(pid: int, marks: set[bytes], nodes: bytes) -> bool:
    """Whether `pid` has one of the marks in its environment, which only its own account can read, or is our noded."""
    folder = Path(f"/proc/{pid}")
    if not marks.isdisjoint((folder / "environ").read_bytes().split(b"\0")):
        return True
    command = (folder / "cmdline").read_bytes()
    return nodes + b"/" in command and b"jupyterhub_agentfarm.noded" in command


def _lives(process: psutil.Process) -> bool:
    return bool(process.status() != psutil.STATUS_ZOMBIE)
