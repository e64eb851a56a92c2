"""Following a task: its events become a bar and lines, its end becomes a sentence.

The events are those of ``GET /services/agents/api/v1/tasks/{id}/events``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from .output import clean
from .progress import Bars
from .quantities import duration

_ENDED = ("completed", "cancelled", "discarded")


class TaskFollower:
    """What is known of a task that is followed, by streams that may end early.

    Parameters
    ----------
    name
        Name of its bar.
    bars
        Where progress is shown.
    say
        Called with a line for each change.
    """

    def __init__(self, name: str, bars: Bars, say: Callable[[str], None]) -> None:
        self._name, self._bars, self._say = name, bars, say
        #: Number of the last change; None: there was none yet.
        self.after: int | None = None

    async def follow(self, events: AsyncIterator[tuple[str, Any]]) -> dict[str, Any] | None:
        """Show the events; return the task when it has ended, or None when the stream ended before."""
        async for event, data in events:
            if event == "change":
                self.after = data["number"]
                self._say(change_line(data))
            elif event == "progress":
                self._show(data)
            elif event == "task" and data["state"] in _ENDED:
                return dict(data)
        return None

    def _show(self, progress: Mapping[str, Any]) -> None:
        cell = progress["current_cell"]
        text = f"attempt {progress['attempt']}" + ("" if cell is None else f", cell {cell}")
        self._bars.show(self._name, progress["cells_done"], progress["cells_total"], text)


def change_line(change: Mapping[str, Any]) -> str:
    """Return a change as a line: when, state, why, which attempt, who."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change["at"]))
    words = [at, change["state"], f"({change['reason']})"]
    if change["attempt"]:
        words.append(f"attempt {change['attempt']}")
    if change["by"]:
        words.append(f"by {change['by']}")
    line = " ".join(words)
    return clean(f"{line}: {change['detail']}" if change["detail"] else line)


def task_summary(task: Mapping[str, Any]) -> str:
    """Return how a task is, in a sentence."""
    name = f" {task['request']['name']!r}" if task["request"]["name"] else ""
    took = ""
    if task["started_at"] and task["ended_at"]:
        took = f" in {duration(task['ended_at'] - task['started_at'])}"
    detail = f" ({task['detail'] or task['reason']})" if task["state"] != "completed" else ""
    return clean(f"task {task['id']}{name} of {task['agent']}: {task['state']}{took}{detail}")


def error_lines(task: Mapping[str, Any]) -> list[str]:
    """Return where the notebook of a task failed: cell, line and its text, then the exception."""
    error = task["error"]
    if error is None:
        return []
    where = "" if error["cell"] is None else f"cell {error['cell']}"
    text = (error["source_line"] or "").strip()
    if error["line"] is not None:
        where += f", line {error['line']}: {text}"
    elif where and text:
        where += f", line unknown; the cell begins with: {text}"
    said = f"{error['ename']}: {error['evalue']}" if error["evalue"] else error["ename"]
    return [clean(line) for line in (where, said) if line]
