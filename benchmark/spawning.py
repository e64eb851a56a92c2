"""Start to ready, polling and noticing faults: the farm's spawner beside sshspawner's way, in one run.

Both ways start JupyterHub's single-user server from the same environment on the same four OpenSSH hosts (network
namespaces of this machine), behind the same proxy. A start begins with the POST to the Hub and ends with the Hub's
progress event that says ready. Rounds alternate between the ways. What was repaired in sshspawner so that it starts at
all stands in `peers/sshspawner_repaired.py`.

Needs root (or root in a user namespace), iproute2 and OpenSSH's sshd; elsewhere it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
from provenance import output_path, provenance
from spawning_setup import (
    PEER_REQUIREMENTS,
    PEERS,
    ROOT,
    START_SECONDS,
    BenchHub,
    PeerHub,
    end_servers,
    install_peer,
    nodes,
    our_config,
    peer_config,
    running_hub,
    sign_key,
)

# isort: split
import netns  # in tests/, which spawning_setup has put into the path
from waiting import eventually

from jupyterhub_agentfarm.models import Lease, PlacementRequest, ServerStatus
from jupyterhub_agentfarm.spawner.spawner import AgentFarmSpawner
from jupyterhub_agentfarm.spawner.watch import LeaseWatch

OURS, PEER = "agentfarm", "sshspawner"
STOP_SECONDS = 60
_NODES = 4


# ---------------------------------------------------------------- starts


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


async def burst(hub: BenchHub, count: int, round_number: int) -> list[float]:
    """Start `count` servers at once, each of a user of its own, and have them stopped again; return their times.

    Not every way gets all of them stopped: what is left then is killed on the nodes.
    """
    users = [f"u{round_number}-{count}-{i}" for i in range(count)]
    for user in users:
        await hub.api("POST", f"/users/{user}")
    try:
        return list(await asyncio.gather(*(start(hub, user) for user in users)))
    finally:
        await asyncio.gather(*(hub.api("DELETE", f"/users/{user}/server") for user in users))
        if await until_noticed(lambda: _none_runs(hub, users), STOP_SECONDS) is None:
            say(f"not all of {count} servers were stopped within {STOP_SECONDS} s")


async def _none_runs(hub: BenchHub, users: list[str]) -> bool:
    models = [await hub.model(user) for user in users]
    return all(model is None for model in models)


def starts_summary(seconds: list[float]) -> dict[str, Any]:
    """Return percentiles of the starts that succeeded, and how many did not."""
    good = sorted(value for value in seconds if value < math.inf)
    summary: dict[str, Any] = {"starts": len(seconds), "failed": len(seconds) - len(good)}
    if good:
        p95 = good[max(0, math.ceil(0.95 * len(good)) - 1)]
        named = {"p50": statistics.median(good), "p95": p95, "min": good[0], "max": good[-1]}
        summary |= {f"{name}_seconds": round(value, 3) for name, value in named.items()}
    return summary


# ---------------------------------------------------------------- polls


async def our_polls(count: int) -> dict[str, Any]:
    """Return the cost of asking `count` servers of the farm's spawner whether they live."""
    watch = LeaseWatch()
    spawners = [_polled(watch, number) for number in range(count)]
    began, cpu = time.monotonic(), time.process_time()
    answers = [await spawner.poll() for spawner in spawners]
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    return {
        "one_after_the_other": {"seconds": seconds, "cpu_seconds": cpu, "failed": sum(a is not None for a in answers)}
    }


def _polled(watch: LeaseWatch, number: int) -> AgentFarmSpawner:
    server = ServerStatus(f"{number}", 1, "running", "boot", 1, 1, "127.0.0.1", 1, (), 0.0)
    request = PlacementRequest("ada", str(number))
    watch.remember(Lease(str(number), "ada", str(number), "running", 1, request, 0.0, node="gpu01", server=server))
    spawner = AgentFarmSpawner(_mock=True)
    spawner.user = SimpleNamespace(settings={"agentfarm_watch": watch})
    spawner.lease_id = str(number)
    return spawner


def peer_polls(python: str, farm: netns.NetnsFarm, key: Path, count: int) -> dict[str, Any]:
    """Return the same of sshspawner's."""
    node = farm.nodes[0]
    pid = node.execute("sh", "-c", "'sleep 600 >/dev/null 2>&1 & echo $!'").strip()
    program = [python, str(PEERS / "sshspawner_repaired.py"), node.address, str(key), pid, str(count)]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=300)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# ---------------------------------------------------------------- faults


async def until_noticed(noticed: Callable[[], Awaitable[bool]], limit_seconds: float) -> float | None:
    """Return the seconds until `noticed`; None when that did not come within the limit."""
    began = time.monotonic()
    try:
        await eventually(noticed, "the fault is noticed", limit_seconds, 0.05)
    except AssertionError:
        return None
    return round(time.monotonic() - began, 2)


