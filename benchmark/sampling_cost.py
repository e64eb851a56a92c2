"""What telemetry costs a node: the processor time of a noded that samples, beside one that does not.

Both run at once on the same machine, each with simulated GPUs, a few idle servers and a subscriber as the controller
is one; one samples every two seconds, the other only at its start. What is read is the processor time of the two
processes over a minute, so other programs of the machine change little. A real GPU adds what its driver's library
takes; with `--gpus 0` and such a GPU in the machine, that is measured too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from provenance import output_path, provenance, spread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from noded_process import NodedProcess, running_noded

PACKAGES = ("psutil", "nvidia-ml-py")
#: So rarely that it does not happen while it is measured.
NEVER_SECONDS = 86_400.0
GOAL_RATIO = 0.01
Figures = dict[str, Any]


@asynccontextmanager
async def node(gpus: int, servers: int, interval_seconds: float) -> AsyncIterator[NodedProcess]:
    """Run a noded with idle servers."""
    async with running_noded(gpus, telemetry_interval=interval_seconds) as noded:
        for number in range(servers):
            await noded.launch(f"lease-{number}")
        yield noded


def used(noded: NodedProcess) -> float:
    """Return the processor seconds that noded itself has used; its servers are not counted."""
    assert noded.process is not None
    times = psutil.Process(noded.process.pid).cpu_times()
    return float(times.user + times.system)


async def measure(options: argparse.Namespace) -> Figures:
    """Return the figures."""
    with_, without, samples = [], [], []
    async with AsyncExitStack() as stack:
        sampling = await stack.enter_async_context(node(options.gpus, options.servers, options.interval))
        idle = await stack.enter_async_context(node(options.gpus, options.servers, NEVER_SECONDS))
        assert sampling.client is not None
        await asyncio.sleep(options.interval)  # what a start costs is not what is asked
        for _ in range(options.repetitions):
            before, count = (used(sampling), used(idle)), len(sampling.client.telemetry)
            await asyncio.sleep(options.seconds)
            with_.append((used(sampling) - before[0]) / options.seconds)
            without.append((used(idle) - before[1]) / options.seconds)
            samples.append(len(sampling.client.telemetry) - count)
    cost = [one - other for one, other in zip(with_, without, strict=True)]
    each = [1e3 * ratio * options.seconds / max(1, count) for ratio, count in zip(cost, samples, strict=True)]
    return {
        "cores_with_telemetry": spread(with_, 5),
        "cores_without": spread(without, 5),
        "cores_that_sampling_takes": spread(cost, 5),
        "processor_milliseconds_per_sample": spread(each, 2),
        "samples": sum(samples),
        "goal": {"cores": GOAL_RATIO, "held": max(cost) <= GOAL_RATIO},
    }


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure what telemetry costs a node.")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between two samples")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a round")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds")
    parser.add_argument("--gpus", type=int, default=4, help="simulated GPUs of each node; 0: the machine's own")
    parser.add_argument("--servers", type=int, default=4, help="idle servers of each node")
    parser.add_argument("--quick", action="store_true", help="a short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.repetitions = 6.0, 1
    result = {"provenance": provenance(options, PACKAGES), **asyncio.run(measure(options))}
    output = options.output or output_path("sampling_cost")
    output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
