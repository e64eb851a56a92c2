"""Starts, first results, polling and noticing faults: the farm beside sshspawner's way, in one run.

==============  =======================================================================================================
way             what it is
==============  =======================================================================================================
``sshspawner``  the package, repaired so that it starts at all (`peers/sshspawner_repaired.py`)
``stock``       the farm, cold and without shortcuts: one kept connection, and a start that returns when the server
                answers, in place of new connections and the Hub's polling
``cold``        the same with the shortcuts of a server's start (`jupyterhub_agentfarm/server/shortcuts.py`)
``warm``        servers and kernels are forked
==============  =======================================================================================================

All start a single-user server from the same environment on the same OpenSSH hosts (network namespaces of this machine),
behind the same kind of proxy. Rounds take turns in another order each time. A start begins with the POST to the Hub;
see `first_result.py` for what ends it.

Needs root (or root in a user namespace), iproute2 and OpenSSH's sshd; elsewhere it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from first_result import Sample, cpu_seconds, idle, kernels, memory, namespace, start
from provenance import output_path, provenance, spread
from spawning_setup import (
    PEER_REQUIREMENTS,
    PEERS,
    ROOT,
    WAYS,
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
#: Each way but the first differs from the one before it in one thing.
WAYS_IN_ORDER = (PEER, *WAYS)
SHARES = {"stock": "waiting_start", "cold": "shortcuts", "warm": "zygotes"}
TIMES = ("ready_seconds", "kernel_seconds", "result_seconds", "second_kernel_seconds", "server_cpu_seconds")
STOP_SECONDS = 60
#: What a cold server with two kernels takes, generously.
MEMORY_BYTES_EACH = 300 * 2**20
#: How long a node may take until it starts servers warm.
WARM_SECONDS = 300


# ---------------------------------------------------------------- starts


@dataclass
class Starts:
    """What was measured of starts.

    Attributes
    ----------
    samples
        Each start of each user.
    memory
        By number of nodes, how many at once and way: the memory of the servers alone, and with two kernels each.
    """

    samples: list[Sample] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)

    async def burst(self, hub: BenchHub, way: str, nodes: int, count: int, number: int) -> None:
        """Start `count` servers at once, each of a user of its own and with kernels, and have them stopped again.

        Not every way gets all of them stopped: what is left then is killed on the nodes.
        """
        users = [f"{way}-{nodes}-{count}-{number}-{i}" for i in range(count)]
        samples = [Sample(way, nodes, count, number) for _ in users]
        for user in users:
            await hub.api("POST", f"/users/{user}")
        try:
            for sample, seconds in zip(samples, await asyncio.gather(*(start(hub, u) for u in users)), strict=True):
                sample.ready_seconds = seconds
            used = await asyncio.to_thread(cpu_seconds, users)
            for user, sample in zip(users, samples, strict=True):
                sample.server_cpu_seconds = round(used.get(user, math.nan), 3)
            alone = await asyncio.to_thread(memory, users)
            await asyncio.gather(*(kernels(hub, user, sample) for user, sample in zip(users, samples, strict=True)))
            told = {"servers": alone, "with_two_kernels_each": await asyncio.to_thread(memory, users)}
            told["started"] = await _started(hub) if way in WAYS else {}
            say(f"started so far: {told['started']}")
            self.memory.append({"way": way, "nodes": nodes, "at_once": count, "round": number} | told)
        finally:
            await _stopped(hub, users)
        self.samples += samples
        say(f"{way}: {count} at once on {nodes} nodes, round {number}: {_shown(samples)}")


async def _stopped(hub: BenchHub, users: list[str]) -> None:
    stops = [hub.api("DELETE", f"/users/{user}/server") for user in users]
    slow = [each for each in await asyncio.gather(*stops, return_exceptions=True) if isinstance(each, Exception)]
    if slow:
        say(f"{len(slow)} of {len(users)} requests to stop were not answered: {slow[0]!r}")
    if await until_noticed(lambda: _none_runs(hub, users), STOP_SECONDS) is None:
        say(f"not all of {len(users)} servers were stopped within {STOP_SECONDS} s")


async def _none_runs(hub: BenchHub, users: list[str]) -> bool:
    models = [await hub.model(user) for user in users]
    return all(model is None for model in models)


def _shown(samples: Sequence[Sample]) -> str:
    told = times(samples)
    medians = ", ".join(f"{name} {told[name]['median']}" for name in TIMES if told[name])
    return f"{told['failed']} of {told['starts']} failed; medians: {medians}"


def times(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the spread of each time of some starts, and how many failed."""
    told: dict[str, Any] = {"starts": len(samples), "failed": sum(sample.failed for sample in samples)}
    for name in TIMES:
        good = [value for sample in samples if math.isfinite(value := getattr(sample, name))]
        told[name] = spread(good) if good else None
    return told


