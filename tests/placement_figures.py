"""Figures of placement that tests and the fault table compute the same way: imbalance, collisions, a trace."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from node_records import gpu, node, request, telemetry

from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Filesystem, Lease, Mark, Node
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy

#: Cores of each node of the trace, and cores that each of its servers keeps busy: one slot.
CORES = 64
SLOT_CORES = 1
#: Cores that others keep busy on the nodes that can take servers.
UNEVEN_CORES = (0, 2, 4, 8, 12, 16, 24, 30)


def collisions(leases: Iterable[Lease]) -> dict[tuple[str, str], list[str]]:
    """Return each GPU, by node and UUID, that more than one of these leases holds, with their ids."""
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for lease in leases:
        if lease.alive and lease.node is not None:
            for uuid in lease.gpus:
                holders[lease.node, uuid].append(lease.id)
    return {device: ids for device, ids in holders.items() if len(ids) > 1}


def overlaps(leases: Iterable[Lease]) -> list[tuple[str, str]]:
    """Return the pairs of leases, alive or ended, that held the same GPU of a node at the same time."""
    held: dict[tuple[str, str], list[tuple[float, float, str]]] = defaultdict(list)
    for lease in leases:
        if lease.granted_at is not None and lease.node is not None:
            for uuid in lease.gpus:
                held[lease.node, uuid].append((lease.granted_at, lease.released_at or float("inf"), lease.id))
    pairs = []
    for spans in held.values():
        spans.sort()
        pairs += [(a[2], b[2]) for a, b in pairwise(spans) if b[0] < a[1]]
    return pairs


def imbalance(used: Mapping[str, float], slot: float) -> float:
    """Return the largest use of a node minus the smallest, in slots."""
    return (max(used.values()) - min(used.values())) / slot


@dataclass
class Trace:
    """What became of a trace of spawns under one way to choose."""

    #: Busy cores of each node that may take servers, the others' included.
    used: dict[str, float]
    servers: Counter[str] = field(default_factory=Counter)
    #: Servers on nodes that fail a hard limit.
    wrong: int = 0

    @property
    def imbalance(self) -> float:
        """In slots; see :func:`imbalance`."""
        return imbalance(self.used, SLOT_CORES)


def uneven_farm(others: Sequence[float] = UNEVEN_CORES) -> tuple[list[Node], list[Node]]:
    """Return a node under each of these loads, and four that look idle and fail a hard limit each."""
    devices = [gpu(f"GPU-{number}") for number in range(4)]
    good = [reported(node(f"n{number}", *devices), busy) for number, busy in enumerate(others)]
    full = telemetry(cpus=CORES, filesystems=(Filesystem("/", 10**12, 10**6),))
    bad = [
        node("x-full", report=full),
        node("x-cordoned", report=telemetry(cpus=CORES), cordon=Mark("test", 0.0, "root")),
        node("x-down", report=telemetry(cpus=CORES), state="down"),
        node("x-busy", report=telemetry(cpus=CORES, cpu_utilization_ratio=0.999, load1=0.0)),
    ]
    return good, bad


def reported(known: Node, busy_cores: float) -> Node:
    """Return the node as it reports so many busy cores."""
    assert known.telemetry is not None
    ratio = min(1.0, busy_cores / CORES)
    report = replace(known.telemetry, cpus=CORES, cpu_utilization_ratio=ratio, load1=busy_cores)
    return replace(known, telemetry=report, reported_at=time.time())


async def placed_trace(
    database: Database, spawns: int, *, others: Sequence[float] = UNEVEN_CORES, busy: float = SLOT_CORES, **policy: Any
) -> Trace:
    """Return what the real placement makes of a trace.

    Parameters
    ----------
    database
        An open one.
    spawns
        How many servers are asked for.
    others
        Cores that others keep busy on each of the nodes.
    busy
        Cores that each server keeps busy, as its node's next report shows.
    policy
        Options of the policy.
    """
    good, bad = uneven_farm(others)
    known = {each.name: each for each in good}
    placement = Placement(PlacementPolicy(settle_time=0, **policy), LeaseBook(database))
    for each in (*good, *bad):
        placement.tell(NodeView(each))
    trace = Trace(dict(zip(known, map(float, others), strict=True)))
    for number in range(spawns):
        lease = await placement.place(request(f"u{number}", cpus=SLOT_CORES))
        _put(trace, lease.node or "", busy)
        if lease.node in known:
            known[lease.node] = reported(known[lease.node], trace.used[lease.node])
            placement.tell(NodeView(known[lease.node]))
    return trace


def blind_trace(choose: Callable[[Sequence[str], Counter[str]], str], spawns: int) -> Trace:
    """Return what a choice by names and numbers of servers makes of the trace; it is told which nodes would do."""
    names = [each.name for each in uneven_farm()[0]]
    trace = Trace(dict(zip(names, map(float, UNEVEN_CORES), strict=True)))
    for _ in range(spawns):
        _put(trace, choose(names, trace.servers))
    return trace


def at_random(seed: int) -> Callable[[Sequence[str], Counter[str]], str]:
    """Return a choice by dice."""
    dice = random.Random(seed)  # noqa: S311 - a trace
    return lambda names, _servers: dice.choice(names)


def least_count(names: Sequence[str], servers: Counter[str]) -> str:
    """Choose the node with the fewest servers."""
    return min(names, key=lambda name: (servers[name], name))


#: GPUs of the farm for exclusive use, and those of them that a process from outside the farm works on.
DEVICES, FOREIGN = 28, 3


def exclusive_farm() -> list[Node]:
    """Return seven nodes with four GPUs each, three of which somebody uses past the farm."""
    devices = [gpu(f"GPU-{each}", foreign_pids=(99,) if each % 9 == 5 else ()) for each in range(DEVICES)]
    return [node(f"n{number}", *devices[4 * number : 4 * number + 4]) for number in range(7)]


async def ask_all(placement: Placement, count: int, told: Callable[[Lease], None] = lambda _lease: None) -> list[Lease]:
    """Ask for a GPU for this many owners at the same moment."""

    async def ask(number: int) -> Lease:
        lease = await placement.place(request(f"u{number}", gpus=1))
        told(lease)
        return lease

    return list(await asyncio.gather(*(ask(number) for number in range(count))))


def open_placement(database: Database) -> tuple[LeaseBook, Placement]:
    """Return book and placement of the exclusive farm; the book is to be opened."""
    book = LeaseBook(database)
    placement = Placement(PlacementPolicy(), book)
    for each in exclusive_farm():
        placement.tell(NodeView(each))
    return book, placement


async def _burst(url: str) -> None:
    """Ask for a GPU for fifty owners and say each that is granted: what is killed in the middle."""
    database = Database(url)
    await database.open()
    book, placement = open_placement(database)
    await book.open()

    def say(lease: Lease) -> None:
        sys.stdout.write(f"{lease.id} {lease.state}\n")
        sys.stdout.flush()

    await ask_all(placement, 50, say)
    await asyncio.Event().wait()


def _put(trace: Trace, name: str, busy: float = SLOT_CORES) -> None:
    trace.servers[name] += 1
    if name in trace.used:
        trace.used[name] += busy
    else:
        trace.wrong += 1


if __name__ == "__main__":
    asyncio.run(_burst(sys.argv[1]))
