"""What nodes used of their GPUs, memory and processors, over the run.

Means are means over time. Over several nodes they are weighted with what the share is a share of: CPU utilisation
with processors, GPU utilisation with GPUs, memory as bytes of bytes. A machine that takes part under several names is
counted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .evidence import Evidence
from .timeline import Timeline, peak, weighted_mean, weighted_quantile

#: Above this share a resource is busy enough to hold up work.
SATURATED_RATIO = 0.9
#: Below this share a GPU idles.
IDLE_RATIO = 0.05


@dataclass(frozen=True)
class Level:
    """How much of something was in use over time."""

    mean: float
    median: float
    #: In use or less for 95 % of the time.
    high: float
    peak: float
    #: Share of the time at or above `SATURATED_RATIO`.
    saturated_ratio: float
    #: Share of the time at or below `IDLE_RATIO`.
    idle_ratio: float


@dataclass(frozen=True)
class Usage:
    """What a node, a role or the farm used; None is not known."""

    name: str
    #: "node", "role" or "farm".
    scope: str
    nodes: int
    #: For how long it was looked at, gaps left out.
    observed_seconds: float
    cpu: Level | None
    memory: Level | None
    gpu: Level | None
    gpu_memory: Level | None
    #: Load average over one minute, per processor.
    load_mean: float | None
    power_mean_watts: float | None
    #: Share of the observed time in which the nodes were connected.
    up_ratio: float | None
    #: Uptime at the end; of several nodes the shortest.
    uptime_seconds: float | None
    succeeded: int
    tried: int
    succeeded_per_minute: float | None

    @property
    def succeeded_ratio(self) -> float | None:
        """Share of the cases tried that succeeded."""
        return self.succeeded / self.tried if self.tried else None


@dataclass(frozen=True)
class Columns:
    """The samples of several nodes behind each other, with the weights that each quantity wants."""

    up: np.ndarray
    cpu: np.ndarray
    memory: np.ndarray
    gpu: np.ndarray
    gpu_memory: np.ndarray
    load: np.ndarray
    #: Seconds of each sample.
    seconds: np.ndarray
    #: Seconds times processors, bytes of memory, GPUs, bytes of their memory; of a shared machine its part.
    cpu_weight: np.ndarray
    memory_weight: np.ndarray
    gpu_weight: np.ndarray
    gpu_memory_weight: np.ndarray


def columns(evidence: Evidence, lines: Sequence[Timeline]) -> Columns:
    """Return the samples of nodes as columns."""

    def together(of: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([*of, np.empty(0)])

    part = together([line.seconds / evidence.sharers(line.name) for line in lines])
    seconds = together([line.seconds for line in lines])

    def told(key: str) -> np.ndarray:
        return together([line.of(key) for line in lines])

    cpus = told("cpus")
    with np.errstate(divide="ignore", invalid="ignore"):
        load = told("load1") / np.where(cpus > 0, cpus, np.nan)
    return Columns(
        up=told("up"),
        cpu=told("cpu_utilization_ratio"),
        memory=together([line.share("memory") for line in lines]),
        gpu=told("gpu_utilization_ratio"),
        gpu_memory=together([line.share("gpu_memory") for line in lines]),
        load=load,
        seconds=seconds,
        cpu_weight=part * cpus,
        memory_weight=part * told("memory_total_bytes"),
        gpu_weight=seconds * told("gpus"),
        gpu_memory_weight=seconds * told("gpu_memory_total_bytes"),
    )


def level(values: np.ndarray, weights: np.ndarray) -> Level | None:
    """Return how much was in use; None when nothing is known."""
    weights = np.where(np.isnan(weights), 0.0, weights)
    mean, most = weighted_mean(values, weights), peak(values)
    median, high = (weighted_quantile(values, weights, ratio) for ratio in (0.5, 0.95))
    if mean is None or most is None or median is None or high is None:
        return None
    saturated = weighted_mean((values >= SATURATED_RATIO).astype(float), np.where(np.isnan(values), 0.0, weights))
    idle = weighted_mean((values <= IDLE_RATIO).astype(float), np.where(np.isnan(values), 0.0, weights))
    return Level(mean, median, high, most, saturated or 0.0, idle or 0.0)


def usage(evidence: Evidence, name: str, scope: str, names: Sequence[str]) -> Usage:
    """Return what the nodes called `names` used together, as `name`."""
    lines = [evidence.timeline(node) for node in names]
    told = columns(evidence, lines)
    tried = sum(len(evidence.endings(node)[0]) for node in names)
    succeeded = int(sum(evidence.endings(node)[1].sum() for node in names))
    return Usage(
        name=name,
        scope=scope,
        nodes=len(names),
        observed_seconds=float(told.seconds.sum()) / max(1, len(names)),
        cpu=level(told.cpu, told.cpu_weight),
        memory=level(told.memory, told.memory_weight),
        gpu=level(told.gpu, told.gpu_weight),
        gpu_memory=level(told.gpu_memory, told.gpu_memory_weight),
        load_mean=weighted_mean(told.load, told.cpu_weight),
        power_mean_watts=_power(lines),
        up_ratio=weighted_mean(told.up, told.seconds),
        uptime_seconds=shortest_uptime(lines),
        succeeded=succeeded,
        tried=tried,
        succeeded_per_minute=evidence.per_minute(succeeded, names),
    )


def usages(evidence: Evidence) -> list[Usage]:
    """Return what each node, each role and the farm used, in this order."""
    each = [usage(evidence, node.name, "node", [node.name]) for node in evidence.nodes]
    roles = sorted({node.role for node in evidence.nodes}, reverse=True)
    together = [usage(evidence, role, "role", evidence.names_of(role)) for role in roles]
    return [*each, *together, usage(evidence, "farm", "farm", evidence.names)]


def _power(lines: Sequence[Timeline]) -> float | None:
    """Return the mean power of the GPUs of several nodes together: the sum of the means, while each was seen."""
    means = [weighted_mean(line.of("gpu_power_watts"), line.seconds) for line in lines]
    known = [mean for mean in means if mean is not None]
    return sum(known) if known else None


def shortest_uptime(lines: Sequence[Timeline]) -> float | None:
    """Return the shortest of the nodes' last uptimes, in seconds."""
    known = [line.of("uptime_seconds")[~np.isnan(line.of("uptime_seconds"))] for line in lines]
    return min((float(uptimes[-1]) for uptimes in known if len(uptimes)), default=None)
