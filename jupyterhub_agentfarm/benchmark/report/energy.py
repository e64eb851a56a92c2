"""What a record costs in energy, where GPUs tell their power.

The energy of a node over a time is the integral of its GPUs' power, by the trapezoidal rule between samples; a gap
has none, and none is made up for it. A case's energy per record is the mean power while it was executed over the rate
at which the cases executing at that time delivered: W / (records/s) = J/record. It is the GPUs' energy alone, idle
power included: what processors, fans and disks draw is not measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..models import CaseResult
from .delivery import adds_up, fullest
from .evidence import Evidence, by_node, interval_of
from .timeline import GAP_INTERVALS, Interval, Timeline, inside, merged, weighted_mean
from .wording import label

#: Mean power from fewer samples says too little of a case.
MIN_SAMPLES = 3


@dataclass(frozen=True)
class NodeEnergy:
    """The energy of one node's GPUs over the run."""

    node: str
    role: str
    joules: float
    mean_watts: float
    #: Mean power while cases were executed, and while none was; None where that was not seen.
    busy_watts: float | None
    idle_watts: float | None


@dataclass(frozen=True)
class CaseEnergy:
    """What one case cost on one node."""

    node: str
    case: str
    #: The figure whose records are counted.
    figure: str
    joules_per_record: float
    #: Samples of power while the case was executed.
    samples: int


@dataclass(frozen=True)
class Energy:
    """The energy of the GPUs; nothing where none tells its power."""

    nodes: tuple[NodeEnergy, ...]
    cases: tuple[CaseEnergy, ...]
    #: Whether some of it is of simulated GPUs, and so means nothing.
    simulated: bool

    @property
    def joules(self) -> float | None:
        """The energy of all nodes' GPUs over the run."""
        return sum(node.joules for node in self.nodes) if self.nodes else None


def energy(evidence: Evidence) -> Energy:
    """Return the energy of the run."""
    lines = {node.name: evidence.timeline(node.name) for node in evidence.nodes}
    told = {name: line for name, line in lines.items() if not np.isnan(line.of("gpu_power_watts")).all()}
    roles = {node.name: node.role for node in evidence.nodes}
    nodes = tuple(_node(evidence, roles[name], line) for name, line in told.items())
    good = by_node(evidence.succeeded)
    cases = [case for name, line in told.items() for case in _cases(evidence, good.get(name, []), line)]
    return Energy(nodes, tuple(cases), evidence.simulated)


def joules_of(line: Timeline) -> float:
    """Return the integral of a node's power over its samples, gaps left out."""
    known = ~np.isnan(line.of("gpu_power_watts"))
    at, watts = line.at[known], line.of("gpu_power_watts")[known]
    apart = np.diff(at)
    near = apart <= GAP_INTERVALS * line.interval_seconds
    return float(((watts[1:] + watts[:-1]) / 2 * apart)[near].sum())


def _node(evidence: Evidence, role: str, line: Timeline) -> NodeEnergy:
    watts = line.of("gpu_power_watts")
    busy = inside(line.at, evidence.busy.get(line.name, []))
    mean = weighted_mean(watts, line.seconds)
    return NodeEnergy(
        node=line.name,
        role=role,
        joules=joules_of(line),
        mean_watts=mean or 0.0,
        busy_watts=weighted_mean(watts, np.where(busy, line.seconds, 0.0)),
        idle_watts=weighted_mean(watts, np.where(busy, 0.0, line.seconds)),
    )


def _cases(evidence: Evidence, own: Sequence[CaseResult], line: Timeline) -> list[CaseEnergy]:
    compared = fullest(own)
    found = []
    for case in evidence.run.cases:
        here = [result for result in compared if result.case == case and _records_rate(result)]
        if here and len({result.primary for result in here}) == 1:
            made = _case(line.name, case, here, line)
            found += [made] if made else []
    return found


def _case(name: str, case: str, results: Sequence[CaseResult], line: Timeline) -> CaseEnergy | None:
    times = [time for result in results if (time := interval_of(result)) is not None]
    during = inside(line.at, merged(times)) & ~np.isnan(line.of("gpu_power_watts"))
    watts = weighted_mean(line.of("gpu_power_watts")[during], line.seconds[during])
    if watts is None or int(during.sum()) < MIN_SAMPLES:
        return None
    at_once = _at_once(times)
    rate = statistics.median(result.primary_value or 0.0 for result in results) * at_once
    figure = results[0].primary or ""
    return CaseEnergy(name, case, label(figure.removesuffix("_per_second")), watts / rate, int(during.sum()))


def _records_rate(result: CaseResult) -> float | None:
    """Return the rate of records of a result; None when its figure is none per second."""
    value = result.primary_value
    named = result.primary is not None and adds_up(result.primary) and result.primary.endswith("_per_second")
    return value if named and value is not None and value > 0 else None


def _at_once(times: Sequence[Interval]) -> float:
    """Return how many of the cases were executed at once, on average over the time in which any was."""
    covered = sum(end - start for start, end in merged(times))
    return sum(end - start for start, end in times) / covered if covered > 0 else 1.0


@dataclass(frozen=True)
class RecordCost:
    """What a record of a case costs over the nodes of a role."""

    case: str
    role: str
    figure: str
    nodes: int
    median_joules: float
    least_joules: float
    least_node: str
    most_joules: float
    most_node: str


def record_costs(evidence: Evidence, found: Energy) -> list[RecordCost]:
    """Return the energy per record by case and role."""
    roles = {node.name: node.role for node in evidence.nodes}
    groups: dict[tuple[str, str, str], list[CaseEnergy]] = {}
    for one in found.cases:
        groups.setdefault((one.case, roles[one.node], one.figure), []).append(one)
    costs = []
    for (case, role, figure), own in groups.items():
        own.sort(key=lambda one: one.joules_per_record)
        middle = statistics.median(one.joules_per_record for one in own)
        least, most = own[0], own[-1]
        ends = (least.joules_per_record, least.node, most.joules_per_record, most.node)
        costs.append(RecordCost(case, role, figure, len(own), middle, *ends))
    return costs
