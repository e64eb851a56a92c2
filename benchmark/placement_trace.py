"""One synthetic trace on eight unlike nodes: what placement does with it, and what choosing blindly does.

A job holds its GPUs and cores from its start until its work is done. Under `agentfarm` the real
`jupyterhub_agentfarm.placement` decides, with its database and its waiting line, and a job waits until its GPUs are
its own. The blind ways (`random`, `round-robin`, `least-connections`) start every job at once on a node that could
ever take it (they are told which nodes have enough GPUs of the model), and the job takes the GPUs of the model that the
fewest others use. Jobs that share a GPU share its time evenly, and so do those that share too few cores; a job runs at
the speed of its slowest part. Sharing is assumed to cost nothing and to fit into the GPUs' memory, which favours the
blind ways.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import random
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jupyterhub_agentfarm.inventory import Database
from jupyterhub_agentfarm.models import Gpu, Lease, Node, NodeSpec, PlacementRequest, Telemetry, UserOptions
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy

GIB = 2**30
#: Name, cores, GPUs, model.
FARM = (
    ("n0", 64, 8, "H100"),
    ("n1", 64, 8, "A100"),
    ("n2", 32, 4, "A100"),
    ("n3", 32, 4, "A100"),
    ("n4", 16, 4, "T4"),
    ("n5", 16, 2, "T4"),
    ("n6", 32, 0, ""),
    ("n7", 8, 0, ""),
)
CORES = {name: cores for name, cores, _, _ in FARM}


@dataclass
class Job:
    """One request of the trace, and what became of it."""

    number: int
    arrives_at: float
    work_seconds: float
    gpus: int
    model: str
    cpus: int
    node: str = ""
    devices: tuple[str, ...] = ()
    left_seconds: float = 0
    started_at: float = 0
    ended_at: float = 0


def make_trace(seed: int, jobs: int, load: float) -> list[Job]:
    """Return jobs that ask for `load` times the farm's GPUs for as long as they arrive."""
    source = random.Random(seed)  # noqa: S311 - a benchmark
    made, now = [], 0.0
    for number in range(jobs):
        gpus = source.choices((0, 1, 2, 4), (20, 55, 17, 8))[0]
        model = source.choices(("", "A100", "T4", "H100"), (60, 20, 10, 10))[0] if gpus else ""
        work = min(7200.0, source.lognormvariate(6, 1))
        made.append(Job(number, now, work, gpus, model, source.choice((1, 1, 2, 4))))
        now += source.expovariate(1) * _interval(load)
    return made


def _interval(load: float) -> float:
    gpu_seconds = (0.55 + 0.17 * 2 + 0.08 * 4) * math.exp(6.5)
    return gpu_seconds / (sum(gpus for _, _, gpus, _ in FARM) * load)


def fingerprint(trace: list[Job]) -> str:
    """Return the SHA-256 of a trace."""
    return hashlib.sha256(json.dumps([asdict(job) for job in trace]).encode()).hexdigest()


@dataclass
class Simulation:
    """The farm's time: who runs where, and how fast."""

    now: float = 0
    running: dict[int, Job] = field(default_factory=dict)
    #: Share of its full speed that each job runs at.
    speeds: dict[int, float] = field(default_factory=dict)
    on_node: dict[str, dict[int, Job]] = field(default_factory=lambda: defaultdict(dict))
    users: Counter[str] = field(default_factory=Counter)
    cores: Counter[str] = field(default_factory=Counter)
    servers: Counter[str] = field(default_factory=Counter)
    #: Starts on a GPU that another job was using.
    collisions: int = 0

    def start(self, job: Job, node: str, devices: tuple[str, ...]) -> None:
        """Start a job."""
        job.node, job.devices, job.started_at, job.left_seconds = node, devices, self.now, job.work_seconds
        self.collisions += sum(self.users[device] > 0 for device in devices)
        self.running[job.number] = self.on_node[node][job.number] = job
        self._count(job, 1)

    def next_end(self) -> tuple[float, Job] | None:
        """Return when and which job ends next, if nothing else starts."""
        ends = [(self.now + job.left_seconds / self.speeds[number], number) for number, job in self.running.items()]
        if not ends:
            return None
        at, number = min(ends)
        return at, self.running[number]

    def pass_to(self, at: float) -> None:
        """Let the running jobs work until then."""
        for number, job in self.running.items():
            job.left_seconds -= (at - self.now) * self.speeds[number]
        self.now = at

    def end(self, job: Job) -> None:
        """End a job."""
        job.ended_at = self.now
        del self.running[job.number], self.on_node[job.node][job.number], self.speeds[job.number]
        self._count(job, -1)

    def _count(self, job: Job, by: int) -> None:
        for device in job.devices:
            self.users[device] += by
        self.cores[job.node] += by * job.cpus
        self.servers[job.node] += by
        cores = min(1.0, CORES[job.node] / max(1, self.cores[job.node]))
        for number, other in self.on_node[job.node].items():
            self.speeds[number] = min(1 / max((self.users[device] for device in other.devices), default=1), cores)


class Blind:
    """Starts each job at once on a node that `choose` names, knowing only what the nodes have in total."""

    def __init__(self, simulation: Simulation, choose: Callable[[Job, list[str]], str]) -> None:
        self._simulation = simulation
        self._choose = choose

    async def arrive(self, job: Job) -> None:
        """Start a job."""
        able = [name for name, _, gpus, model in FARM if gpus >= job.gpus and job.model in model]
        node = self._choose(job, able)
        count = next(gpus for name, _, gpus, _ in FARM if name == node)
        devices = sorted((f"{node}-{i}" for i in range(count)), key=lambda gpu: (self._simulation.users[gpu], gpu))
        self._simulation.start(job, node, tuple(devices[: job.gpus]))

    async def ended(self, job: Job) -> None:
        """Nothing to do."""

    async def aclose(self) -> None:
        """Nothing to do."""


