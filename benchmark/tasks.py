"""Tasks of agents: what the store does in a second, what the farm adds to a notebook, and how soon a death is mended.

store       1,000 trivial tasks through the book of tasks on SQLite: submitted, and claimed and completed
trace       the dispatcher's choice and the controller's placement on nodes of unlike load, beside blind ways
papermill   a notebook as a task on a warm server, beside papermill by hand on the node, both at the same time
trivial     notebooks of one empty cell, one after the other on warm servers
throughput  1,000 such notebooks of several agents, end to end (tasks_throughput.py)
death       from a node's death to its task executing elsewhere
crowd       many registered agents, of which many have a request in the controller's line: API and memory

Nodes are the demo's: SSH servers on this machine, so everything shares its cores. Papermill has a virtual environment
of its own with the same interpreter. A task's time is from its submission to its completion, as the submitter sees it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from provenance import output_path, provenance, spread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from jupyter_server_process import notebook
from tasks_hub import TasksHub, tasks_hub
from tasks_recorded import recorded, recordings
from tasks_throughput import throughput
from tasks_trace import BLIND, Scene, blind_trace, farm_trace, made_up
from waiting import eventually

from jupyterhub_agentfarm.agents.models import TaskRequest
from jupyterhub_agentfarm.agents.tasks.book import TaskBook
from jupyterhub_agentfarm.inventory.database import Database

PACKAGES = ("jupyterhub", "jupyter_server", "nbclient", "ipykernel", "sqlalchemy", "aiohttp")
Figures = dict[str, Any]


def say(line: str) -> None:
    """Tell how far it is."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


# ---------------------------------------------------------------- the store


async def store(options: argparse.Namespace) -> Figures:
    """Return tasks a second of the book of tasks."""
    rates: dict[str, list[float]] = {"submitted": [], "claimed_and_completed": [], "with_eight_at_a_time": []}
    for _ in range(options.repetitions):
        with tempfile.TemporaryDirectory(prefix="afbench") as folder:
            database = Database(f"sqlite:///{folder}/tasks.sqlite")
            book = TaskBook(database, Path(folder) / "files")
            await book.open()
            for name, at_a_time in (("claimed_and_completed", 1), ("with_eight_at_a_time", 8)):
                began = time.perf_counter()
                ids = await submitted(book, options.tasks)
                if name == "claimed_and_completed":
                    rates["submitted"].append(options.tasks / (time.perf_counter() - began))
                began = time.perf_counter()
                await asyncio.gather(*(completed(book, ids[each::at_a_time]) for each in range(at_a_time)))
                rates[name].append(options.tasks / (time.perf_counter() - began))
            counts = await book.counts()
            assert counts["completed"] == 2 * options.tasks, counts
            await book.aclose()
            await database.aclose()
    return {f"{name}_per_second": spread(values, 1) for name, values in rates.items()}


async def submitted(book: TaskBook, count: int) -> list[str]:
    """Submit tasks; return their ids."""
    request = TaskRequest(path="n.ipynb")
    made = await asyncio.gather(*(book.submit(request, f"agent-{i % 10}", "bench", None) for i in range(count)))
    return [task.id for task, _ in made]


async def completed(book: TaskBook, ids: list[str]) -> None:
    """Claim and complete tasks, one after the other."""
    for task_id in ids:
        _, attempt = await book.claim(task_id)
        await book.finish(attempt, "completed")


# ---------------------------------------------------------------- the trace


async def trace(options: argparse.Namespace) -> Figures:
    """Return the figures of every way on the same traces: made up from seeds, and recorded on a farm."""
    seeds = range(options.seed, options.seed + options.traces)
    scenes = [made_up(seed, options.trace_tasks) for seed in seeds]
    return {
        "made_up": await ways_on(scenes, options.seed),
        "recorded": await ways_on([recorded(path) for path in recordings()], options.seed),
    }


async def ways_on(scenes: list[Scene], seed: int) -> dict[str, list[Figures]]:
    """Return the figures of every way, one for each scene."""
    ways: dict[str, list[Figures]] = {"agentfarm": []}
    for scene in scenes:
        with tempfile.TemporaryDirectory(prefix="afbench") as folder:
            ways["agentfarm"].append((await farm_trace(scene, Path(folder)))[0])
        for way in BLIND:
            ways.setdefault(way, []).append(await asyncio.to_thread(blind_trace, scene, way, seed))
    say(f"{len(scenes)} traces played")
    return ways


# ---------------------------------------------------------------- on real nodes


async def duration(hub: TasksHub, *cells: str, agent: str = "bot", **fields: Any) -> float:
    """Return the seconds from a task's submission to its completion."""
    began = time.perf_counter()
    task = await hub.submit(agent, *cells, **fields)
    view = await hub.ended(task, 300)
    if view["state"] != "completed":
        raise RuntimeError(f"task {task} is {view['state']}: {view['detail']}")
    return time.perf_counter() - began


