"""One trace of tasks on nodes of unlike load: what the dispatcher and placement do with it, and blind ways.

The dispatcher's real choice (order, agents' limits, the look ahead for room) claims tasks, and the real placement with
its database and its line puts them on nodes. Others keep cores of the nodes busy too, and how many changes all the
time; that, and nothing else, is what nodes report. A scene says which nodes, which load of others and which tasks: it
is made up from a seed here, or was recorded on a farm (tasks_recorded.py). A task keeps its cores busy until its work
is done; where more is asked of a node than it has, everything there becomes slower. The blind ways start every task at
once on a node that has cores enough in total: at random, in turn, or on the one with the fewest tasks.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agents_site import make_agent
from node_records import node, telemetry

from jupyterhub_agentfarm.agents.dispatch.choice import Asked, Bounds, Chooser, Standing, needs_of
from jupyterhub_agentfarm.agents.dispatch.room import Room
from jupyterhub_agentfarm.agents.models import AgentLimits, Task, TaskRequest
from jupyterhub_agentfarm.controller.views import node_view
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Lease, PlacementRequest, UserOptions
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy
from jupyterhub_agentfarm.records import to_json

#: Cores of each node, and the most that others keep busy there.
NODES = {"big": (64, 56), "busy": (32, 30), "idle": (32, 4), "small": (8, 4), "tiny": (4, 1)}
AGENTS = 6
#: Others' load changes, and nodes report, so often.
REPORT_SECONDS = 10.0
BLIND = ("random", "round-robin", "fewest tasks")


@dataclass
class Work:
    """A task of the trace, and what became of it."""

    task: Task
    cpus: int
    seconds: float
    node: str = ""
    left: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Nodes, what others do there, and what is asked for."""

    #: Cores of each node.
    cores: Mapping[str, int]
    #: Returns how many cores others keep busy on a node at a time.
    load: Mapping[str, Callable[[float], float]]
    #: Makes the tasks anew: each play changes them.
    works: Callable[[], list[Work]]


def made_up(seed: int, tasks: int) -> Scene:
    """Return the scene of a seed."""
    cores = {name: cores for name, (cores, _) in NODES.items()}
    return Scene(cores, {name: loads(seed, name) for name in NODES}, lambda: make_trace(seed, tasks))


def make_trace(seed: int, tasks: int) -> list[Work]:
    """Return tasks of some agents that ask for more than there is, for a while."""
    dice = random.Random(seed)  # noqa: S311 - a trace
    made, now = [], 0.0
    for number in range(tasks):
        request = TaskRequest(path="work.ipynb", priority=dice.choice((0, 0, 0, 5)))
        agent = f"agent-{min(int(dice.expovariate(0.5)), AGENTS - 1)}"
        cpus = dice.choice((1, 1, 2, 4))
        task = Task(f"{number:016x}", agent, "available", "submitted", "", request, now, agent, now, now)
        made.append(Work(task, cpus, min(900.0, dice.lognormvariate(4.5, 0.8))))
        now += dice.expovariate(1 / 3.0)
    return made


def loads(seed: int, node_name: str) -> Callable[[float], float]:
    """Return how many cores others keep busy on a node at a time: a walk between nothing and the most."""
    most, walk = NODES[node_name][1], [float(NODES[node_name][1]) / 2]
    dice = random.Random(f"{seed} {node_name}")  # noqa: S311 - a trace

    def at(moment: float) -> float:
        while len(walk) <= moment / REPORT_SECONDS:
            walk.append(min(most, max(0.0, walk[-1] + dice.uniform(-1, 1) * most / 6)))
        return walk[int(moment / REPORT_SECONDS)]

    return at


@dataclass
class Figures:
    """What a way made of the trace."""

    #: Starts that took a node above its cores while another one had room.
    overloads: int = 0
    #: Starts that took a node above its cores at all.
    above: int = 0
    #: Cores asked for beyond what nodes have, over the time.
    overload_core_seconds: float = 0.0
    #: Largest difference between the nodes' shares of busy cores, at each report.
    differences: list[float] = field(default_factory=list)
    starts: Counter[str] = field(default_factory=Counter)


