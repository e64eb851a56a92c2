"""How many trivial tasks a farm executes in a second, end to end, and what its processors do meanwhile.

Notebooks of one empty cell, of several agents, by the API and in order: what is counted is from the first submission to
the last completion. The agents' servers are warm, so each task is a kernel of its own in a server that runs. Processor
time is that of each part's own processes and of their children, by what the kernel counts.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
from ssh_node import noded_pid
from tasks_hub import TasksHub
from waiting import eventually

#: Submissions at a time.
_AT_A_TIME = 8
_PATIENCE_SECONDS = 1800
#: What the command line of a part's process has.
_PARTS = {
    "agents": "jupyterhub_agentfarm.agents",
    "controller": "jupyterhub_agentfarm.controller",
    "proxy": "configurable-http-proxy",
    "hub": "jupyterhub",
}


async def throughput(hub: TasksHub, tasks: int, agents: int) -> dict[str, Any]:
    """Return how many tasks of some agents a second were executed, and the processor seconds that a task took.

    Parameters
    ----------
    hub
        Its agents service must keep a warm server of each agent.
    tasks, agents
        Numbers of both.
    """
    names = [f"mill-{number}" for number in range(agents)]
    for name in names:
        await hub.register(name, limits={"servers": 1, "gpus": 0})
    await asyncio.gather(*(_one(hub, name) for name in names))  # their servers are warm now
    before, busy_before = await processor_seconds(hub), _busy_seconds()
    began = time.perf_counter()
    turns = iter([names[number % agents] for number in range(tasks)])
    await asyncio.gather(*(_submit_all(hub, turns) for _ in range(_AT_A_TIME)))
    submitted = time.perf_counter() - began
    await _all_completed(hub, tasks + agents)
    seconds = time.perf_counter() - began
    after, busy = await processor_seconds(hub), _busy_seconds() - busy_before
    used = {part: after[part] - before[part] for part in after}
    return {
        "tasks": tasks,
        "agents_with_one_warm_server_each": agents,
        "submission_seconds": round(submitted, 1),
        "seconds": round(seconds, 1),
        "tasks_per_second": round(tasks / seconds, 2),
        "processor_seconds_per_task": {part: round(value / tasks, 4) for part, value in sorted(used.items())},
        "processors_used_by_the_farm_ratio": round(sum(used.values()) / seconds / (psutil.cpu_count() or 1), 2),
        "processors_used_by_all_ratio": round(busy / seconds / (psutil.cpu_count() or 1), 2),
    }


async def _one(hub: TasksHub, name: str) -> None:
    view = await hub.ended(await hub.submit(name, "None"), 300)
    if view["state"] != "completed":
        raise RuntimeError(f"the first task of {name} is {view['state']}: {view['detail']}")


async def _submit_all(hub: TasksHub, agents: Iterator[str]) -> None:
    for name in agents:
        await hub.submit(name, "None")


async def _all_completed(hub: TasksHub, count: int) -> None:
    """Return when so many tasks of the mills are completed."""

    async def enough() -> bool:
        views = (await hub.request("GET", "agents"))["agents"]
        states: Counter[str] = Counter()
        for view in views:
            if view["name"].startswith("mill-"):
                states.update(view["tasks"])
        if states["discarded"] or states["cancelled"]:
            raise RuntimeError(f"not all are completed: {dict(states)}")
        return states["completed"] >= count

    await eventually(enough, f"{count} tasks are completed", _PATIENCE_SECONDS, 0.5)


async def processor_seconds(hub: TasksHub) -> dict[str, float]:
    """Return the processor time of each part of the farm until now, ended children included."""
    parts = dict.fromkeys((*_PARTS, "nodes' SSH and noded", "servers and kernels"), 0.0)
    for process in hub.hub.processes():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            part = next((part for part, mark in _PARTS.items() if mark in line), None)
            if part is not None:
                parts[part] += _of(process)
    for name, node in hub.nodes.items():
        daemons = [pid for pid in (node.process.pid if node.process else 0, noded_pid(node.state_dir)) if pid]
        parts["nodes' SSH and noded"] += sum(_of(psutil.Process(pid), children=False) for pid in daemons)
        servers = await hub.servers_on(name)
        running = itertools.chain.from_iterable((each, *each.children(recursive=True)) for each in servers)
        parts["servers and kernels"] += sum(map(_of, running))
    return parts


def _of(process: psutil.Process, *, children: bool = True) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return sum(times[:4] if children else times[:2])
    return 0.0


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait)
