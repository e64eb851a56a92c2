"""How soon an agent that has nothing running gets a first result: through MCP, and as a task; cold and warm.

==========  ===========================================================================================================
``mcp``     `start_server`, and `execute_code` with `import numpy`, by the MCP SDK's own client
``again``   `execute_code` with a second kernel on that server
``task``    a notebook of one cell with `import numpy`, from its submission to its completion, on a server of its own
==========  ===========================================================================================================

Two agents take turns on one Hub with one node of this machine. The servers and kernels of one are started cold, with
the shortcuts of a server's start; those of the other are forked.

Run it with ``.venv/bin/python benchmark/agent_starts.py`` (some minutes; ``--quick`` for a try). It writes
``benchmark/results/agent_starts-<date>.json``. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from provenance import output_path, provenance, spread
from spawning_setup import WAY_HOOK, WAYS

# isort: split
from mcp_client import mcp_session  # in tests/, which spawning_setup has put into the path
from tasks_hub import TasksHub, tasks_hub
from waiting import eventually

PACKAGES = ("mcp", "jupyterhub", "jupyter_server", "ipykernel", "nbclient", "numpy")
CODE = "import numpy; print(float(numpy.arange(3).sum()))"
#: No task's server waits for the next task: each start is one.
LINES = "c.WarmServers.keep_warm = 0\n"
WARM_SECONDS = 300
COMPARED = ("cold", "warm")
Samples = dict[str, dict[str, list[float]]]


async def through_mcp(site: TasksHub, agent: str) -> dict[str, float]:
    """Return the seconds to the first result of an agent without a server, and to that of a second kernel."""
    async with mcp_session(f"{site.hub.url}/services/agents/mcp", site.tokens[agent]) as session:
        began = time.perf_counter()
        await session.data("start_server", wait_seconds=120)
        started = time.perf_counter() - began
        first = await session.code(CODE)
        ended = time.perf_counter() - began
        assert first["status"] == "ok", first
        began = time.perf_counter()
        await session.code(CODE, kernel="second")
        again = time.perf_counter() - began
    await site.hub.stop_server(agent)
    return {"mcp_server_seconds": started, "mcp_first_result_seconds": ended, "mcp_second_kernel_seconds": again}


async def as_task(site: TasksHub, agent: str) -> dict[str, float]:
    """Return the seconds from a task's submission to its completion."""
    began = time.perf_counter()
    view = await site.ended(await site.submit(agent, CODE), 300)
    assert view["state"] == "completed", view
    return {"task_seconds": time.perf_counter() - began}


async def until_warm(site: TasksHub) -> None:
    """Have a server started, so that the node begins to keep its environment warm, and wait for that."""
    await through_mcp(site, "warm-bot")

    async def warm() -> bool:
        told = [(node["telemetry"] or {}).get("warm_starts") for node in await site.hub.farm.nodes()]
        return all(each and each["state"] == "warm" for each in told)

    await eventually(warm, "the node starts servers warm", WARM_SECONDS, 0.5)


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start a Hub, measure, stop."""
    samples: Samples = {way: defaultdict(list) for way in COMPARED}
    async with tasks_hub(1, LINES + WAY_HOOK.format(ways=WAYS), warm=True) as site:
        for way in COMPARED:
            await site.register(f"{way}-bot")
        await until_warm(site)
        for number in range(options.rounds):
            for way in COMPARED if number % 2 else COMPARED[::-1]:
                figures = await through_mcp(site, f"{way}-bot") | await as_task(site, f"{way}-bot")
                for name, seconds in figures.items():
                    samples[way][name].append(round(seconds, 4))
                sys.stderr.write(f"{way}: {figures}\n")
        started = [(node["telemetry"] or {}).get("warm_starts") for node in await site.hub.farm.nodes()]
    medians = {way: {name: spread(values) for name, values in by.items()} for way, by in samples.items()}
    ratios = {
        name: round(medians["cold"][name]["median"] / medians["warm"][name]["median"], 2) for name in medians["warm"]
    }
    return {"figures": medians, "cold_over_warm": ratios, "started": started, "samples": samples}


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure an agent's first result, cold and warm.")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind")
    parser.add_argument("--quick", action="store_true", help="one short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    result = {"provenance": provenance(options, PACKAGES), **asyncio.run(measure(options))}
    output = options.output or output_path("agent_starts")
    output.write_text(json.dumps(result, indent=1) + "\n")
    shown = {key: result[key] for key in ("figures", "cold_over_warm")}
    sys.stdout.write(json.dumps(shown, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