class Farm:
    """Starts each job when and where placement grants its lease."""

    def __init__(self, simulation: Simulation, directory: str) -> None:
        self._simulation = simulation
        self._database = Database(f"sqlite:///{directory}/farm.sqlite")
        self._jobs: dict[str, Job] = {}
        self._leases: dict[int, str] = {}
        book = LeaseBook(self._database, clock=lambda: simulation.now, on_change=self._changed)
        self._book, self.placement = book, Placement(PlacementPolicy(), book)

    async def open(self) -> None:
        """Make the database and the nodes."""
        await self._database.open()
        for name, *_ in FARM:
            self._report(name)

    async def arrive(self, job: Job) -> None:
        """Ask for a lease."""
        owner = f"u{job.number}"
        self._jobs[owner] = job
        await self.placement.place(PlacementRequest(owner, "", UserOptions(gpus=job.gpus, gpu_model=job.model)))

    async def ended(self, job: Job) -> None:
        """Give the lease back."""
        self._report(job.node)
        await self._book.release(self._leases.pop(job.number), "done")
        await self.placement.advance()

    async def aclose(self) -> None:
        """Close the database."""
        await self._database.aclose()

    def _changed(self, lease: Lease) -> None:
        job = self._jobs[lease.owner]
        if lease.state == "granted":
            self._leases[job.number] = lease.id
            self._simulation.start(job, str(lease.node), lease.gpus)
            self._report(job.node)

    def _report(self, name: str) -> None:
        _, cpus, gpus, model = next(item for item in FARM if item[0] == name)
        busy = self._simulation.cores[name]
        devices = tuple(Gpu(f"{name}-{i}", f"NVIDIA {model}", 40 * GIB) for i in range(gpus))
        report = Telemetry(
            self._simulation.now, cpus, min(1.0, busy / cpus), busy, busy, busy, 256 * GIB, 200 * GIB, 0, 1, (), devices
        )
        report = replace(report, gpu_health="ok" if devices else "absent")
        node = Node(NodeSpec(name, "127.0.0.1"), "ready", "", 0, telemetry=report, reported_at=self._simulation.now)
        self.placement.tell(NodeView(node))


def choosers(simulation: Simulation, seed: int) -> dict[str, Callable[[Job, list[str]], str]]:
    """Return the blind ways to choose."""
    source, turn = random.Random(seed), itertools.count()  # noqa: S311 - a benchmark
    return {
        "random": lambda _job, able: source.choice(able),
        "round-robin": lambda _job, able: able[next(turn) % len(able)],
        "least-connections": lambda _job, able: min(able, key=lambda name: (simulation.servers[name], name)),
    }


async def play(way: Blind | Farm, simulation: Simulation, trace: list[Job]) -> dict[str, float]:
    """Play the trace to its end; return its figures."""
    coming = list(reversed(trace))
    while coming or simulation.running:
        end = simulation.next_end()
        if coming and (end is None or coming[-1].arrives_at <= end[0]):
            job = coming.pop()
            simulation.pass_to(job.arrives_at)
            await way.arrive(job)
        elif end is not None:
            simulation.pass_to(end[0])
            simulation.end(end[1])
            await way.ended(end[1])
    took = [job.ended_at - job.arrives_at for job in trace]
    slowed = [took_seconds / job.work_seconds for took_seconds, job in zip(took, trace, strict=True)]
    return {
        "makespan_seconds": round(max(job.ended_at for job in trace), 1),
        "gpu_collisions": simulation.collisions,
        "jobs_with_gpus_slowed_by_sharing": sum(
            job.gpus > 0 and job.ended_at - job.started_at > job.work_seconds * 1.001 for job in trace
        ),
        "turnaround_mean_seconds": round(statistics.mean(took), 1),
        "turnaround_p95_seconds": round(statistics.quantiles(took, n=20)[-1], 1),
        "run_mean_seconds": round(statistics.mean(job.ended_at - job.started_at for job in trace), 1),
        "turnaround_over_work_median": round(statistics.median(slowed), 3),
        "unfinished": sum(not job.ended_at for job in trace),
    }


async def _play_farm(trace: list[Job]) -> dict[str, float]:
    simulation = Simulation()
    with tempfile.TemporaryDirectory(prefix="afbench") as directory:
        farm = Farm(simulation, directory)
        await farm.open()
        try:
            return await play(farm, simulation, trace)
        finally:
            await farm.aclose()


def quality(seed: int, jobs: int, load: float) -> dict[str, Any]:
    """Return the figures of every way on the same trace."""
    figures: dict[str, Any] = {"agentfarm": asyncio.run(_play_farm(make_trace(seed, jobs, load)))}
    for name in ("random", "round-robin", "least-connections"):
        simulation = Simulation()
        way = Blind(simulation, choosers(simulation, seed)[name])
        figures[name] = asyncio.run(play(way, simulation, make_trace(seed, jobs, load)))
    facts = {"seed": seed, "jobs": jobs, "load": load, "sha256": fingerprint(make_trace(seed, jobs, load))}
    return {"trace": facts, "ways": figures}