class Simulation:
    """The nodes' time."""

    def __init__(self, scene: Scene) -> None:
        self.now = 0.0
        self.cores, self.load = scene.cores, scene.load
        self.running: dict[str, Work] = {}
        self.figures = Figures()

    def used(self, name: str) -> float:
        """Return the cores that are asked for on a node."""
        return self.load[name](self.now) + sum(work.cpus for work in self.running.values() if work.node == name)

    def start(self, work: Work, name: str) -> None:
        """Start a task on a node."""
        roomy = [other for other in self.cores if self.used(other) + work.cpus <= self.cores[other]]
        above = self.used(name) + work.cpus > self.cores[name] + 1e-9
        self.figures.above += above
        self.figures.overloads += above and any(other != name for other in roomy)
        self.figures.starts[name] += 1
        work.node, work.started_at, work.left = name, self.now, work.seconds
        self.running[work.task.id] = work

    def next_end(self) -> tuple[float, Work | None]:
        """Return when and which task ends next, if nothing changes."""
        ends = [(self.now + work.left / self._speed(work.node), work.task.id) for work in self.running.values()]
        at, task = min(ends, default=(float("inf"), ""))
        return at, self.running.get(task)

    def pass_to(self, moment: float) -> None:
        """Let everything work until then."""
        for name, cores in self.cores.items():
            self.figures.overload_core_seconds += max(0.0, self.used(name) - cores) * (moment - self.now)
        for work in self.running.values():
            work.left -= (moment - self.now) * self._speed(work.node)
        self.now = moment

    def end(self, work: Work) -> None:
        """End a task."""
        work.ended_at = self.now
        del self.running[work.task.id]

    def look(self) -> None:
        """Note how unlike the nodes are busy."""
        shares = [self.used(name) / cores for name, cores in self.cores.items()]
        self.figures.differences.append(max(shares) - min(shares))

    def _speed(self, name: str) -> float:
        return min(1.0, self.cores[name] / max(1e-9, self.used(name)))


class Blind:
    """Starts every task at once, by names and counts alone."""

    def __init__(self, simulation: Simulation, way: str, seed: int) -> None:
        self._simulation, self._way = simulation, way
        self._dice, self._turn = random.Random(seed), itertools.count()  # noqa: S311 - a trace

    async def arrived(self, work: Work) -> None:
        """Start a task."""
        able = [name for name, cores in self._simulation.cores.items() if cores >= work.cpus]
        counts = Counter(each.node for each in self._simulation.running.values())
        chosen = {
            "random": lambda: self._dice.choice(able),
            "round-robin": lambda: able[next(self._turn) % len(able)],
            "fewest tasks": lambda: min(able, key=lambda name: (counts[name], name)),
        }[self._way]()
        self._simulation.start(work, chosen)

    async def changed(self) -> None:
        """Nothing to do."""

    async def ended(self, work: Work) -> None:
        """Nothing to do."""


