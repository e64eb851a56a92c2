"""A trace of tasks that was recorded on a farm, as a scene of tasks_trace.py.

How it was recorded is said in the head of the file itself (benchmark/traces/), and by what in
benchmark/traces/record.py. All nodes of the recording were on one machine and so reported the same load. The scene is
made of as many such machines as it has nodes, in one farm: each node has the demand for cores that was recorded
(`load1`: how many processes ran or waited to, those of the recorded tasks among them), of another part of the recording
each, and brings the requests of that time with it. So the nodes are unlike at any moment. Each has as many cores as the
largest demand that was recorded, which the machine did not have. When a request came, how many cores it kept busy and
how long it took are as recorded.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks_trace import AGENTS, Scene, Work

from jupyterhub_agentfarm.agents.models import Task, TaskRequest

TRACES = Path(__file__).parents[1] / "benchmark" / "traces"


def recordings() -> list[Path]:
    """Return all recordings, the oldest first."""
    return sorted(TRACES.glob("tasks-*.json"))


def recorded(path: Path) -> Scene:
    """Return the scene of a recording."""
    told = json.loads(path.read_text())
    names, length = sorted(told["nodes"]), float(told["seconds"])
    reports = _rows(told["reports"])
    cores = math.ceil(max(row["load1"] for row in reports))
    shifts = {name: length * part / len(names) for part, name in enumerate(names)}
    loads = {name: _load([row for row in reports if row["node"] == name], length, shifts[name]) for name in names}
    rows = _rows(told["tasks"])
    return Scene(dict.fromkeys(names, cores), loads, lambda: _works(rows, length, list(shifts.values())))


def _rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def _load(reports: list[dict[str, Any]], length: float, shift: float) -> Callable[[float], float]:
    """Return the demand for cores at a moment: that of the newest report, `shift` seconds later and going round."""
    moments = [row["seconds"] for row in reports]

    def at(moment: float) -> float:
        place = bisect.bisect_right(moments, (moment + shift) % length) - 1
        return float(reports[max(place, 0)]["load1"])

    return at


def _works(rows: list[dict[str, Any]], length: float, shifts: list[float]) -> list[Work]:
    """Return the requests of all nodes in the order in which they come."""
    made = []
    for part, shift in enumerate(shifts):
        for number, row in enumerate(rows):
            came_at, agent = (row["submitted_seconds"] - shift) % length, f"agent-{(row['agent'] + part) % AGENTS}"
            request = TaskRequest(path="work.ipynb", priority=row["priority"])
            task_id = f"{part:08x}{number:08x}"
            task = Task(task_id, agent, "available", "submitted", "", request, came_at, agent, came_at, came_at)
            made.append(Work(task, row["cores"], row["ended_seconds"] - row["running_seconds"]))
    return sorted(made, key=lambda work: work.task.created_at)
