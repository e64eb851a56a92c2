"""What one needs to know to compare two runs of a script, and how its figures are told; no script of its own."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def provenance(options: argparse.Namespace, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return date, machine, commit, versions and options of this run."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg(),
        "commit": commit.stdout.strip() if commit.returncode == 0 else None,
        "uncommitted_changes": bool(changed.stdout),
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine(), "system": platform.platform()},
        "python": platform.python_version(),
        # One built without optimization takes up to twice as long for the same.
        "python_build": " ".join((*platform.python_build(), platform.python_compiler())),
        "ten_million_additions_seconds": round(_additions(), 3),
        "packages": {name: version(name) for name in packages},
        "options": {
            name: value for name, value in vars(options).items() if isinstance(value, int | float | bool | list)
        },
    }


def _additions() -> float:
    """Return the seconds that a loop of ten million additions takes here and now."""
    began, total = time.perf_counter(), 0
    for number in range(10_000_000):
        total += number
    return time.perf_counter() - began


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return median, quartiles, extremes and number of some values."""
    cuts = statistics.quantiles(values, n=100) if len(values) > 1 else list(values) * 99
    figures = {
        "median": statistics.median(values),
        "p25": cuts[24],
        "p75": cuts[74],
        "p99": cuts[98],
        "min": min(values),
        "max": max(values),
    }
    return {name: round(value, digits) for name, value in figures.items()} | {"n": len(values)}


def output_path(name: str) -> Path:
    """Return where the result of today's run of a script is written."""
    return RESULTS / f"{name}-{dt.datetime.now(dt.UTC):%Y-%m-%d}.json"
