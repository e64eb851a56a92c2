"""The trace of tasks that was recorded on a farm, as a scene of tasks_trace.py.

How it was recorded is said in the head of the file itself (benchmark/traces/), and by what in
benchmark/traces/record.py. All nodes of the recording were on one machine and so reported the same load. For the
scene each node has the demand for cores that was recorded (`load1`: how many processes ran or waited to), of another
part of the recording each, so that the nodes are unlike at any moment; and the same number of cores, which the machine
did not have. The requests, how many cores each kept busy, when each came and how long each took are those recorded,
one recording after the other.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks_trace import Scene, Work

from jupyterhub_agentfarm.agents.models import Task, TaskRequest

TRACES = Path(__file__).parents[1] / "benchmark" / "traces"
#: Cores of each node of the scene.
CORES = 24
#: How often the recorded requests are made, one time after the other.
TIMES = 4


def recordings() -> list[Path]:
    """Return all recordings, the oldest first."""
    return sorted(TRACES.glob("tasks-*.json"))


def recorded(path: Path) -> Scene:
    """Return the scene of a recording."""
    told = json.loads(path.read_text())
    names = sorted(told["nodes"])
    length = float(told["seconds"])
    loads = {name: _load(_reports(told, name), length, length * part / len(names)) for part, name in enumerate(names)}
    rows = _rows(told["tasks"])
    return Scene(dict.fromkeys(names, CORES), loads, lambda: _works(rows, length))


def _rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def _reports(told: dict[str, Any], name: str) -> list[tuple[float, float]]:
    return [(row["seconds"], row["load1"]) for row in _rows(told["reports"]) if row["node"] == name]


def _load(reports: list[tuple[float, float]], length: float, shift: float) -> Callable[[float], float]:
    """Return the demand for cores at a moment: that of the newest report, `shift` seconds later and going round."""
    moments = [at for at, _ in reports]

    def at(moment: float) -> float:
        place = bisect.bisect_right(moments, (moment + shift) % length) - 1
        return min(float(CORES), reports[max(place, 0)][1])

    return at


def _works(rows: list[dict[str, Any]], length: float) -> list[Work]:
    made = []
    for time, (number, row) in ((time, each) for time in range(TIMES) for each in enumerate(rows)):
        came_at, agent = time * length + row["submitted_seconds"], f"agent-{row['agent']}"
        request = TaskRequest(path="work.ipynb", priority=row["priority"])
        task_id = f"{time * len(rows) + number:016x}"
        task = Task(task_id, agent, "available", "submitted", "", request, came_at, agent, came_at, came_at)
        made.append(Work(task, row["cores"], row["ended_seconds"] - row["running_seconds"]))
    return made
