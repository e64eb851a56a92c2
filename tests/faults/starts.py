"""Starting servers and timing them, as a person at the Hub would see it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import jupyterhub
from faults.farm import HERE, FaultFarm
from netns import NetnsNode
from ports import free_ports


async def progress(farm: FaultFarm, user: str, seconds: float = 120) -> AsyncIterator[tuple[float, dict[str, Any]]]:
    """Yield what the progress page of a user's start is told, each event with its moment (monotonic)."""
    url = f"{farm.hub.url}/hub/api/users/{user}/server/progress"
    limit = aiohttp.ClientTimeout(total=seconds)
    async with farm.hub.http.get(url, headers=farm.hub.headers(), timeout=limit) as answer:
        async for line in answer.content:
            if line.startswith(b"data:"):
                yield time.monotonic(), json.loads(line[5:])


async def start(farm: FaultFarm, user: str, options: dict[str, Any] | None = None, seconds: float = 120) -> float:
    """Start a user's server; return the seconds until it is ready. Without options it has no GPU, on any node.

    Raises
    ------
    StartFailed
        It failed; with what the page said.
    """
    begun = time.monotonic()
    asked = options or {"gpus": 0}  # JupyterHub takes {} for "as last time"
    status, body = await farm.hub.api("POST", f"/users/{user}/server", asked)
    if status not in (201, 202):
        raise StartFailed(f"{status}: {body}", time.monotonic() - begun)
    said = []
    async for _, event in progress(farm, user, seconds):
        said.append(event.get("html_message") or event["message"])
        if event.get("ready"):
            return time.monotonic() - begun
        if event.get("failed"):
            break
    raise StartFailed("\n".join(said), time.monotonic() - begun)


class StartFailed(Exception):
    """A start failed, after so many seconds."""

    def __init__(self, message: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(message)


async def start_all(farm: FaultFarm, users: Iterable[str], options: dict[str, Any] | None = None) -> list[float]:
    """Start servers of these users at once; return the seconds of each."""
    return list(await asyncio.gather(*(start(farm, user, options) for user in users)))


def local_start() -> float:
    """Return the seconds that the stand-in takes to its first answer when it is executed without a farm."""
    (port,) = free_ports(1)
    command = [sys.executable, "-I", "-S", str(HERE / "stand_in_server.py"), "", jupyterhub.__version__]
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", port)) as listener:
        environment = {
            "AGENTFARM_SOCKET_FD": str(listener.fileno()),
            "AGENTFARM_LEASE_ID": "local",
            "CUDA_VISIBLE_DEVICES": "",
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{port}/user/local/",
        }
        process = subprocess.Popen(
            command, env=environment, pass_fds=(listener.fileno(),), stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/user/local/api", timeout=10):
            return time.monotonic() - begun
    finally:
        process.kill()
        process.wait()


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def refused_by_ssh(nodes: Iterable[NetnsNode]) -> int:
    """Return how often the nodes' sshd turned a connection or a session away for its limits."""
    words = ("drop connection", "no more sessions", "MaxStartups", "beginning MaxStartups")
    lines = [line for node in nodes for line in (node.directory / "sshd.log").read_text().splitlines()]
    return sum(any(word in line for word in words) for line in lines)


def visible_gpus(farm: FaultFarm) -> dict[str, list[str]]:
    """Return the GPUs that each server's own process sees, by lease, read from /proc."""
    found = {}
    for server in farm.servers():
        with contextlib.suppress(OSError, KeyError):  # one that is just executed has none
            parts = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
            values = dict(part.decode().partition("=")[::2] for part in parts if part)
            found[server.lease] = [gpu for gpu in values["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    return found


def processes_of_leases(node: NetnsNode) -> list[int]:
    """Return every process on the node that belongs to a server, by its environment."""
    space = Path(f"/proc/{node.init}/ns/pid").readlink()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            ours = entry.name.isdigit() and (entry / "ns" / "pid").readlink() == space
            if ours and b"AGENTFARM_LEASE_ID=" in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found
