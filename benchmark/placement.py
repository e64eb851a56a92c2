"""Measure placement: what one decision costs, and what the decisions are worth.

Cost
    Decisions on 100, 1,000 and 10,000 nodes with 8 GPUs each, half of the GPUs leased. Between any two decisions a node
    reports and a lease changes (measured as `update`), and requests differ in number, model and memory of the GPUs,
    labels, cores and memory; only answers about GPUs of the same kind are kept between them. `choose_fits` and
    `choose_waits` are the decision by the index for requests that find a node and that do not; `explain` reads the
    explanation of one that fits; `full` is the full pipeline, choice and explanation; `place` is everything up to the
    commit in SQLite, on farms without leases; `idle_pass` serves a waiting line for which nothing changed. `random` and
    `round_robin` take a node without a look at it: the floor.
Quality
    See :mod:`placement_trace`.

Run it with ``.venv/bin/python benchmark/placement.py`` (a few minutes; ``--quick`` for a try). It writes
``benchmark/results/placement-<date>.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from placement_trace import quality
from provenance import output_path, provenance

from jupyterhub_agentfarm.errors import PlacementRefused
from jupyterhub_agentfarm.inventory import Database
from jupyterhub_agentfarm.models import Filesystem, Gpu, Node, NodeSpec, PlacementRequest, Telemetry, UserOptions
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy
from jupyterhub_agentfarm.placement.filters import Limits
from jupyterhub_agentfarm.placement.line import Holds
from jupyterhub_agentfarm.placement.view import Promised

GIB = 2**30
MODELS = (("NVIDIA A100", 40), ("NVIDIA A100", 80), ("NVIDIA H100", 80), ("Tesla T4", 16))
ROOMS = ("a", "b", "c", "d")
Samples = dict[str, list[float]]


class Source:
    """Nodes and requests of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a benchmark

    def node(self, number: int) -> Node:
        """Return a node with 8 GPUs of one model, under some load."""
        model, memory_gib = MODELS[number % len(MODELS)]
        devices = tuple(Gpu(f"GPU-{number}-{i}", model, memory_gib * GIB) for i in range(8))
        spec = NodeSpec(f"n{number:05}", "127.0.0.1", labels={"room": ROOMS[number // 4 % len(ROOMS)]})
        report = Telemetry(
            0.0, 64, 0.0, 0, 0, 0, 512 * GIB, 400 * GIB, 0, 1, (Filesystem("/", 10**12, 10**11),), devices, "ok"
        )
        return self.reported(Node(spec, "ready", "", 0.0, telemetry=report))

    def reported(self, node: Node) -> Node:
        """Return the node with its next report."""
        busy, memory = self.random.random(), int(self.random.uniform(0.05, 0.9) * 512 * GIB)
        report = replace(node.telemetry, cpu_utilization_ratio=busy, load1=64 * busy, memory_available_bytes=memory)  # type: ignore[type-var]
        return replace(node, telemetry=report, reported_at=time.time())

    def request(self, number: int) -> PlacementRequest:
        """Return a request of any of some hundred shapes."""
        gpus = self.random.choices((0, 1, 2, 4, 8), (25, 45, 15, 10, 5))[0]
        options = UserOptions(
            gpus=gpus,
            gpu_model=self.random.choice(("", "", "a100", "h100", "t4")),
            gpu_memory_bytes=self.random.choice((0, 0, 10, 24, 40, 60)) * GIB,
            labels={"room": self.random.choice(ROOMS)} if self.random.random() < 0.25 else {},
        )
        cpus, memory_gib = self.random.choice((0, 0, 1, 8, 32)), self.random.choice((0, 0, 4, 64))
        return PlacementRequest(f"u{number}", "", options, cpus, memory_gib * GIB)

    def promised(self, node: Node) -> Promised:
        """Return leases on half of the GPUs, on average."""
        uuids = [gpu.uuid for gpu in node.telemetry.gpus if self.random.random() < 0.5]  # type: ignore[union-attr]
        return Promised(frozenset(uuids), 4.0 * len(uuids), 4.0 * len(uuids), 16 * GIB * len(uuids))


@contextmanager
def timed(samples: Samples, name: str) -> Iterator[None]:
    """Note the milliseconds that the block took."""
    began = time.perf_counter_ns()
    yield
    samples[name].append((time.perf_counter_ns() - began) / 1e6)


def decisions(seed: int, nodes: int, count: int, full: int, samples: Samples) -> None:
    """Measure decisions; every `full`-th also by the full pipeline, which must choose the same."""
    source, policy, holds = Source(seed), PlacementPolicy(), Holds()
    index, known = policy.index(), [source.node(number) for number in range(nodes)]
    for node in known:
        index.put(NodeView(node, promised=source.promised(node)))
    gc.collect()
    gc.freeze()  # what a process of some days has: the nodes are not young
    turn = itertools.cycle(node.name for node in known)
    for number in range(count):
        changed = source.reported(known[source.random.randrange(nodes)])
        view = NodeView(changed, promised=source.promised(changed))
        with timed(samples, "update"):
            index.put(view)
        request, began = source.request(number), time.perf_counter_ns()
        decision = policy.choose(request, index, Limits(), holds)
        took = (time.perf_counter_ns() - began) / 1e6
        if decision.node is None:
            with timed(samples, "choose_waits"):
                policy.choose(request, index, Limits(), holds).later  # noqa: B018 - it is worked out when read
        else:
            samples["choose_fits"].append(took)
        with timed(samples, "random"):
            source.random.choice(known)
        with timed(samples, "round_robin"):
            next(turn)
        if number % full == 0:
            _explained(policy, request, index, samples)
    gc.unfreeze()


def _explained(policy: PlacementPolicy, request: PlacementRequest, index: Any, samples: Samples) -> None:
    decision = policy.choose(request, index, Limits(), Holds())
    if decision.node is not None:
        with timed(samples, "explain"):
            decision.why.sentence()
    with timed(samples, "full"):
        reference = policy.decide(request, index.views(), Limits())
        reference.why  # noqa: B018 - it is worked out when read
    if (reference.node, reference.gpus) != (decision.node, decision.gpus):
        raise RuntimeError(f"the index chose {decision.node}, the full pipeline {reference.node} for {request}")


async def placements(seed: int, nodes: int, count: int, samples: Samples) -> None:
    """Measure `place` with a database, and passes over a line of ten for which nothing changed."""
    source = Source(seed)
    with tempfile.TemporaryDirectory(prefix="afbench") as directory:
        database = Database(f"sqlite:///{directory}/farm.sqlite")
        await database.open()
        placement = Placement(PlacementPolicy(), LeaseBook(database))
        for number in range(nodes):
            placement.tell(NodeView(source.node(number)))
        placed = 0
        while placed < count:
            request = PlacementRequest(f"u{placed}", "", UserOptions(gpus=source.random.choice((0, 1, 2))))
            with timed(samples, "place"):
                await placement.place(request)
            placed += 1
        for number in range(10):
            pinned = UserOptions(gpus=8, node="n00000", priority=-1)
            for suffix in ("x", "y") if number == 0 else ("y",):
                await _ask(placement, PlacementRequest(f"w{number}{suffix}", "", pinned))
        for _ in range(count):
            with timed(samples, "idle_pass"):
                await placement.advance()
        await database.aclose()


async def _ask(placement: Placement, request: PlacementRequest) -> None:
    try:
        await placement.place(request)
    except PlacementRefused as exc:
        raise RuntimeError("the benchmark's request must fit or wait") from exc


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of every size."""
    figures: dict[str, Any] = {}
    for nodes in options.nodes:
        samples: Samples = defaultdict(list)
        for repetition in range(options.repetitions):
            decisions(options.seed + repetition, nodes, options.decisions, max(1, options.decisions // 20), samples)
            asyncio.run(placements(options.seed + repetition, nodes, options.placements, samples))
            sys.stderr.write(f"{nodes} nodes: repetition {repetition + 1} of {options.repetitions} done\n")
        figures[str(nodes)] = {name: summary(values) for name, values in samples.items()}
    return figures


def summary(values: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and spread, in milliseconds."""
    cuts = statistics.quantiles(values, n=100) if len(values) > 1 else values * 99
    shown: dict[str, Callable[[], float]] = {
        "median_ms": lambda: statistics.median(values),
        "p25_ms": lambda: cuts[24],
        "p75_ms": lambda: cuts[74],
        "p99_ms": lambda: cuts[98],
        "max_ms": lambda: max(values),
    }
    return {name: round(figure(), 5) for name, figure in shown.items()} | {"n": len(values)}


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure the cost and the quality of placement.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000, 10_000], help="sizes of the farm")
    parser.add_argument(
        "--repetitions", type=int, default=3, help="farms of each size, and traces, each with another seed"
    )
    parser.add_argument("--decisions", type=int, default=1000, help="decisions on each farm")
    parser.add_argument("--placements", type=int, default=20, help="placements with a database on each farm")
    parser.add_argument("--traces", type=int, default=1, help="traces, each with another seed (minutes each)")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of the trace")
    parser.add_argument("--load", type=float, default=1.2, help="GPUs asked for at a time, of those there are")
    parser.add_argument("--seed", type=int, default=20260, help="seed of farms and trace")
    parser.add_argument("--quick", action="store_true", help="a short run, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.quick:
        options.nodes, options.repetitions, options.decisions, options.placements = [100, 1000], 1, 100, 5
        options.jobs = 200
    result = {"provenance": provenance(options), "cost": cost(options)}
    result["quality"] = [quality(options.seed + i, options.jobs, options.load) for i in range(options.traces)]
    output = options.output or output_path("placement")
    output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
