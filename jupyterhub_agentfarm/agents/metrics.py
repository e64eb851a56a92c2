"""The metrics of agents and their tasks, in Prometheus' text format 0.0.4.

How many agents and tasks there are is asked when somebody scrapes; what happened is counted since the service's start.
No label names an agent, a person or a task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from ..metrics import (
    AGENT_STATES,
    ATTEMPT_OUTCOMES,
    METRICS,
    TASK_ENDS,
    TASK_STATES,
    Histogram,
    head_lines,
    sample_line,
)
from ..services.handlers import ServiceHandler
from .models import Attempt, Task, TaskReason


class TaskMetrics:
    """Counts what happens to tasks."""

    def __init__(self) -> None:
        self._attempts: Counter[str] = Counter()
        self._waits = Histogram("agentfarm_task_wait_seconds")
        durations = {end: Histogram("agentfarm_task_duration_seconds", {"outcome": end}) for end in TASK_ENDS}
        self._durations = durations

    def began(self, task: Task, attempt: Attempt) -> None:
        """Count an attempt that begins."""
        self._waits.add(max(0.0, attempt.started_at - task.available_at))

    def ended(self, task: Task, outcome: TaskReason) -> None:
        """Count an attempt that ended, and its task when that has."""
        self._attempts[outcome] += 1
        if task.ended and task.ended_at is not None and task.started_at is not None:
            self._durations[task.state].add(max(0.0, task.ended_at - task.started_at))

    def text(self, tasks: Mapping[Any, int], agents: Mapping[str, int]) -> str:
        """Return the page.

        Parameters
        ----------
        tasks, agents
            How many there are in each state.
        """
        families = {
            "agentfarm_agents": _gauges("agentfarm_agents", AGENT_STATES, agents),
            "agentfarm_tasks": _gauges("agentfarm_tasks", TASK_STATES, tasks),
            "agentfarm_task_attempts_total": [
                sample_line("agentfarm_task_attempts_total", {"outcome": outcome}, self._attempts[outcome])
                for outcome in ATTEMPT_OUTCOMES
            ],
            "agentfarm_task_wait_seconds": self._waits.lines(),
            "agentfarm_task_duration_seconds": [line for each in self._durations.values() for line in each.lines()],
        }
        return "".join(head_lines(METRICS[name]) + "\n".join(lines) + "\n" for name, lines in families.items())


def _gauges(name: str, states: tuple[str, ...], counts: Mapping[str, int]) -> list[str]:
    return [sample_line(name, {"state": state}, counts.get(state, 0)) for state in states]


class MetricsHandler(ServiceHandler):
    """``metrics``, in Prometheus' text format 0.0.4."""

    scopes: ClassVar[dict[str, str]] = {"GET": "read:metrics"}

    async def get(self) -> None:
        """Answer gauges and counters."""
        tasks = await self.service.book.counts()
        agents = Counter(agent.state for agent in self.service.registry.agents())
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        await self.finish(self.service.metrics.text(tasks, agents))


#: Routes below the service's prefix.
ROUTES: list[tuple[Any, ...]] = [(r"metrics", MetricsHandler)]