async def notice_faults(hub: BenchHub, farm: netns.NetnsFarm, limit_seconds: float) -> dict[str, float | None]:
    """Return the seconds until the Hub knows that a server was killed, and that a server's node was cut off."""
    found: dict[str, float | None] = {}
    for user, fault in (("killed", "server killed"), ("cut", "node cut off")):
        await hub.add_user(user)
        if await start(hub, user) == math.inf:
            found[fault] = None
            continue
        node = await asyncio.to_thread(_node_of, farm)
        inflict = functools.partial(end_servers, [node]) if fault == "server killed" else node.cut

        async def gone(user: str = user) -> bool:
            return await hub.model(user) is None

        # Timed from before the fault: an upper bound.
        inflicting = asyncio.create_task(asyncio.to_thread(inflict))
        found[fault] = await until_noticed(gone, limit_seconds)
        await inflicting
        node.heal()
    return found


def _node_of(farm: netns.NetnsFarm) -> netns.NetnsNode:
    """Return the node on which the one server runs."""
    for node in farm.nodes:
        try:
            node.execute("pgrep", "-f", "'single[u]ser|jupyterhub_agentfarm[.]server'")
        except subprocess.CalledProcessError:
            continue
        return node
    raise AssertionError("no node has a server")


# ---------------------------------------------------------------- the run


async def measure(options: argparse.Namespace, python: str) -> dict[str, Any]:
    """Boot the nodes and both Hubs, alternate between them."""
    async with nodes(_NODES) as farm:
        key = sign_key(farm)
        PeerHub.python = python
        starts: dict[str, dict[int, list[float]]] = {OURS: {}, PEER: {}}
        async with (
            running_hub(BenchHub, farm, our_config()) as ours,
            running_hub(PeerHub, farm, peer_config(farm, key)) as peer,
        ):
            hubs = {OURS: ours, PEER: peer}
            await eventually(lambda: _all_ready(ours), "the farm's nodes are ready", 60, 1)
            for way, hub in hubs.items():
                say(f"{way}: first start, not counted: {(await burst(hub, 1, 0))[0]:.2f} s")
            for count, rounds in options.bursts:
                for number in range(1, rounds + 1):
                    for way in (OURS, PEER) if number % 2 else (PEER, OURS):
                        seconds = await burst(hubs[way], count, number)
                        starts[way].setdefault(count, []).extend(seconds)
                        say(f"{way}: {count} at once, round {number}: {starts_summary(seconds)}")
                        await asyncio.to_thread(end_servers, farm.nodes)
            faults = {}
            for way, hub in hubs.items():
                faults[way] = await notice_faults(hub, farm, options.fault_seconds)
                say(f"{way}: noticed after seconds: {faults[way]}")
        polls = {OURS: await our_polls(options.polls), PEER: peer_polls(python, farm, key, options.polls)}
        say(f"polls of {options.polls} servers: {polls}")
    return {
        "start_to_ready": {way: {n: starts_summary(s) for n, s in by.items()} for way, by in starts.items()},
        "polls": {"servers": options.polls, **polls},
        "noticed_after_seconds": {"limit_seconds": options.fault_seconds, **faults},
    }


async def _all_ready(hub: BenchHub) -> bool:
    found = await hub.farm.nodes()
    say("; ".join(f"{node['name']}: {node['status']} {node['detail']}" for node in found))
    return [node["status"] for node in found] == ["ready"] * _NODES


def say(line: str) -> None:
    """Show progress."""
    sys.stderr.write(f"{line}\n")


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure starts, polls and faults beside sshspawner.")
    parser.add_argument("--bursts", default="1x7,10x3,60x1", help="how many at once, and how often each")
    parser.add_argument("--polls", type=int, default=100, help="servers to poll")
    parser.add_argument("--fault-seconds", type=float, default=90, help="how long a fault may stay unnoticed")
    parser.add_argument("--quick", action="store_true", help="a short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    wanted = "1x1,4x1" if options.quick else options.bursts
    options.bursts = [tuple(map(int, each.split("x"))) for each in wanted.split(",")]
    if reason := netns.why_not():
        say(f"not measured: {reason}")
        return 0
    python = install_peer(ROOT / ".cache" / "bench-sshspawner")
    facts = provenance(options, ("jupyterhub", "jupyter_server", "asyncssh", "tornado"))
    facts["peer"] = {"requirements": PEER_REQUIREMENTS, "repairs": "benchmark/peers/sshspawner_repaired.py"}
    result = {"provenance": facts, **asyncio.run(measure(options, python))}
    output = options.output or output_path("spawning")
    output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
