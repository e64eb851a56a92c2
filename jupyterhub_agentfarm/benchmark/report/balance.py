"""How evenly the work was distributed: what each node completed, and for how long it had nothing to do.

A node of a phase has a fixed number of lanes: cases at once for each of its GPUs. A lane's time is spent on cases,
on waiting (for the slowest node of a repetition, for submission, for the next phase), or it is lost with the node.

The imbalance is that of O. Pearce and others, "Quantifying the effectiveness of load balance algorithms" (ICS 2012):
the longest busy time over the mean, less 1: 0 when all worked equally long.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .evidence import Evidence, PhaseTime, interval_of
from .robust import jain_index
from .timeline import Interval, overlap_seconds
from .usage import level


@dataclass(frozen=True)
class NodeLoad:
    """How one node spent its lanes' time."""

    node: str
    role: str
    succeeded: int
    #: How long the phases are that the node takes part in.
    phase_seconds: float
    #: Lanes times seconds of the phases that the node takes part in.
    lane_seconds: float
    busy_seconds: float
    #: While the node was not connected.
    lost_seconds: float
    #: Share of the time in which its GPUs idled; None is not known.
    gpu_idle_ratio: float | None

    @property
    def idle_seconds(self) -> float:
        """Neither busy nor lost."""
        return max(0.0, self.lane_seconds - self.busy_seconds - self.lost_seconds)

    @property
    def idle_ratio(self) -> float | None:
        """Share of the lanes' time in which nothing was executed though the node was there."""
        there = self.lane_seconds - self.lost_seconds
        return self.idle_seconds / there if there > 0 else None


@dataclass(frozen=True)
class Balance:
    """How evenly the nodes of a role worked."""

    role: str
    loads: tuple[NodeLoad, ...]
    #: Jain's index of the cases that each node completed per time of its phases; None below two nodes.
    completed_index: float | None
    #: Jain's index of the nodes' busy time.
    busy_index: float | None
    #: The longest busy time over the mean, less 1.
    imbalance_ratio: float | None
    #: Share of all lanes' time in which nothing was executed.
    idle_ratio: float | None
    #: From the order to start until the first case began, for all nodes together.
    start_seconds: float | None


def node_loads(evidence: Evidence) -> list[NodeLoad]:
    """Return how each node spent its time."""
    own: dict[str, list[Interval]] = {}
    for result in evidence.results:
        if (time := interval_of(result)) is not None:
            own.setdefault(result.node, []).append(time)
    return [_load(evidence, name, own.get(name, [])) for name in evidence.names]


def _load(evidence: Evidence, name: str, worked: Sequence[Interval]) -> NodeLoad:
    node = next(node for node in evidence.nodes if node.name == name)
    lanes_seconds = seconds = lost = 0.0
    away = evidence.absences(name)
    for time in evidence.phases:
        if name in time.phase.nodes:
            lanes = time.phase.concurrency * max(1, node.gpus)
            seconds += time.seconds
            lanes_seconds += lanes * time.seconds
            lost += lanes * overlap_seconds(away, time.started_at, time.ended_at)
    busy = sum(_within_phases(evidence.phases, name, time) for time in worked)
    line = evidence.timeline(name)
    gpu = level(line.of("gpu_utilization_ratio"), line.seconds)
    succeeded = int(evidence.endings(name)[1].sum())
    idle = gpu.idle_ratio if gpu else None
    return NodeLoad(name, node.role, succeeded, seconds, lanes_seconds, min(busy, lanes_seconds), lost, idle)


def _within_phases(phases: Sequence[PhaseTime], name: str, time: Interval) -> float:
    spans = [(phase.started_at, phase.ended_at) for phase in phases if name in phase.phase.nodes]
    return sum(max(0.0, min(time[1], end) - max(time[0], start)) for start, end in spans)


def balance(evidence: Evidence, role: str, loads: Sequence[NodeLoad]) -> Balance:
    """Return how evenly the nodes of a role worked."""
    own = tuple(load for load in loads if load.role == role)
    busy = [load.busy_seconds for load in own]
    mean = statistics.fmean(busy) if busy else 0.0
    there = sum(load.lane_seconds - load.lost_seconds for load in own)
    started = evidence.run.started_at
    return Balance(
        role=role,
        loads=own,
        completed_index=jain_index([load.succeeded / load.phase_seconds for load in own if load.phase_seconds > 0]),
        busy_index=jain_index(busy),
        imbalance_ratio=max(busy) / mean - 1 if len(own) > 1 and mean > 0 else None,
        idle_ratio=sum(load.idle_seconds for load in own) / there if there > 0 else None,
        start_seconds=None if started is None else max(0.0, started - evidence.run.created_at),
    )
