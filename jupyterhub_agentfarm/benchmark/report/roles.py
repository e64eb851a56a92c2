"""The five quantities of the specification, analysed for microservers and GPU servers apart.

GPU utilisation, memory, CPU utilisation, task completion rate and uptime each get a sentence that says how much, how
steadily, and what stands out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .delivery import Completion, completion_spread
from .intervals import IntervalUsage
from .stability import NodeStability
from .usage import Level, Usage
from .wording import clock_text, listed, number_text, percent_text, plural, seconds_text


@dataclass(frozen=True)
class Analysis:
    """One quantity of a role: its title and what there is to say."""

    title: str
    sentence: str


def analyses(
    together: Usage, intervals: Sequence[IntervalUsage], completed: Sequence[Completion], held: Sequence[NodeStability]
) -> list[Analysis]:
    """Return the five analyses of a role.

    Parameters
    ----------
    together
        What the nodes of the role used together.
    intervals
        The same at regular intervals.
    completed, held
        What each of its nodes completed, and how it held.
    """
    gpu = _level(together.gpu, intervals, lambda one: one.gpu_mean_ratio, "No GPU told its utilisation.")
    if together.gpu:
        gpu += f" They idled (5\N{NO-BREAK SPACE}% or less) for {percent_text(together.gpu.idle_ratio)} of the time."
    memory = _level(together.memory, intervals, lambda one: one.memory_mean_ratio, "No node told its memory.")
    if together.gpu_memory:
        used = together.gpu_memory
        memory += f" Of the GPUs' memory {percent_text(used.mean)} on average and {percent_text(used.peak)} at most."
    cpu = _level(together.cpu, intervals, lambda one: one.cpu_mean_ratio, "No node told its CPU utilisation.")
    if together.load_mean is not None:
        cpu += f" The load was {number_text(together.load_mean)} per processor on average{_loaded(together.load_mean)}."
    return [
        Analysis("GPU utilisation", gpu),
        Analysis("Memory usage", memory),
        Analysis("CPU usage", cpu),
        Analysis("Task completion rate", " ".join(_completion(together, intervals, completed))),
        Analysis("System uptime", " ".join(_uptime(together, held))),
    ]


def _loaded(load: float) -> str:
    return ": more was ready to run than there were processors for" if load > 1 else ""


def _level(
    used: Level | None,
    intervals: Sequence[IntervalUsage],
    of: Callable[[IntervalUsage], float | None],
    unknown: str,
) -> str:
    if used is None:
        return unknown
    text = (
        f"{percent_text(used.mean)} on average, median {percent_text(used.median)}, up to {percent_text(used.high)} "
        f"for {percent_text(0.95)} of the time, {percent_text(used.peak)} at most."
    )
    if used.saturated_ratio > 0.01:
        text += f" It was {percent_text(0.9)} or more for {percent_text(used.saturated_ratio)} of the time."
    known = [(value, one.start_seconds) for one in intervals if (value := of(one)) is not None]
    if len(known) > 2 and max(known)[0] - min(known)[0] >= 0.1:
        (low, low_at), (high, high_at) = min(known), max(known)
        text += (
            f" Between the intervals it went from {percent_text(low)} (from {clock_text(low_at)}) "
            f"to {percent_text(high)} (from {clock_text(high_at)})."
        )
    return text


def _completion(together: Usage, intervals: Sequence[IntervalUsage], completed: Sequence[Completion]) -> Iterator[str]:
    if not together.tried:
        yield "No case was tried."
        return
    yield (
        f"{together.succeeded:,} of {plural(together.tried, 'case')} succeeded "
        f"({percent_text(together.succeeded_ratio)}), {number_text(together.succeeded_per_minute)} per minute."
    )
    apart = completion_spread(completed, completed[0].role) if len(completed) > 1 else None
    if apart is not None:
        yield (
            f"The nodes completed {number_text(apart.least)} to {number_text(apart.most)} per minute, "
            f"median {number_text(apart.median)}."
        )
    if worst := [one.node for one in completed if one.tried and one.succeeded < one.tried]:
        yield f"Not all succeeded on {listed(worst)}."
    empty = [one for one in intervals if one.succeeded == 0]
    if 0 < len(empty) < len(intervals) and len(intervals) > 2:
        yield f"In {len(empty)} of {plural(len(intervals), 'interval')} nothing was completed."


def _uptime(together: Usage, held: Sequence[NodeStability]) -> Iterator[str]:
    if together.up_ratio is None:
        yield "There are no samples to tell it by."
        return
    yield f"The nodes were connected for {percent_text(together.up_ratio)} of the time that was observed."
    uptimes = sorted(node.uptime_seconds for node in held if node.uptime_seconds is not None)
    if uptimes:
        least, most = seconds_text(uptimes[0]), seconds_text(uptimes[-1])
        yield f"At the end their uptime was {least if least == most else f'{least} to {most}'}."
    if lost := [node.node for node in held if node.losses]:
        yield f"Lost in between: {listed(lost)}."
    if anew := [node.node for node in held if node.restarts]:
        yield f"Started anew in between: {listed(anew)}."
    if not lost and not anew:
        yield "None was lost or started anew."
