"""What nodes used, and delivered, in each of the regular intervals of a run: every five minutes where it is long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .evidence import Evidence
from .timeline import weighted_mean
from .usage import columns, shortest_uptime

#: Lengths that the intervals can have, in seconds.
INTERVALS_SECONDS = (10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400)
#: As many intervals a table has at most: 4 h in steps of five minutes.
MAX_INTERVALS = 48
#: A run of less than four intervals of five minutes is told in this many shorter ones at most.
_SHORT_RUN_SECONDS, _SHORT_RUN_INTERVALS = 1200, 12


@dataclass(frozen=True)
class IntervalUsage:
    """What the nodes of a role used in one of the regular intervals; None is not known."""

    #: Seconds since the start of the window.
    start_seconds: float
    end_seconds: float
    cpu_mean_ratio: float | None
    memory_mean_ratio: float | None
    gpu_mean_ratio: float | None
    gpu_memory_mean_ratio: float | None
    succeeded: int
    tried: int
    succeeded_per_minute: float
    #: Share of the observed time in which the nodes were connected; None when nobody looked.
    up_ratio: float | None
    #: The shortest uptime of the nodes at the end of the interval.
    uptime_seconds: float | None


def interval_seconds(evidence: Evidence) -> float:
    """Return the length of the regular intervals: five minutes, less for a short run, more for a very long one."""
    sampled = next((line.interval_seconds for line in evidence.timelines.values()), 0.0)
    short = evidence.seconds < _SHORT_RUN_SECONDS
    least, most = (0, _SHORT_RUN_INTERVALS) if short else (300, MAX_INTERVALS)
    for length in INTERVALS_SECONDS:
        if length >= max(sampled, least) and evidence.seconds / length <= most:
            return float(length)
    return max(sampled, evidence.seconds / most)


def at_intervals(evidence: Evidence, names: Sequence[str]) -> list[IntervalUsage]:
    """Return what the nodes called `names` used at regular intervals from the start of the first case."""
    start, end = evidence.window
    if end <= start or not names:
        return []
    length = interval_seconds(evidence)
    edges = [start + number * length for number in range(int(np.ceil((end - start) / length)))]
    return [_interval(evidence, names, begin, min(begin + length, end)) for begin in edges]


def _interval(evidence: Evidence, names: Sequence[str], begin: float, end: float) -> IntervalUsage:
    is_last = end >= evidence.window[1]
    lines = [evidence.timeline(name).within(begin, end, with_end=is_last) for name in names]
    told = columns(evidence, lines)
    tried = succeeded = 0
    for name in names:
        ends, good = evidence.endings(name)
        falls = (ends >= begin) & ((ends < end) | is_last)
        tried, succeeded = tried + int(falls.sum()), succeeded + int((falls & good).sum())
    return IntervalUsage(
        start_seconds=begin - evidence.window[0],
        end_seconds=end - evidence.window[0],
        cpu_mean_ratio=weighted_mean(told.cpu, told.cpu_weight),
        memory_mean_ratio=weighted_mean(told.memory, told.memory_weight),
        gpu_mean_ratio=weighted_mean(told.gpu, told.gpu_weight),
        gpu_memory_mean_ratio=weighted_mean(told.gpu_memory, told.gpu_memory_weight),
        succeeded=succeeded,
        tried=tried,
        succeeded_per_minute=60 * succeeded / (end - begin),
        up_ratio=weighted_mean(told.up, told.seconds),
        uptime_seconds=shortest_uptime(lines),
    )
