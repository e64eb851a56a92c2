"""What held the work up, told from what the nodes used while cases were executed on them.

The rules, in this order (after B. Gregg's USE method: utilisation, saturation, errors):

1. One case in twenty or more failed because memory ran out: memory is.
2. The resource that was in use by 90 % or more for the largest share of the busy time, if that is half or more.
3. Lanes in which nothing was executed for a quarter of the time or more: waiting is.
4. The resource with the highest mean, if that is 70 % or more.
5. Otherwise nothing that was measured held the work up: the notebooks themselves do, by what they do one after the
   other, or something that is not measured.

What is not measured is never ruled out, and said to be so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .balance import Balance
from .evidence import Evidence
from .timeline import Timeline, inside
from .usage import SATURATED_RATIO, Level, columns, level
from .wording import listed, number_text, percent_text, plural

Resource = Literal["gpu", "gpu_memory", "cpu", "memory", "disk", "network", "waiting", "notebook", "unknown"]

#: Rule 1 in a number.
OUT_OF_MEMORY_RATIO = 0.05
#: Rules 2, 3 and 4 in numbers.
SATURATED_TIME_RATIO, WAITING_RATIO, HIGH_MEAN_RATIO = 0.5, 0.25, 0.7
_OUT_OF_MEMORY = re.compile(
    r"out of memory|MemoryError|OutOfMemory|oom[- ]kill|\boom\b|cannot allocate memory", re.IGNORECASE
)
_TITLES: dict[str, str] = {
    "gpu": "the GPUs",
    "gpu_memory": "the memory of the GPUs",
    "cpu": "the processors",
    "memory": "memory",
    "disk": "the disks",
    "network": "the network",
    "waiting": "waiting",
    "notebook": "the notebooks themselves",
    "unknown": "not known",
}


@dataclass(frozen=True)
class Pressure:
    """How much of a resource was in use while cases were executed."""

    resource: Resource
    #: None where it is not measured.
    level: Level | None


@dataclass(frozen=True)
class Bottleneck:
    """What held the work up on the nodes of a role."""

    role: str
    resource: Resource
    #: The resource in words.
    title: str
    sentence: str
    pressures: tuple[Pressure, ...]


def bottleneck(evidence: Evidence, balance: Balance) -> Bottleneck:
    """Return what held the work up on the nodes of a role."""
    role = balance.role
    pressures = _pressures(evidence, evidence.names_of(role))
    resource, why = _found(evidence, balance, pressures)
    return Bottleneck(role, resource, _TITLES[resource], why, pressures)


def not_measured(found: Sequence[Bottleneck]) -> str:
    """Return a sentence about the resources that nothing was measured of on any node; "" when there are none."""
    told = {p.resource for one in found for p in one.pressures if p.level is not None}
    missing = [_TITLES[p.resource] for p in found[0].pressures if p.resource not in told] if found else []
    if not missing:
        return ""
    return f"Nothing was measured of {listed(missing)}: what is said of bottlenecks does not rule them out."


def _pressures(evidence: Evidence, names: Sequence[str]) -> tuple[Pressure, ...]:
    lines = [_while_busy(evidence, name) for name in names]
    told = columns(evidence, lines)

    def busy(key: str) -> Level | None:
        return level(np.concatenate([*(line.of(key) for line in lines), np.empty(0)]), told.seconds)

    return (
        Pressure("gpu", level(told.gpu, told.gpu_weight)),
        Pressure("gpu_memory", level(told.gpu_memory, told.gpu_memory_weight)),
        Pressure("cpu", level(told.cpu, told.cpu_weight)),
        Pressure("memory", level(told.memory, told.memory_weight)),
        Pressure("disk", busy("disk_busy_ratio")),
        Pressure("network", busy("network_busy_ratio")),
    )


def _while_busy(evidence: Evidence, name: str) -> Timeline:
    """Return a node's samples while cases were executed on it; all where none were taken then."""
    line = evidence.timeline(name)
    during = inside(line.at, evidence.busy.get(name, []))
    return line.where(during) if during.any() else line


def _found(evidence: Evidence, balance: Balance, pressures: Sequence[Pressure]) -> tuple[Resource, str]:
    names = set(evidence.names_of(balance.role))
    if short := _out_of_memory(evidence, names):
        return short
    known = [(p.level, p.resource) for p in pressures if p.level is not None]
    full = max(known, key=lambda entry: (entry[0].saturated_ratio, entry[0].mean), default=None)
    if full and full[0].saturated_ratio >= SATURATED_TIME_RATIO:
        return full[1], _saturated(full[0], full[1])
    if balance.idle_ratio is not None and balance.idle_ratio >= WAITING_RATIO:
        return "waiting", _waiting(balance)
    high = max(known, key=lambda entry: entry[0].mean, default=None)
    if high and high[0].mean >= HIGH_MEAN_RATIO:
        return high[
            1
        ], f"{_title(high[1])} came nearest to their limit: {percent_text(high[0].mean)} in use on average."
    if high is None or not any(result.node in names for result in evidence.succeeded):
        return "unknown", "Too little was measured to tell."
    return "notebook", _notebook(evidence, sorted(names), high[0], high[1])


def _title(resource: Resource) -> str:
    return _TITLES[resource][0].upper() + _TITLES[resource][1:]


def _saturated(used: Level, resource: Resource) -> str:
    were = "was" if resource in ("memory", "gpu_memory", "network") else "were"
    return (
        f"While cases were executed, {_TITLES[resource]} {were} in use by {percent_text(SATURATED_RATIO)} or more for "
        f"{percent_text(used.saturated_ratio)} of the time ({percent_text(used.mean)} on average)."
    )


def _waiting(balance: Balance) -> str:
    return (
        f"{percent_text(balance.idle_ratio)} of the time in which a case could have been executed, none was: cases "
        "waited for the slowest of a repetition, for their submission or for the next phase."
    )


def _notebook(evidence: Evidence, names: Sequence[str], used: Level, resource: Resource) -> str:
    return (
        f"No resource that was measured was near its limit (the highest mean: {_TITLES[resource]}, "
        f"{percent_text(used.mean)}): the time goes where the notebooks do one thing after the other."
        + _processors(evidence, names)
    )


def _processors(evidence: Evidence, names: Sequence[str]) -> str:
    """Say how many processors were busy on a node, where that is about as many as cases were executed at once."""
    busy = [
        (float(np.nanmean(line.of("cpu_utilization_ratio") * line.of("cpus"))), float(np.nanmax(line.of("cpus"))))
        for name in names
        if (line := _while_busy(evidence, name)) and not np.isnan(line.of("cpu_utilization_ratio")).all()
    ]
    if not busy:
        return ""
    used, there = (float(np.mean(part)) for part in zip(*busy, strict=True))
    return f" On average {number_text(round(used, 1))} of {plural(round(there), 'processor')} were busy on a node."


def _out_of_memory(evidence: Evidence, names: set[str]) -> tuple[Resource, str] | None:
    tried = [result for result in evidence.tried if result.node in names]
    texts = [
        f"{result.reason} {result.error.message if result.error else ''}"
        for result in tried
        if result.outcome != "succeeded"
    ]
    short = [text for text in texts if _OUT_OF_MEMORY.search(text)]
    if len(short) < OUT_OF_MEMORY_RATIO * len(tried) or not short:
        return None
    gpu = sum("cuda" in text.lower() or "gpu" in text.lower() for text in short)
    resource: Resource = "gpu_memory" if gpu > len(short) / 2 else "memory"
    return resource, f"{plural(len(short), 'case')} did not succeed because {_TITLES[resource]} ran out."
