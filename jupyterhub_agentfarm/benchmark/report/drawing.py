"""Drawings as SVG that stand in a page.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; in print without colours, dashes,
markers and hatches tell series apart. Text and axes are drawn in ``currentColor`` and series in ``--series-0`` and so
on, where the page defines them: both follow it in dark mode and in print. Each drawing has a text alternative.
Making one takes some hundredths of a second: callers do it in a thread.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Callable
from html import escape
from typing import Any

#: Okabe and Ito's palette without black and yellow, which vanish on one of the two backgrounds.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "\\\\\\\\", "--", "xx", "++")
#: Stands for the page's text colour until the SVG is done.
INK = "#123457"
WIDTH_INCHES = 5.6
#: matplotlib's settings are global: one drawing at a time.
_LOCK = threading.Lock()
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "font.family": "sans-serif",
    "hatch.linewidth": 0.6,
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def style_of(place: int) -> dict[str, Any]:
    """Return how the line of a series is drawn: no two of the first 24 are alike, in colour or in grey."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[(place + place // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
        "markersize": 3.6,
        "linewidth": 1.5,
    }


def svg(
    draw: Callable[[Any], None],
    description: str,
    height_inches: float = 2.35,
    left_inches: float = 0.5,
    legend_rows: int = 0,
) -> str:
    """Draw on axes and return the ``<svg>`` element.

    Parameters
    ----------
    draw
        Is given the axes.
    description
        What a person who does not see it needs to know.
    left_inches
        Room for the labels on the left.
    legend_rows
        Rows of a legend above the axes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    top_inches = 0.2 + 0.19 * legend_rows
    height_inches += top_inches
    salt = hashlib.sha256(description.encode()).hexdigest()[:12]
    with _LOCK, rc_context({**_SETTINGS, "svg.hashsalt": salt}):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches))
        FigureCanvasSVG(figure)
        left, bottom = left_inches / WIDTH_INCHES, 0.46 / height_inches
        axes = figure.add_axes((left, bottom, 0.955 - left, 1 - bottom - top_inches / height_inches))
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, axis="both", color=INK, alpha=0.13, linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes)
        output = io.StringIO()
        figure.savefig(output, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(output.getvalue(), description)


def legend(axes: Any, columns: int) -> None:
    """Put the legend above the axes."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        borderaxespad=0.25,
        handlelength=2.6,
        columnspacing=1.4,
        fontsize=8.5,
    )


def _inline(text: str, description: str) -> str:
    """Return the drawing as an element of a page: no XML head, no fixed size, no names, ink in the page's colour."""
    head, body = text[text.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[0-9. ]+"', head)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    body = body.replace(INK, "currentColor")
    for number, colour in enumerate(COLOURS):
        body = body.replace(colour.lower(), f"var(--series-{number},{colour})")
    body = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"(?<!-)font-family: [^;\"]*;?", "", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"\n\s*", " ", body)
    said = escape(description)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{said}"><title>{said}</title>{body}'
