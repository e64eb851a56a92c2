"""How a zygote comes to be: its environment is looked at, surveyed, and imported."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyterhub_agentfarm import __version__

from .environments import Environment, fingerprint, search_path, why_not_trusted

log = logging.getLogger(__name__)

#: What a survey, or importing, may take on a loaded node, in seconds.
SURVEY_SECONDS, PRELOAD_SECONDS = 180.0, 120.0
#: What a fork may take, in seconds; it takes milliseconds.
FORK_SECONDS = 10.0
#: How often another module is left out when one cannot be imported before a fork.
_MOST_BLAMED = 5
#: A home that is none: what is found in a server came from its zygote.
NO_HOME = "/nonexistent"
_NOBODY = 65534
_TRIAL_SECONDS = 60.0
_MESSAGE_BYTES = 160 * 1024
_LOG_BYTES = 2000


class Unfit(Exception):
    """An environment cannot be kept warm; the message is a part of a sentence that says why."""


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
    found = await _surveyed(environment, names, folder)
    await _check_trusted(python, found["files"])
    late = set(found["late"])
    for _ in range(_MOST_BLAMED):
        before = await asyncio.to_thread(fingerprint, python, found["files"])
        answer = await _preloaded(environment, {**found, "late": sorted(late)})
        if isinstance(answer, str):
            late.add(answer)
            continue
        process, control, reads = answer
        return Zygote(environment, process, control, reads, tuple(found["files"]), before)
    raise Unfit(f"too many modules cannot be imported before a fork: {', '.join(sorted(late - set(found['late'])))}")


async def _check_trusted(python: str, files: Sequence[str] = ()) -> None:
    if os.geteuid() == 0 and (fault := await asyncio.to_thread(why_not_trusted, python, files)) is not None:
        raise Unfit(f"noded is root and does not import what others may change: {fault}")


async def _surveyed(environment: Environment, names: Collection[str], folder: Path) -> Mapping[str, Any]:
    now = await asyncio.to_thread(fingerprint, environment.python)
    key = hashlib.sha256(repr((__version__, environment, sorted(names), now)).encode()).hexdigest()[:24]
    kept = folder / f"{key}.json"
    with contextlib.suppress(OSError, ValueError):
        found: Mapping[str, Any] = json.loads(kept.read_text("utf-8"))
        if found["outside"] == fingerprint(environment.python, found["files"]):
            return found
    text = await _survey(environment, names)
    told = json.loads(text)
    inside = tuple(map(str, search_path(environment.python)))
    files = sorted(file for file in told["files"] if not file.startswith(inside))
    found = {**told, "files": files, "outside": fingerprint(environment.python, files)}
    _keep(folder, kept, json.dumps(found))
    return found


def _keep(folder: Path, path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk costs the next noded a survey, and nothing else
        folder.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(folder.glob("*.json"), key=lambda each: each.stat().st_mtime)[:-8]:
            old.unlink()
        path.write_text(text, "utf-8")


def _variables(environment: Environment) -> dict[str, str]:
    path = f"{Path(environment.python).parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": NO_HOME, **dict(environment.variables)}


async def _survey(environment: Environment, names: Collection[str]) -> str:
    reader, writer = os.pipe()
    home = tempfile.mkdtemp(prefix="agentfarm-survey-")
    try:
        account = await asyncio.to_thread(_lowered, environment.python, home)
        command = (environment.python, "-m", f"{__package__}.survey", str(writer), home, *sorted(names))
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", "5", *command),
            cwd="/",
            env=_variables(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=[writer],
            start_new_session=True,
            **account,
        )
        os.close(writer)
        writer = -1
        return await _reported(process, reader)
    finally:
        for descriptor in {reader, writer} - {-1}:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)


def _lowered(python: str, home: str) -> dict[str, Any]:
    """Return the account that a survey runs as: nobody, where noded is root and nobody may execute this Python."""
    nobody: dict[str, Any] = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
    if os.geteuid() != 0:
        return {}
    try:
        command = [python, "-I", "-c", "import jupyterhub_agentfarm"]
        subprocess.run(command, check=True, capture_output=True, timeout=_TRIAL_SECONDS, **nobody)
    except (OSError, subprocess.SubprocessError):
        return {}
    os.chown(home, _NOBODY, _NOBODY)
    return nobody


async def _reported(process: asyncio.subprocess.Process, reader: int) -> str:
    try:
        async with asyncio.timeout(SURVEY_SECONDS):
            text, (said, _) = await asyncio.gather(_all_of(reader), process.communicate())
    except TimeoutError as exc:
        raise Unfit(f"a server to learn from did not answer within {SURVEY_SECONDS:.0f} s") from exc
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()
    if process.returncode != 0 or not text:
        last = said.decode(errors="replace").strip()[-_LOG_BYTES:]
        log.warning("A server to learn from ended with %s:\n%s", process.returncode, last)
        raise Unfit(f"a server to learn from ended with status {process.returncode}; noded's log has its output")
    return text


async def _all_of(reader: int) -> str:
    """Return what comes through a pipe until nobody can write to it."""
    loop, text = asyncio.get_running_loop(), b""
    stream = asyncio.StreamReader()
    pipe = os.fdopen(os.dup(reader), "rb")
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    try:
        text = await stream.read()
    finally:
        transport.close()
    return text.decode()


async def _preloaded(
    environment: Environment, found: Mapping[str, Any]
) -> tuple[subprocess.Popen[bytes], socket.socket, Mapping[str, str | None]] | str:
    """Return a process that has imported what was found, or the module that keeps it from being forked."""
    variables = _variables(environment)
    process, ours = await asyncio.to_thread(_begun, environment.python, variables)
    answer: dict[str, Any] = {}
    try:
        order = {key: found[key] for key in ("modules", "late", "absent")} | {"environment": variables}
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