class Farm:
    """The dispatcher's choice and the controller's placement."""

    def __init__(self, simulation: Simulation, database: Database) -> None:
        self._simulation = simulation
        self._book = LeaseBook(database, clock=lambda: simulation.now, on_change=self._changed)
        self._placement = Placement(PlacementPolicy(), self._book)
        limits = AgentLimits(servers=1000)
        agents = {name: make_agent(name, limits=limits) for name in (f"agent-{i}" for i in range(AGENTS))}
        self._chooser = Chooser(Bounds(executing=1000, waiting=4), agents)
        self._available: dict[str, Work] = {}
        self._claimed: dict[tuple[str, str], Work] = {}
        self._leases: dict[str, Lease] = {}
        self.most_waiting = 0

    async def open(self) -> None:
        """Tell placement of the nodes."""
        self._report()

    async def arrived(self, work: Work) -> None:
        """Make a task available."""
        self._available[work.task.id] = work
        await self._dispatch()

    async def changed(self) -> None:
        """Report what the nodes are busy with; serve the line."""
        self._report()
        await self._placement.advance()
        await self._dispatch()

    async def ended(self, work: Work) -> None:
        """Give the task's lease back."""
        name = next(name for name, claimed in self._claimed.items() if claimed is work)
        del self._claimed[name]
        lease = next(lease for lease in self._leases.values() if (lease.owner, lease.server_name) == name)
        await self._book.release(lease.id, "done")
        await self.changed()

    async def _dispatch(self) -> None:
        while (best := self._best()) is not None:
            work = self._available.pop(best.task.id)
            self._claimed[best.task.agent, best.task.id] = work
            await self._placement.place(PlacementRequest(best.task.agent, best.task.id, best.options, work.cpus))
            self.most_waiting = max(self.most_waiting, sum(each.state == "waiting" for each in self._leases.values()))

    def _best(self) -> Asked | None:
        wanted = ((work.task, UserOptions(cpus=work.cpus)) for work in self._available.values())
        asked = [Asked(task, options, needs_of(options)) for task, options in wanted]
        room = Room(self._views(), [to_json(lease) for lease in self._leases.values()])
        return self._chooser.best(asked, self._standing(), room)

    def _standing(self) -> Standing:
        standing = Standing()
        for lease in self._leases.values():
            standing.executing[lease.owner] += 1
            standing.add_server(lease.owner, lease.server_name, 0)
            if lease.state == "waiting":
                standing.waiting[needs_of(lease.request.options)] += 1
        return standing

    def _views(self) -> list[dict[str, Any]]:
        return [node_view(each, (), lambda _lease: True) for each in self._nodes]

    def _changed(self, lease: Lease) -> None:
        known = self._leases.get(lease.id)
        self._leases[lease.id] = lease
        if lease.state == "released":
            del self._leases[lease.id]
        elif lease.state == "granted" and (known is None or known.state == "waiting"):
            self._simulation.start(self._claimed[lease.owner, lease.server_name], str(lease.node))
            self._report()

    def _report(self) -> None:
        self._nodes = [self._node(name) for name in self._simulation.cores]
        for each in self._nodes:
            self._placement.tell(NodeView(each))

    def _node(self, name: str) -> Any:
        cores, used = self._simulation.cores[name], self._simulation.used(name)
        report = telemetry(cpus=cores, cpu_utilization_ratio=min(1.0, used / cores), load1=used)
        return replace(node(name, report=report), reported_at=self._simulation.now)


async def play(way: Blind | Farm, simulation: Simulation, trace: list[Work]) -> None:
    """Play the trace to its end."""
    coming = list(reversed(trace))
    report_at = REPORT_SECONDS
    while coming or any(not work.ended_at for work in trace):
        end_at, ending = simulation.next_end()
        arrives_at = coming[-1].task.created_at if coming else float("inf")
        simulation.pass_to(min(end_at, arrives_at, report_at))
        if simulation.now == arrives_at:
            await way.arrived(coming.pop())
        elif simulation.now == end_at and ending is not None:
            simulation.end(ending)
            await way.ended(ending)
        else:
            report_at += REPORT_SECONDS
            simulation.look()
            await way.changed()


def figures_of(simulation: Simulation, trace: list[Work]) -> dict[str, Any]:
    """Return the figures of a trace that was played."""
    took = [work.ended_at - work.task.created_at for work in trace]
    slowed = [(work.ended_at - work.started_at) / work.seconds for work in trace]
    figures = simulation.figures
    return {
        "starts_that_overload_a_node_while_another_has_room": figures.overloads,
        "starts_that_overload_a_node": figures.above,
        "overload_core_seconds": round(figures.overload_core_seconds),
        "makespan_seconds": round(max(work.ended_at for work in trace)),
        "turnaround_mean_seconds": round(statistics.mean(took), 1),
        "turnaround_p95_seconds": round(statistics.quantiles(took, n=20)[-1], 1),
        "execution_over_work_p95": round(statistics.quantiles(slowed, n=20)[-1], 2),
        "difference_of_shares_median": round(statistics.median(figures.differences), 3),
        "starts_by_node": dict(sorted(figures.starts.items())),
    }


async def farm_trace(scene: Scene, folder: Path) -> tuple[dict[str, Any], Farm, list[Work]]:
    """Return the figures of the farm's own way, the farm and what became of the tasks."""
    simulation, trace = Simulation(scene), scene.works()
    database = Database(f"sqlite:///{folder / 'farm.sqlite'}")
    await database.open()
    try:
        farm = Farm(simulation, database)
        await farm.open()
        await play(farm, simulation, trace)
    finally:
        await database.aclose()
    return figures_of(simulation, trace), farm, trace


def blind_trace(scene: Scene, way: str, seed: int) -> dict[str, Any]:
    """Return the figures of a blind way, whose dice are those of a seed."""
    simulation, trace = Simulation(scene), scene.works()
    asyncio.run(play(Blind(simulation, way, seed), simulation, trace))
    return figures_of(simulation, trace)
