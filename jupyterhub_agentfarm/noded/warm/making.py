"""How a zygote comes to be: its environment is looked at, surveyed, and imported."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyterhub_agentfarm import __version__

from .environments import Environment, fingerprint, why_not_trusted
from .surveying import Unfit, surveyed, variables_of

log = logging.getLogger(__name__)

#: What importing may take on a loaded node, in seconds.
PRELOAD_SECONDS = 300.0
#: What a fork may take, in seconds; it takes milliseconds.
FORK_SECONDS = 10.0
#: How often another module is left out when one cannot be imported before a fork.
_MOST_BLAMED = 5
_MESSAGE_BYTES = 160 * 1024


class ZygoteDied(Exception):
    """A zygote does not fork any more."""


@dataclass
class Zygote:
    """A process that servers are forked from."""

    environment: Environment
    process: subprocess.Popen[bytes]
    control: socket.socket
    #: Variables that were read while it imported, with their values.
    reads: Mapping[str, str | None]
    #: Files of what it imported from elsewhere than its installation.
    files: tuple[str, ...]
    fingerprint: str
    made_at: float = field(default_factory=time.monotonic)
    starts: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fork(self, descriptors: Sequence[int]) -> int:
        """Return the pid of a forked process that has the descriptors; one at a time, in a thread.

        Raises
        ------
        ZygoteDied
            There is none.
        """
        with self._lock:
            try:
                socket.send_fds(self.control, [b"fork"], descriptors)
                answer = self.control.recv(_MESSAGE_BYTES)
            except OSError as exc:
                raise ZygoteDied(str(exc)) from exc
            pid = json.loads(answer)["pid"] if answer else 0
            if not pid:
                raise ZygoteDied("it has ended")
            self.starts += 1
            return int(pid)

    def changed(self) -> bool:
        """Return whether its environment is another now; in a thread."""
        return fingerprint(self.environment.python, self.files) != self.fingerprint

    def close(self) -> None:
        """Let it end, after a fork that is under way; in a thread."""
        with self._lock:
            self.control.close()
            try:
                self.process.wait(FORK_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


async def make(environment: Environment, names: Collection[str], folder: Path) -> Zygote:
    """Return a new zygote.

    Parameters
    ----------
    environment
        What it is for.
    names
        Variables that its servers have, with different values.
    folder
        Where surveys are kept.

    Raises
    ------
    Unfit
        The environment cannot be kept warm.
    """
    python = environment.python
    await _check_trusted(python)
    found = await surveyed(environment, names, folder)
    await _check_trusted(python, found["files"])
    late = set(found["late"])
    for _ in range(_MOST_BLAMED):
        before = await asyncio.to_thread(fingerprint, python, found["files"])
        answer = await _preloaded(environment, {**found, "late": sorted(late)})
        if isinstance(answer, str):
            if answer in found["for_kernels"]:
                found = _without_kernels(found)  # servers come first
            late.add(answer)
            continue
        process, control, reads = answer
        return Zygote(environment, process, control, reads, tuple(found["files"]), before)
    raise Unfit(f"too many modules cannot be imported before a fork: {', '.join(sorted(late - set(found['late'])))}")


def _without_kernels(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is to be imported without what only kernels need: they import it themselves then."""
    log.info("kernels import what they need themselves: not all of it can be imported before a fork")
    kept = [name for name in found["modules"] if name not in set(found["for_kernels"])]
    return {**found, "modules": kept, "for_kernels": []}


async def _check_trusted(python: str, files: Sequence[str] = ()) -> None:
    if os.geteuid() == 0 and (fault := await asyncio.to_thread(why_not_trusted, python, files)) is not None:
        raise Unfit(f"noded is root and does not import what others may change: {fault}")


async def _preloaded(
    environment: Environment, found: Mapping[str, Any]
) -> tuple[subprocess.Popen[bytes], socket.socket, Mapping[str, str | None]] | str:
    """Return a process that has imported what was found, or the module that keeps it from being forked."""
    variables = variables_of(environment)
    process, ours = await asyncio.to_thread(_begun, environment.python, variables)
    answer: dict[str, Any] = {}
    try:
        order = {key: found[key] for key in ("modules", "for_kernels", "late", "absent")} | {"environment": variables}
        answer = await _asked(ours, json.dumps(order).encode())
    finally:
        if "reads" not in answer:
            ours.close()
            process.kill()
            await asyncio.to_thread(process.wait)
    if "reads" in answer:
        ours.settimeout(FORK_SECONDS)
        return process, ours, answer["reads"]
    if not answer["module"]:
        raise Unfit(answer["unfit"])
    log.info("%s is imported in each server: %s", answer["module"], answer["unfit"])
    return str(answer["module"])


def _begun(python: str, variables: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = (python, "-m", f"{__package__}.zygote", str(theirs.fileno()), __version__)
        try:
            process = subprocess.Popen(
                command,
                cwd="/",
                env=variables,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
    return process, ours


async def _asked(control: socket.socket, order: bytes) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    control.setblocking(False)
    try:
        async with asyncio.timeout(PRELOAD_SECONDS):
            await loop.sock_sendall(control, order)
            answer = await loop.sock_recv(control, _MESSAGE_BYTES)
    except TimeoutError as exc:
        raise Unfit(f"its modules were not imported within {PRELOAD_SECONDS:.0f} s") from exc
    except OSError as exc:
        raise Unfit(f"the process that imports them ended: {exc.strerror}") from exc
    if not answer:
        raise Unfit("the process that imports its modules ended; see noded's log")
    found: dict[str, Any] = json.loads(answer)
    return found
