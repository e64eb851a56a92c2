"""#21: ten agents run two hundred tasks on four nodes while nodes, the agents service and the Hub are killed.

Every task is a notebook of notebooks/, executed for real on nodes that are separate hosts. What happens is decided by
how many tasks are completed: a node loses its power and comes back, the agents service is killed, the Hub is killed,
another node loses its power. What runs is read from /proc, not asked of the farm. At the end every task is completed,
none was executed twice at one moment, and none was completed twice.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from faults import faults
from faults.agents_api import AWAY, AgentsApi
from faults.farm import FaultFarm, fault_farm
from netns import NetnsNode

from jupyterhub_agentfarm.share import share_path

AGENTS, TASKS = 10, int(os.environ.get("FAULTS_TASKS", "200"))
PATIENCE_SECONDS = 1500
SETTINGS: dict[str, dict[str, Any]] = {
    "Inventory": {"down_after": 15},
    # All nodes share this machine's two cores, and report them busy: the filter of cores would let nothing start.
    "TaskServers": {"cpus": 0},
    "Dispatcher": {"max_executing": 6, "max_waiting": 2},
}
#: Notebooks of the project, with parameters that make them short.
NOTEBOOKS: tuple[tuple[str, dict[str, object]], ...] = (
    ("digits_classifier.ipynb", {"scale": 0.5, "min_accuracy": 0.8}),
    ("linear_algebra.ipynb", {"scale": 0.1, "size": 256}),
    ("first_server.ipynb", {}),
)

pytestmark = pytest.mark.timeout(PATIENCE_SECONDS + 300)


@dataclass
class Watched:
    """What was seen on the nodes and when, in seconds since the beginning."""

    begun: float = field(default_factory=time.monotonic)
    #: Task and attempt of every kernel that was seen.
    seen: set[tuple[str, str]] = field(default_factory=set)
    doubles: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Write down what happened now."""
        self.log.append(f"{time.monotonic() - self.begun:7.1f} s  {text}")
        sys.stderr.write(self.log[-1] + "\n")

    def keep(self) -> None:
        """Write what happened beside the table of figures."""
        if path := os.environ.get("FAULTS_RESULTS"):
            Path(f"{path}-tasks.log").write_text("\n".join(self.log) + "\n")

    async def look(self) -> None:
        """Note every task that two attempts of run at one moment."""
        while True:
            running = await asyncio.to_thread(kernels)
            attempts = defaultdict(set)
            for task, attempt in running:
                attempts[task].add(attempt)
            self.doubles |= {task for task, found in attempts.items() if len(found) > 1}
            self.seen |= running
            await asyncio.sleep(0.2)


def kernels() -> set[tuple[str, str]]:
    """Return task and attempt of every process on the nodes that belongs to a task's kernel."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            environ = (entry / "environ").read_bytes()
            if b"AGENTFARM_TASK_ID=" in environ:
                values = dict(part.split(b"=", 1) for part in environ.split(b"\0") if b"=" in part)
                found.add((values[b"AGENTFARM_TASK_ID"].decode(), values[b"AGENTFARM_ATTEMPT"].decode()))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run four nodes of two GPUs, and the agents service."""
    async with fault_farm(4, 2, SETTINGS, services="agentfarm,agents") as running:
        yield running


