"""Record a trace of tasks: let a farm execute a mixed load, and write down what its nodes reported and what was asked.

A real Hub with its services and four real nodes (the demo's: SSH servers on this machine, noded, Jupyter servers,
kernels). Six agents submit notebooks at random moments: some wait, some keep one core busy, some two, some hold memory.
Whatever else runs on the machine meanwhile is in the reports too, and meant to be. Kept are times, numbers and the
names that the farm's parts have here; no path, no address, no content.

Run it with ``.venv/bin/python benchmark/traces/record.py``; it writes ``benchmark/traces/tasks-<date>.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import random
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests")]

import aiohttp  # noqa: E402
from provenance import provenance  # noqa: E402
from tasks_hub import AWAY, ENDED, TasksHub, tasks_hub  # noqa: E402

from jupyterhub_agentfarm.errors import AgentFarmError  # noqa: E402

NODES, AGENTS = 4, 6
#: Between two reports of a node that are kept, in seconds.
REPORT_SECONDS = 2.0
_SPIN = """\
import time
end = time.process_time() + {seconds} / 2
while time.process_time() < end:
    pass"""
_SPIN_TWICE = """\
import subprocess, sys
loop = 'import time\\nwhile time.process_time() < {seconds} / 3: pass'
[each.wait() for each in [subprocess.Popen([sys.executable, '-c', loop]) for _ in range(2)]]"""
#: Cores that each kind keeps busy, and the cell that does it for about a number of seconds.
KINDS = {
    "waits": (1, "import time\ntime.sleep({seconds})"),
    "one core": (1, _SPIN),
    "two cores": (2, _SPIN_TWICE),
    "memory": (1, "import time\nheld = bytearray(200 * 2**20)\ntime.sleep({seconds})"),
}
ABOUT = """\
Recorded by benchmark/traces/record.py on a farm that executed a mixed load: a real Hub, its services and four real
nodes, which were all on one machine and so reported the same load.
seconds: since the beginning. reports: what each node said of itself. tasks: when each was submitted, and when its
notebook began and ended on its node, by the farm's own book; cores: how many its notebook kept busy.
Other work ran on the machine at the same time and is in the load, as on machines that others use too."""


@dataclass
class Recording:
    """What was seen so far."""

    began_at: float = field(default_factory=time.time)
    reports: list[list[Any]] = field(default_factory=list)
    kept_at: dict[str, float] = field(default_factory=dict)
    #: What was asked, by task.
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)

    def report(self, node: dict[str, Any]) -> None:
        """Keep a node's report, unless the last one kept is newer than some seconds."""
        told, now = node.get("telemetry"), time.time()
        if told is None or now - self.kept_at.get(node["name"], 0) < REPORT_SECONDS:
            return
        self.kept_at[node["name"]] = now
        ratio, memory = told["cpu_utilization_ratio"], told["memory_available_bytes"] // 2**20
        self.reports.append(
            [round(now - self.began_at, 1), node["name"], round(ratio or 0, 3), round(told["load1"], 2), memory]
        )


async def listen(site: TasksHub, recording: Recording) -> None:
    """Keep what the nodes report."""
    while True:
        with suppress(AgentFarmError):
            async for event, data in site.hub.farm.events():
                if event == "node":
                    recording.report(data)
        await asyncio.sleep(0.5)


async def submit(site: TasksHub, recording: Recording, options: argparse.Namespace) -> None:
    """Submit the mixed load."""
    dice = random.Random(options.seed)  # noqa: S311 - a load
    for number in range(options.tasks):
        agent, kind = dice.randrange(AGENTS), dice.choice(list(KINDS))
        cores, cell = KINDS[kind]
        seconds, priority = round(min(60.0, dice.lognormvariate(2.3, 0.7)), 1), dice.choice((0, 0, 0, -5))
        asked = {"agent": agent, "kind": kind, "cores": cores, "priority": priority}
        asked["submitted_seconds"] = round(time.time() - recording.began_at, 2)
        fields = {"priority": priority, "idempotency_key": str(number)}
        task = await patiently(site, f"agent-{agent}", cell.format(seconds=seconds), fields)
        recording.asked[task] = asked
        await asyncio.sleep(dice.expovariate(options.tasks / options.seconds))


