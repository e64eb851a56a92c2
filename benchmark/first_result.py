"""From the request for a server to the first result of a kernel on it; no script of its own.

What is timed is what a person or an agent waits for, through the proxy: the Hub's word that the server is ready, the
first kernel's answer to the question who it is, and the first value that needs numpy.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from spawning_setup import START_SECONDS, BenchHub

from jupyterhub_agentfarm.agents.jupyter.kernel_messages import SUBPROTOCOL, decode, encode_request

#: What a person would try first.
CODE = "import numpy; print(float(numpy.arange(3).sum()))"
_REPLY_SECONDS = 300
_EXECUTE = {"code": CODE, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}


@dataclass
class Sample:
    """One start, and what came of it. Times are seconds from the request for the server, infinite where it failed."""

    way: str
    nodes: int
    at_once: int
    round: int
    ready_seconds: float = math.inf
    kernel_seconds: float = math.inf
    result_seconds: float = math.inf
    #: From the request for a second kernel on the same server to its answer.
    second_kernel_seconds: float = math.inf
    #: What the server's process has computed until it was ready; it depends less on what else the machine does.
    server_cpu_seconds: float = math.nan

    @property
    def failed(self) -> bool:
        """Whether there was no result."""
        return self.result_seconds == math.inf


async def start(hub: BenchHub, user: str) -> float:
    """Start a user's server; return the seconds until the Hub calls it ready, infinity when it failed."""
    began = time.monotonic()
    status, _ = await hub.api("POST", f"/users/{user}/server", {})
    if status not in (201, 202):
        return math.inf
    progress = f"{hub.url}/hub/api/users/{user}/server/progress"
    limit = aiohttp.ClientTimeout(total=START_SECONDS)
    async with hub.http.get(progress, headers=hub.headers(), timeout=limit) as events:
        async for line in events.content:
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                if event.get("ready"):
                    return time.monotonic() - began
                if event.get("failed"):
                    return math.inf
    return math.inf


async def kernel(hub: BenchHub, user: str) -> tuple[float, float]:
    """Start a kernel; return the seconds until it answered, and until it had a result."""
    began = time.monotonic()
    base = f"{hub.url}/user/{user}/api/kernels"
    async with hub.http.post(base, json={"name": "python3"}, headers=hub.headers()) as answer:
        if answer.status != 201:
            return math.inf, math.inf
        kernel_id = (await answer.json())["id"]
    session = uuid.uuid4().hex
    channels = hub.http.ws_connect(f"{base}/{kernel_id}/channels", headers=hub.headers(), protocols=[SUBPROTOCOL])
    async with asyncio.timeout(_REPLY_SECONDS), channels as socket:
        await _replied(socket, "kernel_info_request", {}, session)
        answered = time.monotonic() - began
        await _replied(socket, "execute_request", _EXECUTE, session)
        return answered, time.monotonic() - began


async def _replied(socket: aiohttp.ClientWebSocketResponse, kind: str, content: dict[str, Any], session: str) -> None:
    identity, frame = encode_request("shell", kind, content, session)
    await socket.send_bytes(frame)
    while True:
        message = decode(await socket.receive_bytes())
        if message.parent == identity and message.kind == kind.replace("request", "reply"):
            return


async def kernels(hub: BenchHub, user: str, sample: Sample) -> None:
    """Start two kernels, one after the other, and note when they answered."""
    if sample.ready_seconds == math.inf:
        return
    try:
        answered, result = await kernel(hub, user)
        sample.kernel_seconds = sample.ready_seconds + answered
        sample.result_seconds = sample.ready_seconds + result
        sample.second_kernel_seconds, _ = await kernel(hub, user)
    except (aiohttp.ClientError, TimeoutError, OSError, TypeError):
        return  # what was not reached is infinite


# ---------------------------------------------------------------- what it costs


def processes_of(users: Sequence[str]) -> dict[str, list[psutil.Process]]:
    """Return the processes of users' servers on the nodes: servers, kernels, and what kernels are forked from."""
    found: dict[str, list[psutil.Process]] = {"server": [], "kernel": [], "kernel zygote": []}
    for process in psutil.process_iter():
        try:
            if process.environ().get("JUPYTERHUB_USER") in users:
                found[_role(" ".join(process.cmdline()))].append(process)
        except (psutil.Error, OSError, KeyError):
            continue
    return found


def _role(command: str) -> str:
    if "ipykernel_launcher" in command:
        return "kernel"
    if "kernels.zygote" in command:
        return "kernel zygote"
    if "singleuser" in command or "jupyterhub_agentfarm.server" in command:
        return "server"
    return "other"


def cpu_seconds(users: Sequence[str]) -> dict[str, float]:
    """Return what the server of each user has computed."""
    used = {}
    for process in processes_of(users)["server"]:
        times = process.cpu_times()
        used[process.environ()["JUPYTERHUB_USER"]] = times.user + times.system
    return used


def memory(users: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the mean memory of each role's processes, in MiB, and their number."""
    told = {}
    for role, processes in processes_of(users).items():
        if processes:
            told[role] = memory_of(processes)
    return told


def memory_of(processes: Sequence[psutil.Process]) -> dict[str, float]:
    """Return the mean memory of processes, in MiB: USS is theirs alone, PSS has their share of what several use."""
    infos = [process.memory_full_info() for process in processes]
    means = {name: sum(getattr(info, name) for info in infos) / len(infos) / 2**20 for name in ("uss", "pss", "rss")}
    return {f"{name}_mib": round(value, 1) for name, value in means.items()} | {"processes": len(infos)}


async def idle(seconds: float, namespaces: Collection[str]) -> dict[str, Any]:
    """Return what zygotes of servers cost while nothing starts: memory, and cores in use.

    Parameters
    ----------
    seconds
        How long to look.
    namespaces
        The network namespaces of the nodes: others' zygotes may be on this machine.
    """
    zygotes = [process for process in psutil.process_iter() if _is_zygote(process, namespaces)]
    if not zygotes:
        return {"processes": 0}
    before = sum(sum(process.cpu_times()[:2]) for process in zygotes)
    await asyncio.sleep(seconds)
    used = sum(sum(process.cpu_times()[:2]) for process in zygotes) - before
    return memory_of(zygotes) | {"cores": round(used / seconds, 4)}


def namespace(pid: int | str = "self") -> str:
    """Return the network namespace of a process."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _is_zygote(process: psutil.Process, namespaces: Collection[str]) -> bool:
    try:
        return "noded.warm.zygote" in " ".join(process.cmdline()) and namespace(process.pid) in namespaces
    except (psutil.Error, OSError):
        return False