async def test_tasks_are_completed_whatever_dies(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """All tasks are completed although nodes, service and Hub were killed; none twice at a time, none lost."""
    api, watched = AgentsApi(farm.hub), Watched()
    await api.answered()
    tasks = await submitted(api)
    watched.say(f"{len(tasks)} tasks of {AGENTS} agents submitted")
    looking = asyncio.create_task(watched.look())
    misfortunes = asyncio.create_task(misfortune(farm, api, watched, tasks))
    try:
        states = await all_ended(api, watched, tasks)
        await asyncio.wait_for(misfortunes, 120)
    finally:
        for work in (looking, misfortunes):
            work.cancel()
        await asyncio.gather(looking, misfortunes, return_exceptions=True)
    counts = Counter(states.values())
    views = [await api.task(task) for task in tasks]
    attempts = [attempt for view in views for attempt in view["attempts"]]
    outcomes = Counter(attempt["outcome"] for attempt in attempts)
    watched.say(f"states {dict(counts)}, attempts {dict(outcomes)}, seen on nodes: {len(watched.seen)} attempts")
    watched.keep()
    assert len(watched.seen) > len(tasks) / 2, "whoever watches for two at a time sees kernels"
    completions = Counter(attempt["task"] for attempt in attempts if attempt["outcome"] == "completed")
    again = seconds_until_elsewhere(views)
    ok = [
        figure(21, "tasks completed", counts["completed"], "", TASKS, "exactly"),
        figure(21, "tasks lost", len(set(tasks) - set(states)), "", 0, "exactly"),
        figure(21, "tasks completed twice", sum(count > 1 for count in completions.values()), "", 0, "exactly"),
        figure(21, "tasks that two attempts of ran at one moment", len(watched.doubles), "", 0, "exactly"),
        figure(21, "attempts lost with their node or server", len(again), "", 1, "at least"),
        figure(21, "from the loss to executing elsewhere, slowest", max(again, default=0), "s", 60),
    ]
    assert all(ok), (counts, outcomes, watched.doubles, [view for view in views if view["state"] != "completed"][:3])


async def submitted(api: AgentsApi) -> list[str]:
    """Register the agents and submit their tasks; return the tasks' ids."""
    limits = {"servers": 4, "gpus": 2}
    tokens = [await api.register(f"agent-{number}", limits=limits) for number in range(AGENTS)]
    documents = {name: json.loads((share_path("notebooks") / name).read_text()) for name, _ in NOTEBOOKS}
    tasks = []
    for number in range(TASKS):
        name, parameters = NOTEBOOKS[number // AGENTS % len(NOTEBOOKS)]
        options = {"gpus": 1} if number % AGENTS < AGENTS // 2 else {}
        tasks.append(
            await api.submit(
                tokens[number % AGENTS],
                name=f"{name} {number}",
                notebook=documents[name],
                parameters=parameters,
                options=options,
                max_attempts=10,
            )
        )
    return tasks


async def completed(api: AgentsApi, count: int) -> None:
    """Return when so many tasks are completed."""
    while True:
        with suppress(*AWAY, AssertionError):
            if Counter((await api.states()).values())["completed"] >= count:
                return
        await asyncio.sleep(0.5)


async def all_ended(api: AgentsApi, watched: Watched, tasks: list[str]) -> dict[str, str]:
    """Return the states once all tasks are in one that they do not leave."""
    deadline, last = time.monotonic() + PATIENCE_SECONDS, -1
    while True:
        with suppress(*AWAY, AssertionError):
            states = {task: state for task, state in (await api.states()).items() if task in tasks}
            counts = Counter(states.values())
            if counts["completed"] // 20 != last:
                last = counts["completed"] // 20
                watched.say(f"{dict(counts)}")
            if len(states) == len(tasks) and set(states.values()) <= {"completed", "cancelled", "discarded"}:
                return states
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {counts}"
        assert time.monotonic() < deadline + 60, "the service does not answer any more"
        await asyncio.sleep(1)


async def misfortune(farm: FaultFarm, api: AgentsApi, watched: Watched, tasks: list[str]) -> None:
    """Let the nodes, the service and the Hub die, each when so many tasks are completed."""
    await completed(api, len(tasks) // 10)
    await without_power(farm, farm.nodes[0], watched)
    await completed(api, 3 * len(tasks) // 10)
    kill_service(farm, watched)
    await api.answered()
    watched.say("the agents service answers again")
    await completed(api, len(tasks) // 2)
    watched.say("kill -9: the Hub")
    seconds = await farm.hub.restart()
    watched.say(f"the Hub is back after {seconds:.1f} s")
    await completed(api, 7 * len(tasks) // 10)
    await without_power(farm, farm.nodes[1], watched)


async def without_power(farm: FaultFarm, node: NetnsNode, watched: Watched) -> None:
    """Take a node's power until it is given up."""
    running = len(await asyncio.to_thread(kernels))
    await asyncio.to_thread(faults.power_off, node)
    watched.say(f"power off: {node.name}; tasks that ran on all nodes before: {running}")
    await farm.status_is("down", node.name, timeout=60)
    await asyncio.to_thread(faults.power_on, node)
    await farm.status_is("ready", node.name, timeout=60)
    watched.say(f"power on: {node.name}, ready again")


def kill_service(farm: FaultFarm, watched: Watched) -> None:
    """SIGKILL the agents service."""
    for process in farm.hub.services("agents"):
        process.kill()
        watched.say(f"kill -9: the agents service, process {process.pid}")


def seconds_until_elsewhere(views: list[dict[str, Any]]) -> list[float]:
    """Return, for each attempt that was lost, the seconds from its end to the start of the next one's run."""
    found = []
    for view in views:
        attempts = sorted(view["attempts"], key=lambda attempt: attempt["number"])
        for lost, following in itertools.pairwise(attempts):
            if lost["outcome"] in ("node_lost", "server_lost") and following["running_at"] is not None:
                found.append(following["running_at"] - lost["ended_at"])
    return found
