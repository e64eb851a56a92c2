"""noded's side of a survey: a server of an environment is started to learn from, once for each state of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jupyterhub_agentfarm import __version__

from .environments import Environment, fingerprint, search_path

log = logging.getLogger(__name__)

#: What a survey may take on a loaded node, in seconds.
SURVEY_SECONDS = 300.0
#: A home that is none: what is found in a server came from its zygote.
NO_HOME = "/nonexistent"
_NOBODY = 65534
_TRIAL_SECONDS = 60.0
_LOG_BYTES = 2000
#: Surveys that are kept, of earlier states too.
_KEPT = 8


class Unfit(Exception):
    """An environment cannot be kept warm; the message is a part of a sentence that says why."""


async def surveyed(environment: Environment, names: Collection[str], folder: Path) -> Mapping[str, Any]:
    """Return what a server of the environment imports, and `files`: those that lie outside of its installation.

    Parameters
    ----------
    environment
        The environment.
    names
        Variables that its servers have, with different values.
    folder
        Where surveys are kept.

    Raises
    ------
    Unfit
        No server came up.
    """
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
        for old in sorted(folder.glob("*.json"), key=lambda each: each.stat().st_mtime)[:-_KEPT]:
            old.unlink()
        path.write_text(text, "utf-8")


def variables_of(environment: Environment) -> dict[str, str]:
    """Return the whole environment of a process that imports for others."""
    path = f"{Path(environment.python).parent}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": NO_HOME, **dict(environment.variables)}


async def _survey(environment: Environment, names: Collection[str]) -> str:
    reader, writer = os.pipe()
    home = tempfile.mkdtemp(prefix="agentfarm-survey-")
    try:
        account = await asyncio.to_thread(_lowered, environment.python, home)
        command = (environment.python, "-m", f"{__package__}.survey", str(writer), home, *sorted(names))
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", "10", *command),
            cwd="/",
            env=variables_of(environment),
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
                os.killpg(process.pid, signal.SIGKILL)
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
