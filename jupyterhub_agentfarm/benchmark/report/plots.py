"""The drawings over time: what the nodes used, what they completed, which of them were there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .drawing import COLOURS, INK, legend, style_of, svg
from .evidence import Evidence
from .intervals import IntervalUsage
from .occurrences import Occurrence
from .traces import MAX_LINES, Trace, trace
from .wording import clock_text, number_text, percent_text, plural, seconds_text

#: Steps between the marks of the axis of time, in seconds.
_STEPS_SECONDS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400)
_LABELS = 7
#: As many nodes the drawing of their presence shows.
MAX_STRIPS = 40
#: Numbers of events that are closer than this share of the axis are written as one.
_NEAR_RATIO = 0.025


@dataclass(frozen=True)
class Plot:
    """A drawing with its title."""

    title: str
    svg: str


@dataclass(frozen=True)
class Quantity:
    """A quantity that is drawn over time."""

    key: str
    title: str
    #: Whether it is a share, drawn as percent.
    share: bool = True
    unit: str = "%"


QUANTITIES = (
    Quantity("gpu_utilization_ratio", "GPU utilisation, %"),
    Quantity("gpu_memory", "GPU memory in use, %"),
    Quantity("cpu_utilization_ratio", "CPU utilisation, %"),
    Quantity("memory", "Memory in use, %"),
    Quantity("gpu_power_watts", "Power of the GPUs, W", share=False, unit="W"),
)


def plots_of_role(
    evidence: Evidence,
    title: str,
    names: Sequence[str],
    intervals: Sequence[IntervalUsage],
    marks: Sequence[Occurrence],
) -> list[Plot]:
    """Return what the nodes of a role used and completed over time; a quantity that none tells has no plot."""
    own = [mark for mark in marks if mark.marked and (not mark.node or mark.node in names)]
    made = [_over_time(evidence, title, names, quantity, own) for quantity in QUANTITIES]
    made += [_completions(evidence, title, intervals, own), _presence(evidence, title, names)]
    return [plot for plot in made if plot is not None]


def _over_time(
    evidence: Evidence, title: str, names: Sequence[str], quantity: Quantity, marks: Sequence[Occurrence]
) -> Plot | None:
    found = trace(evidence, names, quantity.key)
    if not found.known:
        return None
    scale = 100 if quantity.share else 1
    named = {name: row * scale for name, row in found.rows.items() if not np.isnan(row).all()}
    shown = Trace(found.at_seconds, named)
    simulated = " (simulated)" if evidence.simulated and quantity.key.startswith("gpu") else ""

    def draw(axes: Any) -> None:
        if len(named) <= MAX_LINES:
            _lines(axes, shown, names)
        else:
            _bands(axes, shown)
        axes.set_ylim(0, 104 if quantity.share else _top(named) * 1.12)
        _time_axis(axes, evidence, marks)

    rows = -(-len(named) // 4) if 1 < len(named) <= MAX_LINES else 1 if len(named) > 1 else 0
    description = _description(f"{title}: {quantity.title}{simulated} over time", found, quantity)
    return Plot(f"{quantity.title}{simulated}", svg(draw, description, legend_rows=rows))


def _lines(axes: Any, shown: Trace, names: Sequence[str]) -> None:
    # A node is drawn alike in every plot of its role, also where another one has nothing to show.
    for name, row in shown.rows.items():
        style = style_of(list(names).index(name))
        known = int((~np.isnan(row)).sum())
        every = max(1, known // 9)
        axes.plot(shown.at_seconds, row, label=_short(name), markevery=(every // 2, every), **style)
    if len(shown.rows) > 1:
        legend(axes, 4)


def _bands(axes: Any, shown: Trace) -> None:
    bands, at = shown.bands(), shown.at_seconds
    axes.fill_between(at, bands["least"], bands["most"], color=COLOURS[0], alpha=0.13, linewidth=0, label="all nodes")
    axes.fill_between(at, bands["low"], bands["high"], color=COLOURS[0], alpha=0.28, linewidth=0, label="8 of 10 nodes")
    axes.plot(at, bands["median"], color=COLOURS[0], linewidth=1.8, label="median")
    for place, name in enumerate(shown.outliers(), start=1):
        axes.plot(at, shown.rows[name], label=_short(name), **(style_of(place) | {"marker": ""}))
    legend(axes, 6)


def _top(rows: Mapping[str, np.ndarray]) -> float:
    return max(float(np.nanmax(row)) for row in rows.values()) or 1.0


def _short(name: str) -> str:
    # A label that begins with an underscore would be left out of the legend.
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name if len(name) <= 18 else f"{name[:17]}…"


def _description(what: str, found: Trace, quantity: Quantity) -> str:
    values = np.concatenate([row[~np.isnan(row)] for row in found.rows.values()])
    text = percent_text if quantity.share else number_text
    unit = "" if quantity.share else f" {quantity.unit}"
    least, middle, most = (f"{text(float(value))}{unit}" for value in np.quantile(values, (0, 0.5, 1)))
    nodes = plural(sum(not np.isnan(row).all() for row in found.rows.values()), "node")
    return f"{what}, {nodes}: from {least} to {most}, median {middle}."


def _completions(
    evidence: Evidence, title: str, intervals: Sequence[IntervalUsage], marks: Sequence[Occurrence]
) -> Plot | None:
    if not any(one.tried for one in intervals):
        return None

    def draw(axes: Any) -> None:
        at = np.array([*(one.start_seconds for one in intervals), intervals[-1].end_seconds])
        good = np.array([one.succeeded_per_minute for one in intervals])
        every = good + 60 * np.array([one.tried - one.succeeded for one in intervals]) / np.diff(at)
        good, every = np.append(good, good[-1]), np.append(every, every[-1])
        axes.fill_between(at, good, step="post", facecolor=COLOURS[2], edgecolor=INK, linewidth=0.4, label="succeeded")
        if (every > good).any():
            style = {"facecolor": COLOURS[1], "edgecolor": INK, "linewidth": 0.4, "hatch": "////", "label": "did not"}
            axes.fill_between(at, good, every, step="post", where=every > good, **style)
            legend(axes, 2)
        axes.set_ylim(0, (max(every) * 1.12) or 1)
        _time_axis(axes, evidence, marks)

    rates = [one.succeeded_per_minute for one in intervals]
    length = seconds_text(intervals[0].end_seconds - intervals[0].start_seconds)
    description = (
        f"{title}: cases completed per minute, in {plural(len(intervals), 'interval')} of {length}: "
        f"from {number_text(min(rates))} to {number_text(max(rates))}."
    )
    failing = any(one.tried > one.succeeded for one in intervals)
    return Plot("Cases completed per minute", svg(draw, description, legend_rows=int(failing)))


def _presence(evidence: Evidence, title: str, names: Sequence[str]) -> Plot | None:
    """Return which nodes were there when, where any was not."""
    away = {name: evidence.absences(name) for name in names}
    lost = [name for name in names if away[name]]
    if not lost:
        return None
    shown = [*lost, *(name for name in names if not away[name])][:MAX_STRIPS]
    start, end = evidence.window

    def draw(axes: Any) -> None:
        axes.grid(visible=False, axis="y")
        axes.barh(range(len(shown)), end - start, 0.62, color=COLOURS[2], alpha=0.55, linewidth=0)
        for place, name in enumerate(shown):
            spans = [(begin - start, min(stop, end) - begin) for begin, stop in away[name]]
            style = {"facecolors": COLOURS[1], "edgecolors": INK, "linewidth": 0.5, "hatch": "////"}
            axes.broken_barh(spans, (place - 0.31, 0.62), **style)
        axes.set_yticks(range(len(shown)), [_short(name) for name in shown])
        axes.invert_yaxis()
        _time_axis(axes, evidence, ())

    times = {name: sum(stop - begin for begin, stop in away[name]) for name in lost}
    said = ", ".join(f"{name} lost for {seconds_text(times[name])}" for name in lost[:8])
    left = 0.2 + 0.075 * max(len(_short(name)) for name in shown)
    description = f"{title}: when nodes were connected; {said}."
    drawn = svg(draw, description, height_inches=0.6 + 0.2 * len(shown), left_inches=left)
    return Plot("Nodes connected (hatched: lost)", drawn)


def _time_axis(axes: Any, evidence: Evidence, marks: Sequence[Occurrence]) -> None:
    """Write the time since the first case below, and mark gaps, phases and events."""
    span = evidence.seconds or 1.0
    step = next((step for step in _STEPS_SECONDS if span / step <= _LABELS), span / _LABELS)
    ticks = np.arange(0, span * 1.0001, step)
    axes.set_xticks(ticks, [clock_text(tick) if span >= 600 else f"{tick:g}" for tick in ticks])
    axes.set_xlabel(
        "time since the first case, h:min:s" if span >= 600 else "seconds since the first case", fontsize=8.5
    )
    axes.set_xlim(0, span)
    for begin, end in evidence.gaps:
        style = {"facecolor": INK, "alpha": 0.14, "linewidth": 0}
        axes.axvspan(begin - evidence.window[0], end - evidence.window[0], **style)
    for before, after in itertools.pairwise(evidence.phases):
        if after.started_at >= before.started_at:
            axes.axvline(after.started_at - evidence.window[0], color=INK, linewidth=0.9, alpha=0.7)
    for mark in marks:
        axes.axvline(mark.at_seconds, color=INK, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.75)
    for at_seconds, text in _numbers(marks, span * _NEAR_RATIO):
        axes.text(at_seconds, 0.985, text, transform=axes.get_xaxis_transform(), fontsize=7.5, ha="left", va="top")


def _numbers(marks: Sequence[Occurrence], near_seconds: float) -> list[tuple[float, str]]:
    """Return where the numbers of events are written; those close together as "3-5"."""
    groups: list[list[Occurrence]] = []
    for mark in sorted(marks, key=lambda mark: mark.at_seconds):
        if groups and mark.at_seconds - groups[-1][-1].at_seconds < near_seconds:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    return [
        (group[0].at_seconds, f" {group[0].number}" + (f"\N{EN DASH}{group[-1].number}" if len(group) > 1 else ""))
        for group in groups
    ]
