"""The drawings that are not over time: completion rates, durations, idle time, scaling, sharing of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .balance import Balance
from .contention import Contention
from .delivery import Completion
from .drawing import COLOURS, HATCHES, INK, legend, svg
from .evidence import Evidence
from .plots import Plot
from .robust import spread
from .scaling import Scaling
from .wording import number_text, percent_text, plural, seconds_text

#: As many nodes a chart of bars names; of more it shows the least, the most and those in between, evenly.
MAX_BARS = 30
#: As many cases a chart of durations shows.
MAX_CASES = 12


def durations(evidence: Evidence, title: str, names: Sequence[str]) -> Plot | None:
    """Return how long each case took on the nodes: median, quartiles, and least to most."""
    own = set(names)
    found = {
        case: spread(
            [
                r.duration_seconds
                for r in evidence.succeeded
                if r.case == case and r.node in own and r.duration_seconds is not None
            ]
        )
        for case in evidence.run.cases
    }
    shown = [(case, times) for case, times in found.items() if times is not None][:MAX_CASES]
    if not shown:
        return None

    def draw(axes: Any) -> None:
        axes.grid(visible=False, axis="y")
        for place, (_, times) in enumerate(shown):
            axes.plot([times.least, times.most], [place, place], color=INK, linewidth=1, marker="|", markersize=8)
            axes.barh(
                place,
                times.high - times.low,
                0.5,
                left=times.low,
                color=COLOURS[0],
                alpha=0.75,
                edgecolor=INK,
                linewidth=0.6,
            )
            axes.plot([times.median], [place], color=INK, marker="d", markersize=6)
            axes.annotate(
                seconds_text(times.median),
                (times.most, place),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        axes.set_yticks(range(len(shown)), [_short(case) for case, _ in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(0, max(times.most for _, times in shown) * 1.16)
        axes.set_xlabel("seconds: median, middle half, least to most", fontsize=8.5)

    said = "; ".join(f"{case} median {seconds_text(times.median)}" for case, times in shown)
    drawn = svg(draw, f"{title}: duration of each case. {said}.", 0.5 + 0.3 * len(shown), _left([c for c, _ in shown]))
    return Plot("Duration of each case", drawn)


def completion_rates(title: str, found: Sequence[Completion]) -> Plot | None:
    """Return what each node completed per minute, the least first."""
    known = sorted((one.succeeded_per_minute, one.node) for one in found if one.succeeded_per_minute is not None)
    if len(known) < 2:
        return None
    places = np.unique(np.linspace(0, len(known) - 1, min(len(known), MAX_BARS)).round().astype(int))
    shown = [known[place] for place in places]
    middle = float(np.median([rate for rate, _ in known]))

    def draw(axes: Any) -> None:
        axes.grid(visible=False, axis="y")
        bars = axes.barh(
            range(len(shown)), [rate for rate, _ in shown], 0.7, color=COLOURS[2], edgecolor=INK, linewidth=0.4
        )
        axes.bar_label(bars, [number_text(rate) for rate, _ in shown], padding=3, fontsize=8, color=INK)
        axes.axvline(middle, color=INK, linewidth=1, linestyle="--")
        axes.set_yticks(range(len(shown)), [_short(name) for _, name in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, max(rate for rate, _ in shown) * 1.15 or 1)
        axes.set_xlabel("cases per minute; dashed: the median of all nodes", fontsize=8.5)

    description = (
        f"{title}: cases completed per minute by node: from {number_text(known[0][0])} ({known[0][1]}) to "
        f"{number_text(known[-1][0])} ({known[-1][1]}), median {number_text(middle)}."
    )
    drawn = svg(draw, description, 0.45 + 0.185 * len(shown), _left([name for _, name in shown]))
    some = f", {len(shown)} of {len(known)} nodes" if len(shown) < len(known) else ""
    return Plot(f"Completion rate of each node{some}", drawn)


def idle_time(title: str, balance: Balance) -> Plot | None:
    """Return how each node spent its lanes' time: the most idle first."""
    loads = sorted((load for load in balance.loads if load.lane_seconds > 0), key=lambda load: -(load.idle_ratio or 0))
    if not loads:
        return None
    shown = loads[:MAX_BARS]
    parts = (
        ("executing", [load.busy_seconds / load.lane_seconds for load in shown], COLOURS[0]),
        ("idle", [load.idle_seconds / load.lane_seconds for load in shown], COLOURS[4]),
        ("lost", [load.lost_seconds / load.lane_seconds for load in shown], COLOURS[1]),
    )

    def draw(axes: Any) -> None:
        axes.grid(visible=False, axis="y")
        left = np.zeros(len(shown))
        for (name, ratios, colour), hatch in zip(parts, HATCHES, strict=False):
            if any(ratios):
                style = {"color": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.4}
                axes.barh(range(len(shown)), 100 * np.array(ratios), 0.7, left=100 * left, label=name, **style)
            left += np.array(ratios)
        axes.set_yticks(range(len(shown)), [_short(load.node) for load in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the time of the node's lanes", fontsize=8.5)
        legend(axes, 3)

    description = (
        f"{title}: how the nodes spent their time: {percent_text(balance.idle_ratio)} idle in all, "
        f"most on {shown[0].node} ({percent_text(shown[0].idle_ratio)})."
    )
    drawn = svg(draw, description, 0.45 + 0.185 * len(shown), _left([load.node for load in shown]), 1)
    some = f", the {len(shown)} most idle of {len(loads)}" if len(shown) < len(loads) else ""
    return Plot(f"Executing, idle, lost{some}", drawn)


def scaling_plot(scaling: Scaling) -> Plot:
    """Return the speed-up against the number of nodes, with the ideal and the fitted law."""
    points = scaling.points
    first, last = points[0].nodes, points[-1].nodes
    grid = np.linspace(first, last, 60)

    def draw(axes: Any) -> None:
        axes.plot(grid, grid / first, color=INK, linewidth=1, linestyle=":", label="ideal")
        if scaling.law is not None:
            base = scaling.law.throughput(first)
            fitted = [scaling.law.throughput(nodes) / base for nodes in grid]
            name = "Universal Scalability Law" if scaling.law.name == "usl" else "Amdahl's law"
            axes.plot(grid, fitted, color=COLOURS[1], linewidth=1.6, linestyle="--", label=name)
        style = {"color": COLOURS[0], "marker": "o", "markersize": 6, "linestyle": "none", "label": "measured"}
        axes.plot([point.nodes for point in points], [point.speedup for point in points], **style)
        axes.set_xticks([point.nodes for point in points])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("nodes", fontsize=8.5)
        legend(axes, 3)

    said = ", ".join(f"{point.nodes}: {number_text(point.speedup)}" for point in points)
    description = (
        f"{scaling.case}: times the throughput of {plural(first, 'node')} against the number of nodes ({said})."
    )
    return Plot(
        f"{scaling.case}: {scaling.kind} scaling, times {plural(first, 'node')}", svg(draw, description, legend_rows=1)
    )


def contention_plot(contention: Contention) -> Plot | None:
    """Return what each case at once delivers, and all together, against how many share a GPU."""
    points = [point for point in contention.points if point.each_ratio is not None]
    if len(points) < 2:
        return None

    def draw(axes: Any) -> None:
        at = np.arange(len(points))
        each = [100 * (point.each_ratio or 0) for point in points]
        together = [100 * (point.together_ratio or 0) for point in points]
        edge = {"edgecolor": INK, "linewidth": 0.5}
        bars = [
            axes.bar(at - 0.2, each, 0.38, color=COLOURS[0], label="each", **edge),
            axes.bar(at + 0.2, together, 0.38, color=COLOURS[4], hatch="////", label="all together", **edge),
        ]
        for drawn, values in zip(bars, (each, together), strict=True):
            axes.bar_label(drawn, [f"{value:.0f}" for value in values], fontsize=8, color=INK, padding=1)
        axes.set_xticks(at, [f"{point.concurrency} at once" for point in points])
        axes.set_ylim(0, max(*each, *together) * 1.15)
        legend(axes, 2)

    said = "; ".join(f"{point.concurrency} at once: each {percent_text(point.each_ratio)}" for point in points)
    description = f"{contention.case}: what each delivers when a GPU is shared, beside one of its own. {said}."
    return Plot(f"{contention.case}: delivered, % of what one alone delivers", svg(draw, description, legend_rows=1))


def _left(names: Sequence[str]) -> float:
    """Return the room for labels, in inches."""
    return 0.2 + 0.075 * max(len(_short(name)) for name in names)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