def work(seconds: float) -> tuple[str, ...]:
    """Return ten cells that take so long together and compute nothing."""
    return tuple(f"import time\ntime.sleep({seconds / 10})\nprint({cell})" for cell in range(10))


def install_papermill(folder: Path) -> list[str]:
    """Return papermill's command in a virtual environment of its own."""
    say("installing papermill into an environment of its own")
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "-q", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "papermill", "ipykernel"], check=True, timeout=600)
    return [str(folder / "bin" / "papermill"), "--no-progress-bar", "--kernel", "python3"]


async def by_hand(command: list[str], folder: Path, cells: tuple[str, ...]) -> float:
    """Return the seconds that papermill takes for a notebook."""
    path = folder / "by_hand.ipynb"
    path.write_text(
        json.dumps(notebook(*cells, kernelspec={"name": "python3", "display_name": "", "language": "python"}))
    )
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, str(path), str(folder / "out.ipynb"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
    )
    if await process.wait():
        raise RuntimeError("papermill failed")
    return time.perf_counter() - began


async def papermill(hub: TasksHub, options: argparse.Namespace) -> Figures:
    """Return what a task takes beside papermill by hand, for notebooks of several lengths."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="afbench") as text:
        folder = Path(text)
        command = await asyncio.to_thread(install_papermill, folder / "venv")
        cold = [await duration(hub, *work(1))]
        for seconds in options.lengths:
            ours, theirs = [], []
            for _ in range(options.repetitions):
                # At once, so that what else goes on on the machine meets both; nearly all of it is waiting.
                pair = duration(hub, *work(seconds)), by_hand(command, folder, work(seconds))
                for kept, taken in zip((ours, theirs), await asyncio.gather(*pair), strict=True):
                    kept.append(taken)
            ratio = sorted(ours)[len(ours) // 2] / sorted(theirs)[len(theirs) // 2]
            figures[f"{seconds:g} s"] = {
                "task_seconds": spread(ours),
                "papermill_seconds": spread(theirs),
                "ratio_of_medians": round(ratio, 3),
                "overhead_seconds": round(sorted(ours)[len(ours) // 2] - seconds, 3),
            }
            say(f"notebooks of {seconds:g} s: {ratio:.3f} of papermill's time")
    return {"first_task_with_its_server's_start_of_a_1_s_notebook": spread(cold), "notebooks": figures}


async def trivial(hub: TasksHub, options: argparse.Namespace) -> Figures:
    """Return how long notebooks of one empty cell take, and how many a second a burst of them makes."""
    seconds = [await duration(hub, "None") for _ in range(options.trivial)]
    began = time.perf_counter()
    await asyncio.gather(*(duration(hub, "None") for _ in range(options.trivial)))
    return {"seconds": spread(seconds), "burst_tasks_per_second": options.trivial / (time.perf_counter() - began)}


async def death(hub: TasksHub, options: argparse.Namespace) -> Figures:
    """Return the seconds from a node's death to its task being known as lost, and executing elsewhere."""
    lost, elsewhere = [], []
    with tempfile.TemporaryDirectory(prefix="afbench") as folder:
        for number in range(options.deaths):
            go = Path(folder) / f"go{number}"
            task = await hub.submit(
                "bot", f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.1)"
            )
            node = (await hub.running(task))["attempts"][0]["node"]
            await hub.lose_power(node)
            died_at = time.time()
            view = await hub.running(task, 2, 120)
            lost.append(view["attempts"][0]["ended_at"] - died_at)
            elsewhere.append(view["attempts"][1]["running_at"] - died_at)
            go.touch()
            await hub.ended(task)
            await hub.nodes[node].start()
            await hub.ready()
            say(f"a node died: known after {lost[-1]:.1f} s, elsewhere after {elsewhere[-1]:.1f} s")
    return {"known_as_lost_seconds": spread(lost), "executing_elsewhere_seconds": spread(elsewhere)}


