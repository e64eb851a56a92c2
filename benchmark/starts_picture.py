"""Draw the newest result of `spawning.py` for the README: share/pictures/starts.svg, readable on light and on dark."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from provenance import RESULTS

mpl.use("svg")

from matplotlib import pyplot as plt

PICTURE = Path(__file__).parent.parent / "share" / "pictures" / "starts.svg"
#: Each bar's parts: what is reached at its end, and how that is drawn.
PARTS = (("ready_seconds", "server ready", "#2f7fd1"), ("kernel_seconds", "kernel ready", "#e08a2c"),
         ("result_seconds", "numpy imported", "#3a9d5d"))  # fmt: skip
NAMES = {
    "sshspawner": "sshspawner's way",
    "stock": "+ kept connection, start waits",
    "cold": "+ shortcuts",
    "warm": "+ forked (default)",
}
GREY = "#808080"


def newest() -> dict[str, Any] | None:
    """Return the newest result with a summary of starts."""
    for path in sorted(RESULTS.glob("spawning-*.json"), reverse=True):
        result: dict[str, Any] = json.loads(path.read_text())
        if "summary" in result:
            return result
    return None


def draw(told: dict[str, Any]) -> None:
    """Draw the medians of one number of nodes and of servers at once."""
    mpl.rcParams |= {"text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY}
    mpl.rcParams |= {"svg.hashsalt": "agentfarm", "font.size": 10, "axes.edgecolor": GREY}
    figure, axes = plt.subplots(figsize=(7.5, 2.6))
    for row, way in enumerate(reversed(NAMES)):
        left = 0.0
        for part, label, colour in PARTS:
            end = (told["ways"][way][part] or {"median": left})["median"]
            axes.barh(row, end - left, left=left, color=colour, label=label if row == 0 else None)
            left = end
        axes.text(left, row, f" {left:.2f} s", va="center")
    axes.set_yticks(range(len(NAMES)), list(reversed(NAMES.values())))
    axes.set_xlabel("seconds from pressing Start, medians")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    figure.savefig(PICTURE, transparent=True, metadata={"Date": None})


def main() -> int:
    """Draw one start at a time on the fewest nodes."""
    result = newest()
    if result is None:
        sys.stderr.write("there is no result to draw: run benchmark/spawning.py\n")
        return 0
    draw(result["summary"][0])
    sys.stdout.write(f"written: {PICTURE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
