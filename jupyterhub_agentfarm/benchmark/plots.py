"""Plots of a report as SVG that stands in the page.

Lines and bars have the colours of Okabe and Ito, which people with any colour vision tell apart and which carry on
white and on black. Text and axes are drawn in ``currentColor``: they follow the page in dark mode and in print.
Making a plot takes some tenths of a second: callers do it in a thread.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from .analysis import seconds_text
from .models import CaseResult, Sample

#: Okabe and Ito's palette without black and yellow, which vanish on one of the two backgrounds.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", ":", "-.")
#: Stands for the page's text colour until the SVG is done.
_INK = "#123457"
_SIZE_INCHES = (5.4, 2.5)
#: Nodes with a line of their own; of the others the plot would only be noise.
MAX_LINES = 24
#: matplotlib's settings are global: one plot at a time.
_LOCK = threading.Lock()


def line_plot(
    series: Mapping[str, Sequence[tuple[float, float]]], unit: str, description: str, *, share: bool = False
) -> str:
    """Return quantities over time as SVG, or "" when there is nothing to draw.

    Parameters
    ----------
    series
        By name, pairs of seconds since the start and value; a name without points is not drawn.
    unit
        Label of the vertical axis.
    description
        What a person who does not see it needs to know.
    share
        Whether values are shares, 0-1, shown as percent.
    """
    if not any(series.values()):
        return ""

    def draw(axes: Any) -> None:
        # A name has the same colour in every plot, also where another one has no points.
        for index, (name, points) in enumerate(list(series.items())[:MAX_LINES]):
            if not points:
                continue
            style = {"color": COLOURS[index % len(COLOURS)], "linestyle": _DASHES[index // len(COLOURS) % len(_DASHES)]}
            xs, ys = zip(*points, strict=True)
            marker = "o" if len(points) == 1 else ""
            axes.plot(xs, [100 * y for y in ys] if share else ys, label=name, marker=marker, linewidth=1.7, **style)
        axes.set_xlabel("seconds since the start")
        axes.set_ylabel("%" if share else unit)
        axes.set_ylim(bottom=0, top=105 if share else None)
        axes.margins(x=0.01)
        if len(series) > 1:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, labelcolor=_INK, borderaxespad=0.2
            )

    return _svg(draw, description, _SIZE_INCHES)


def duration_plot(results: Sequence[CaseResult], cases: Sequence[str], nodes: Sequence[str]) -> str:
    """Return the duration of each case on each node as bars, or "" when nothing was timed."""
    timed = {
        (r.node, r.case): r.duration_seconds
        for r in results
        if r.duration_seconds is not None and r.outcome == "succeeded" and r.node in nodes
    }
    if not timed:
        return ""
    shown = [case for case in cases if any(key[1] == case for key in timed)]

    def draw(axes: Any) -> None:
        height = 0.8 / len(nodes)
        for index, node in enumerate(nodes):
            places = [row + index * height for row, case in enumerate(shown) if (node, case) in timed]
            values = [timed[node, case] for case in shown if (node, case) in timed]
            bars = axes.barh(places, values, height * 0.88, label=node, color=COLOURS[index % len(COLOURS)])
            if len(nodes) <= 8:
                axes.bar_label(bars, [seconds_text(v) for v in values], padding=3, fontsize=8, color=_INK)
        axes.set_yticks([row + 0.4 - height / 2 for row in range(len(shown))], shown)
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        axes.margins(x=0.16)
        if len(nodes) > 1:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, labelcolor=_INK, borderaxespad=0.2
            )

    rows = len(shown) * max(len(nodes), 2)
    return _svg(draw, "Duration of each case on each node", (_SIZE_INCHES[0], 1.1 + 0.22 * rows))


def over_time(
    samples: Sequence[Sample], names: Sequence[str], key: str, start: float, total: str = ""
) -> dict[str, list[tuple[float, float]]]:
    """Return one quantity of nodes over time, divided by the quantity `total` when one is named."""
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for sample in samples:
        if sample.scope != "node" or sample.name not in series or key not in sample.values:
            continue
        value = sample.values[key]
        if total:
            if not sample.values.get(total):
                continue
            value /= sample.values[total]
        series[sample.name].append((sample.at - start, value))
    return series


def _svg(draw: Any, description: str, size: tuple[float, float]) -> str:
    """Draw and return the ``<svg>`` element with a text alternative."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 9,
        "font.family": "sans-serif",
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    }
    with _LOCK, rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, axis="both", color=_INK, alpha=0.13, linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes)
        output = io.StringIO()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(output.getvalue(), description)


def _inline(text: str, description: str) -> str:
    """Return the drawing as an element of a page: no XML head, no fixed size, ink in the page's colour."""
    from html import escape

    body = text[text.index("<svg") :]
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="[0-9. ]+"', head)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, count=1, flags=re.DOTALL)
    rest = rest.replace(_INK, "currentColor")
    rest = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", rest)
    rest = re.sub(r"(?<!-)font-family: [^;\"]*;?", "", rest)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{escape(description)}">{rest}'