async def crowd(hub: TasksHub, options: argparse.Namespace) -> Figures:
    """Return the API's times and the service's memory, with many agents and many requests in line."""
    before = hub.service().memory_info().rss
    began = time.perf_counter()
    names = [f"member-{number}" for number in range(options.agents)]
    for name in names:
        await hub.register(name)
    registering = (time.perf_counter() - began) / options.agents
    for node in hub.nodes:
        await hub.hub.farm.cordon(node, "benchmark")
    tasks = [await hub.submit(name, "None") for name in names[: options.queued]]

    async def all_wait() -> bool:
        return len(await hub.hub.farm.queue()) >= options.queued

    await eventually(all_wait, "all wait in the line", 300, 0.5)
    requests: dict[str, Callable[[], Awaitable[Any]]] = {
        "list of tasks": lambda: hub.request("GET", "tasks?limit=100"),
        "list of agents": lambda: hub.request("GET", "agents"),
        "one task": lambda: hub.task(tasks[0]),
        "submission": lambda: hub.submit(names[-1], "None"),
    }
    figures = {name: spread(await _timed(each, options.requests), 2) for name, each in requests.items()}
    return {
        "agents": options.agents,
        "requests_in_line": options.queued,
        "registration_seconds_each": round(registering, 3),
        "api_milliseconds": figures,
        "memory_mib": {"before": round(before / 2**20, 1), "after": round(hub.service().memory_info().rss / 2**20, 1)},
    }


async def _timed(request: Callable[[], Awaitable[Any]], count: int) -> list[float]:
    """Return the milliseconds of requests, four at a time."""
    taken: list[float] = []

    async def some() -> None:
        for _ in range(count // 4):
            began = time.perf_counter()
            await request()
            taken.append((time.perf_counter() - began) * 1e3)

    await asyncio.gather(*(some() for _ in range(4)))
    return taken


@asynccontextmanager
async def demo_hub(lines: str, nodes: int = 2) -> AsyncIterator[TasksHub]:
    """Run a Hub with its agents service and nodes."""
    async with tasks_hub(nodes, lines, warm=True) as hub:
        yield hub


async def on_nodes(options: argparse.Namespace) -> Figures:
    """Return the figures that need a Hub and nodes."""
    figures: Figures = {}
    if {"papermill", "trivial"} & set(options.parts):
        async with demo_hub("c.WarmServers.keep_warm = 600\nc.Carriers.poll_interval = 1\n") as hub:
            if "papermill" in options.parts:
                figures["papermill"] = await papermill(hub, options)
            if "trivial" in options.parts:
                figures["trivial"] = await trivial(hub, options)
    if "throughput" in options.parts:
        warm = f"c.WarmServers.keep_warm = 600\nc.WarmServers.max_warm = {options.mills}\n"
        async with demo_hub(warm) as hub:
            figures["throughput"] = await throughput(hub, options.tasks, options.mills)
            say(f"throughput: {json.dumps(figures['throughput'])}")
    if "death" in options.parts:
        async with demo_hub("c.WarmServers.keep_warm = 0\n", 3) as hub:
            figures["death"] = await death(hub, options)
    if "crowd" in options.parts:
        limits = f"c.Dispatcher.max_executing = {options.queued}\nc.Dispatcher.max_waiting = {options.queued}\n"
        async with demo_hub(limits, 1) as hub:
            figures["crowd"] = await crowd(hub, options)
    return figures


async def measure(options: argparse.Namespace) -> Figures:
    """Return all figures."""
    figures: Figures = {}
    for name, part in (("store", store), ("trace", trace)):
        if name in options.parts:
            figures[name] = await part(options)
            say(f"{name}: {json.dumps(figures[name])}")
    return figures | await on_nodes(options)


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure tasks of agents.")
    parts = ["store", "trace", "papermill", "trivial", "throughput", "death", "crowd"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts, help="what is measured")
    parser.add_argument("--tasks", type=int, default=1000, help="tasks of the store's round, and of the throughput")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds of the store, and of each notebook")
    parser.add_argument("--lengths", type=float, nargs="+", default=[2, 10, 60], help="seconds that notebooks take")
    parser.add_argument("--trivial", type=int, default=20, help="notebooks of an empty cell")
    parser.add_argument("--mills", type=int, default=4, help="agents of the throughput, each with a warm server")
    parser.add_argument("--deaths", type=int, default=3, help="nodes that die")
    parser.add_argument("--agents", type=int, default=200, help="registered agents of the crowd")
    parser.add_argument("--queued", type=int, default=50, help="requests of the crowd in line")
    parser.add_argument("--requests", type=int, default=400, help="requests of each kind to the API")
    parser.add_argument("--traces", type=int, default=3, help="traces, each with another seed")
    parser.add_argument("--trace-tasks", type=int, default=300, help="tasks of each trace")
    parser.add_argument("--seed", type=int, default=20261, help="seed of the first trace")
    parser.add_argument("--quick", action="store_true", help="a short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.quick:
        options.tasks, options.repetitions, options.lengths, options.trivial, options.deaths = 100, 1, [2], 3, 1
        options.mills = 2
        options.agents, options.queued, options.requests, options.traces, options.trace_tasks = 5, 3, 20, 1, 40
    facts = provenance(options, PACKAGES) | {"memory_bytes": psutil.virtual_memory().total}
    result = {"provenance": facts, **asyncio.run(measure(options))}
    output = options.output or output_path("tasks")
    output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