async def patiently(site: TasksHub, agent: str, cell: str, fields: dict[str, Any]) -> str:
    """Submit a notebook to the service, which may be slow where much else goes on; return the task's id."""
    for _ in range(10):
        with suppress(OSError, TimeoutError, aiohttp.ClientError):
            return await site.submit(agent, cell, **fields)
        await asyncio.sleep(0.5)
    raise RuntimeError("the service does not answer")


async def ended(site: TasksHub, task: str) -> dict[str, Any] | None:
    """Return the one attempt of a task that completed it, or None."""
    while True:
        with suppress(*AWAY):
            view = await site.task(task)
            if view["state"] in ENDED:
                return dict(view["attempts"][-1]) if view["state"] == "completed" else None
        await asyncio.sleep(1)


async def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the recording of one farm."""
    lines = f"c.Dispatcher.max_executing = {options.at_once}\nc.WarmServers.keep_warm = 20\n"
    async with tasks_hub(NODES, lines) as site:
        for number in range(AGENTS):
            await site.register(f"agent-{number}", limits={"servers": 3, "gpus": 1})
        recording = Recording()
        listening = asyncio.create_task(listen(site, recording))
        await submit(site, recording, options)
        attempts = {task: await ended(site, task) for task in recording.asked}
        seconds = round(time.time() - recording.began_at, 1)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        nodes = {view["name"]: {"cores": view["telemetry"]["cpus"]} for view in await site.hub.farm.nodes()}
    return written(recording, attempts, nodes, seconds)


def written(recording: Recording, attempts: dict[str, Any], nodes: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return what is kept of a recording."""
    columns = ["submitted_seconds", "agent", "kind", "cores", "priority", "node", "running_seconds", "ended_seconds"]
    rows = []
    for task, asked in recording.asked.items():
        if (attempt := attempts[task]) is not None:
            moments = (round(attempt[name] - recording.began_at, 2) for name in ("running_at", "ended_at"))
            known = asked | {"node": attempt["node"]} | dict(zip(columns[-2:], moments, strict=True))
            rows.append([known[name] for name in columns])
    reports = ["seconds", "node", "cpu_utilization_ratio", "load1", "memory_available_mib"]
    return {
        "nodes": nodes,
        "seconds": seconds,
        "left_out_tasks": len(recording.asked) - len(rows),
        "reports": {"columns": reports, "rows": recording.reports},
        "tasks": {"columns": columns, "rows": rows},
    }


def main() -> int:
    """Record, and write the file."""
    parser = argparse.ArgumentParser(description="Record a trace of tasks.")
    parser.add_argument("--tasks", type=int, default=60, help="notebooks that are submitted")
    parser.add_argument("--seconds", type=float, default=240, help="over about so long")
    parser.add_argument("--at-once", type=int, default=10, help="most tasks that execute at a time")
    parser.add_argument("--seed", type=int, default=1, help="of the load")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    facts = provenance(options, ("jupyterhub", "jupyter_server", "ipykernel"))
    told = {"about": ABOUT.splitlines(), "provenance": facts, **asyncio.run(record(options))}
    output = options.output or HERE / f"tasks-{dt.datetime.now(dt.UTC):%Y-%m-%d}.json"
    lines = json.dumps(told, indent=1).replace("[\n    ", "[").replace(",\n    ", ", ").replace("\n   ]", "]")
    output.write_text(lines + "\n")
    sys.stdout.write(f"{len(told['tasks']['rows'])} tasks and {len(told['reports']['rows'])} reports: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
