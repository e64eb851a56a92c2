"""What the benchmark's runner adds to a notebook: a run through the farm beside papermill by hand on the same node.

A run of the benchmark service on one node, with a suite whose only case is a notebook of ten cells that take a minute
together and compute nothing, and papermill with the same notebook, in turns. Of a run is told how long the notebook
took on the node, how long the case took as the service saw it (submission, following and results included), and how
long the whole run took with its server's start and end. Papermill has a virtual environment of its own with the same
interpreter; its start is part of its time, as it is when somebody types the command.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
from provenance import output_path, provenance, spread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from configured_hub import configured
from hub_process import HubProcess, hub_process
from jupyter_server_process import notebook
from ssh_node import ssh_node
from tasks import by_hand, install_papermill, say, work
from waiting import eventually

PACKAGES = ("jupyterhub", "jupyter_server", "nbclient", "ipykernel", "aiohttp")
GOAL_RATIO = 1.05
SUITE = """
name = "overhead"
title = "Overhead"
sample_interval_seconds = 2
[[case]]
name = "minute"
notebook = "minute.ipynb"
"""
Figures = dict[str, Any]


def write_suite(folder: Path, seconds: float) -> None:
    """Write the suite and its notebook."""
    (folder / "overhead.toml").write_text(SUITE)
    (folder / "minute.ipynb").write_text(json.dumps(notebook(*work(seconds))))


async def ask(hub: HubProcess, method: str, path: str, body: Any = None) -> Any:
    """Return the decoded answer of the benchmark service."""
    url = f"{hub.url}/services/benchmark/api/v1/{path}"
    async with hub.http.request(method, url, json=body, headers=hub.headers()) as answer:
        found = await answer.json()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {found['message']}")
        return found


async def run(hub: HubProcess) -> Figures:
    """Carry out one run; return its seconds."""
    began = time.perf_counter()
    run_id = (await ask(hub, "POST", "runs", {"suite": "overhead", "nodes": ["n1"]}))["id"]

    async def ended() -> Any:
        view = await ask(hub, "GET", f"runs/{run_id}")
        return view if view["state"] not in ("starting", "running") else None

    view = await eventually(ended, "the run has ended", timeout=600, interval=0.2)
    whole = time.perf_counter() - began
    (result,) = view["results"]
    if result["outcome"] != "succeeded":
        raise RuntimeError(f"the case is {result['outcome']}: {result['reason']}")
    case = result["ended_at"] - result["started_at"]
    return {"on_the_node": result["duration_seconds"], "case": case, "whole_run": whole}


async def measure(options: argparse.Namespace) -> Figures:
    """Return the figures."""
    taken: dict[str, list[float]] = {"papermill": [], "on_the_node": [], "case": [], "whole_run": []}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="afbench")))
        write_suite(folder, options.seconds)
        command = await asyncio.to_thread(install_papermill, folder / "venv")
        node = await stack.enter_async_context(ssh_node("n1", "127.0.0.11", sys.executable))
        kind = configured(f"c.BenchmarkApp.suites_dirs = [{str(folder)!r}]\n")
        services = {"AGENTFARM_SERVICES": "agentfarm,benchmark"}
        hub = await stack.enter_async_context(hub_process([node.spec], kind=kind, **services))

        async def known() -> bool:
            suites = (await ask(hub, "GET", "suites"))["suites"]
            return any(suite["name"] == "overhead" for suite in suites) and any(
                view["eligible"] for view in await hub.farm.nodes()
            )

        await eventually(known, "the node takes servers and the suite is there", timeout=60, interval=0.2)
        for number in range(options.repetitions):
            for name, seconds in (await run(hub)).items():
                taken[name].append(seconds)
            taken["papermill"].append(await by_hand(command, folder, work(options.seconds)))
            say(f"round {number + 1}: case {taken['case'][-1]:.2f} s, papermill {taken['papermill'][-1]:.2f} s")
    seconds = {name: spread(values) for name, values in taken.items()}
    ratio = seconds["case"]["median"] / seconds["papermill"]["median"]
    return {
        "seconds": seconds,
        "case_by_papermill": round(ratio, 4),
        "on_the_node_by_papermill": round(seconds["on_the_node"]["median"] / seconds["papermill"]["median"], 4),
        "case_overhead_seconds": round(seconds["case"]["median"] - options.seconds, 3),
        "papermill_overhead_seconds": round(seconds["papermill"]["median"] - options.seconds, 3),
        "goal": {"ratio": GOAL_RATIO, "held": ratio <= GOAL_RATIO},
    }


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure what the benchmark's runner adds to a notebook.")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds that the notebook takes")
    parser.add_argument("--repetitions", type=int, default=3, help="rounds")
    parser.add_argument("--quick", action="store_true", help="a short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.repetitions = 5.0, 1
    facts = provenance(options, PACKAGES) | {"memory_bytes": psutil.virtual_memory().total}
    result = {"provenance": facts, **asyncio.run(measure(options))}
    output = options.output or output_path("runner_overhead")
    output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