def compared(told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return, for the medians of each time, sshspawner's over the farm's, and what each step took away.

    Parameters
    ----------
    told
        The times by way.
    """
    found: dict[str, Any] = {}
    for name in TIMES:
        medians = {way: told[way][name]["median"] for way in WAYS_IN_ORDER if told.get(way, {}).get(name)}
        if len(medians) == len(WAYS_IN_ORDER):
            steps = itertools.pairwise(WAYS_IN_ORDER)
            found[name] = {"sshspawner_over_warm": round(medians[PEER] / medians["warm"], 2)} | {
                SHARES[way]: round(medians[before] / medians[way], 2) for before, way in steps
            }
    return found


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


@contextlib.asynccontextmanager
async def farms(count: int, python: str) -> AsyncIterator[tuple[netns.NetnsFarm, Path, dict[str, BenchHub]]]:
    """Boot nodes and both Hubs; give them with the key that sshspawner logs in with."""
    async with nodes(count) as farm:
        key = sign_key(farm)
        PeerHub.python = python
        async with (
            running_hub(BenchHub, farm, our_config()) as ours,
            running_hub(PeerHub, farm, peer_config(farm, key)) as peer,
        ):
            await eventually(lambda: _all_ready(ours, count), "the farm's nodes are ready", 60, 1)
            yield farm, key, {PEER: peer} | dict.fromkeys(WAYS, ours)


async def measure_starts(options: argparse.Namespace, python: str, count: int, starts: Starts) -> dict[str, Any]:
    """Alternate between the ways on `count` nodes; return what else is measured there."""
    told: dict[str, Any] = {}
    async with farms(count, python) as (farm, key, hubs):
        for way in options.ways:
            await Starts().burst(hubs[way], way, count, count, 0)  # not counted: files are not in memory yet
        await _warm_up(hubs["warm"], count)
        await eventually(lambda: _all_warm(hubs["warm"]), "the nodes start servers warm", WARM_SECONDS, 1)
        inside = {namespace(node.init) for node in farm.nodes}
        told["zygotes_of_servers"] = await idle(options.idle_seconds, inside)
        for at_once, rounds in options.bursts:
            if not _fits(at_once):
                say(f"{at_once} at once are left out: there is too little memory")
                continue
            for number in range(1, rounds + 1):
                for way in _turn(options.ways, number):
                    await starts.burst(hubs[way], way, count, at_once, number)
                    await asyncio.to_thread(end_servers, farm.nodes)
        if count == max(options.nodes) and options.faults:
            told["noticed_after_seconds"] = {
                name: await notice_faults(hubs[name], farm, options.fault_seconds) for name in ("warm", PEER)
            }
            told["polls"] = {OURS: await our_polls(options.polls), PEER: peer_polls(python, farm, key, options.polls)}
    return told


def _turn(ways: Sequence[str], number: int) -> list[str]:
    """Return the ways in the order of a round."""
    shift = number % len(ways)
    return [*ways[shift:], *ways[:shift]]


def _fits(servers: int) -> bool:
    return servers * MEMORY_BYTES_EACH < psutil.virtual_memory().available


async def _all_ready(hub: BenchHub, count: int) -> bool:
    found = await hub.farm.nodes()
    say("; ".join(f"{node['name']}: {node['status']} {node['detail']}" for node in found))
    return [node["status"] for node in found] == ["ready"] * count


async def _all_warm(hub: BenchHub) -> bool:
    """Return whether every node starts servers warm."""
    found = {node["name"]: (node["telemetry"] or {}).get("warm_starts") for node in await hub.farm.nodes()}
    return all(told and told["state"] == "warm" for told in found.values())


async def _warm_up(hub: BenchHub, nodes_count: int) -> None:
    """Have servers started on all nodes, so that each begins to keep their environment warm."""
    users = [f"warm-up-{number}" for number in range(2 * nodes_count)]
    for user in users:
        await hub.api("POST", f"/users/{user}")
    await asyncio.gather(*(start(hub, user) for user in users))
    await _stopped(hub, users)


async def _started(hub: BenchHub) -> dict[str, Any]:
    """Return how many servers the nodes have started warm and cold so far."""
    found = {node["name"]: (node["telemetry"] or {}).get("warm_starts") or {} for node in await hub.farm.nodes()}
    return {name: {key: told.get(key) for key in ("warm", "cold")} for name, told in found.items()}


def summary(starts: Starts) -> list[dict[str, Any]]:
    """Return times, comparison and memory for each number of nodes and of servers at once."""
    told = []
    for count, at_once in sorted({(sample.nodes, sample.at_once) for sample in starts.samples}):
        ways = {}
        for way in WAYS_IN_ORDER:
            ways[way] = times([s for s in starts.samples if (s.way, s.nodes, s.at_once) == (way, count, at_once)])
        told.append({"nodes": count, "at_once": at_once, "ways": ways, "compared": compared(ways)})
    return told


def say(line: str) -> None:
    """Show progress."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


async def measure(options: argparse.Namespace, python: str) -> dict[str, Any]:
    """Measure on each number of nodes."""
    starts, more = Starts(), {}
    for count in options.nodes:
        more[f"{count} nodes"] = await measure_starts(options, python, count, starts)
    samples = [{name: _finite(value) for name, value in asdict(sample).items()} for sample in starts.samples]
    return {"summary": summary(starts), **more, "memory": starts.memory, "samples": samples}


def _finite(value: Any) -> Any:
    return (round(value, 4) if math.isfinite(value) else None) if isinstance(value, float) else value


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="Measure starts, polls and faults beside sshspawner.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 4], help="how many nodes, one after the other")
    parser.add_argument("--bursts", default="1x7,10x3,60x1", help="how many at once, and how often each")
    parser.add_argument(
        "--ways", nargs="+", default=list(WAYS_IN_ORDER), choices=WAYS_IN_ORDER, help="what is measured"
    )
    parser.add_argument("--idle-seconds", type=float, default=30, help="how long idle zygotes are looked at")
    parser.add_argument("--polls", type=int, default=100, help="servers to poll")
    parser.add_argument("--fault-seconds", type=float, default=90, help="how long a fault may stay unnoticed")
    parser.add_argument("--no-faults", dest="faults", action="store_false", help="starts only")
    parser.add_argument("--quick", action="store_true", help="a short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.quick:
        options.nodes, options.bursts, options.idle_seconds, options.faults = [1], "1x1,4x1", 5, False
    options.bursts = [tuple(map(int, each.split("x"))) for each in options.bursts.split(",")]
    return options


def main() -> int:
    """Run the benchmark and write the result."""
    options = arguments()
    if reason := netns.why_not():
        say(f"not measured: {reason}")
        return 0
    python = install_peer(ROOT / ".cache" / "bench-sshspawner")
    facts = provenance(options, ("jupyterhub", "jupyter_server", "jupyterlab", "ipykernel", "asyncssh", "numpy"))
    facts["peer"] = {"requirements": PEER_REQUIREMENTS, "repairs": "benchmark/peers/sshspawner_repaired.py"}
    result = {"provenance": facts, **asyncio.run(measure(options, python))}
    output = options.output or output_path("spawning")
    output.write_text(json.dumps(result, indent=1) + "\n")
    shown = {key: value for key, value in result.items() if key not in ("samples", "memory")}
    sys.stdout.write(json.dumps(shown, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
