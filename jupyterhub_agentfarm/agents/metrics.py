"""The metrics of agents and their tasks, in Prometheus' text format 0.0.4.

How many agents and tasks there are is asked when somebody scrapes; what happened is counted since the service's start.
No label names an agent, a person or a task. What is told of a node is in the set of its role, as on the benchmark
service's page, which shows none of this; the gauges of a node that is not connected are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..metrics import (
    AGENT_STATES,
    ATTEMPT_OUTCOMES,
    METRICS,
    NODE_AGENT_STATES,
    NODE_TASK_STATES,
    SETS,
    TASK_ENDS,
    TASK_OUTCOME_OF,
    TASK_OUTCOMES,
    TASK_PRIORITIES,
    TASK_STATES,
    Histogram,
    head_lines,
    sample_line,
)
from ..services.exposing import ExposingHandler
from .models import Attempt, Task, TaskReason

_FINISHED = "agentfarm_tasks_finished_total"
_KEPT = "agentfarm_tasks_kept_bytes"
_NODE_TASKS, _NODE_AGENTS = "agentfarm_node_tasks", "agentfarm_node_agents"
Families = dict[str, list[str]]


@dataclass(frozen=True)
class NodeNow:
    """What a node does for agents at the moment."""

    name: str
    role: str
    connected: bool
    #: Attempts by :data:`NODE_TASK_STATES`.
    tasks: Mapping[str, int] = field(default_factory=dict)
    #: Agents by :data:`NODE_AGENT_STATES`.
    agents: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Now:
    """What there is at the moment."""

    #: Tasks and agents by their state.
    tasks: Mapping[Any, int] = field(default_factory=dict)
    agents: Mapping[str, int] = field(default_factory=dict)
    #: Tasks that wait, by their priority as it was asked for.
    queued: Mapping[int, int] = field(default_factory=dict)
    #: Notebooks and files of tasks.
    kept_bytes: int = 0
    nodes: tuple[NodeNow, ...] = ()


class TaskMetrics:
    """Counts what happens to tasks."""

    def __init__(self) -> None:
        self._attempts: Counter[str] = Counter()
        self._finished: Counter[tuple[str, str]] = Counter()
        self._waits = Histogram("agentfarm_task_wait_seconds")
        durations = {end: Histogram("agentfarm_task_duration_seconds", {"outcome": end}) for end in TASK_ENDS}
        self._durations = durations

    def began(self, task: Task, attempt: Attempt) -> None:
        """Count an attempt that begins."""
        self._waits.add(max(0.0, attempt.started_at - task.available_at))

    def ended(self, task: Task, outcome: TaskReason, node: str | None = None) -> None:
        """Count an attempt that ended on `node`, and its task when that has."""
        self._attempts[outcome] += 1
        if node is not None:
            self._finished[node, TASK_OUTCOME_OF.get(outcome, "failed")] += 1
        if task.ended and task.ended_at is not None and task.started_at is not None:
            self._durations[task.state].add(max(0.0, task.ended_at - task.started_at))

    def text(self, now: Now, which: str = "all") -> str:
        """Return the page, or the set `which` of it."""
        families: Families = {}
        if which in ("hub", "all"):
            families |= self._hub_lines(now)
        nodes = [node for node in now.nodes if which in (node.role, "all")]
        families |= self._node_lines(nodes)
        return "".join(head_lines(METRICS[name]) + "\n".join(lines) + "\n" for name, lines in families.items() if lines)

    def _hub_lines(self, now: Now) -> Families:
        queued: Counter[str] = Counter()
        for priority, count in now.queued.items():
            queued[TASK_PRIORITIES[(priority > 0) - (priority < 0) + 1]] += count
        return {
            "agentfarm_agents": _gauges("agentfarm_agents", "state", AGENT_STATES, now.agents),
            "agentfarm_tasks": _gauges("agentfarm_tasks", "state", TASK_STATES, now.tasks),
            "agentfarm_tasks_queued": _gauges("agentfarm_tasks_queued", "priority", TASK_PRIORITIES, queued),
            _KEPT: [sample_line(_KEPT, {}, now.kept_bytes)],
            "agentfarm_task_attempts_total": _gauges(
                "agentfarm_task_attempts_total", "outcome", ATTEMPT_OUTCOMES, self._attempts
            ),
            "agentfarm_task_wait_seconds": self._waits.lines(),
            "agentfarm_task_duration_seconds": [line for each in self._durations.values() for line in each.lines()],
        }

    def _node_lines(self, nodes: Iterable[NodeNow]) -> Families:
        families: Families = {_NODE_TASKS: [], _NODE_AGENTS: [], _FINISHED: []}
        for node in nodes:
            counted = {outcome: self._finished[node.name, outcome] for outcome in TASK_OUTCOMES}
            families[_FINISHED] += _gauges(_FINISHED, "outcome", TASK_OUTCOMES, counted, node=node.name, kind="task")
            if node.connected:
                families[_NODE_TASKS] += _gauges(_NODE_TASKS, "state", NODE_TASK_STATES, node.tasks, node=node.name)
                families[_NODE_AGENTS] += _gauges(_NODE_AGENTS, "state", NODE_AGENT_STATES, node.agents, node=node.name)
        return families


def _gauges(name: str, label: str, values: tuple[str, ...], counts: Mapping[Any, int], **labels: str) -> list[str]:
    return [sample_line(name, {**labels, label: value}, counts.get(value, 0)) for value in values]


def nodes_now(
    views: Mapping[str, Mapping[str, Any]],
    leases: Iterable[Mapping[str, Any]],
    attempts: Iterable[Attempt],
    agents: Iterable[str],
) -> tuple[NodeNow, ...]:
    """Return what each node does for agents.

    Parameters
    ----------
    views
        Nodes as the controller tells them, by name.
    leases
        Those of the farm.
    attempts
        Those that go on.
    agents
        Names of the registered agents.
    """
    tasks: dict[str, Counter[str]] = {}
    working: set[tuple[str, str]] = set()
    for attempt in attempts:
        if attempt.node is not None:
            running = attempt.running_at is not None
            tasks.setdefault(attempt.node, Counter())["running" if running else "queued"] += 1
            working.add((attempt.node, attempt.agent))
    known = set(agents)
    there = {(lease["node"], lease["owner"]) for lease in leases if lease["node"] and lease["owner"] in known} | working
    at_node: dict[str, Counter[str]] = {}
    for node, agent in there:
        at_node.setdefault(node, Counter())["working" if (node, agent) in working else "idle"] += 1
    return tuple(
        NodeNow(name, view["spec"]["role"], view["state"] == "ready", tasks.get(name, {}), at_node.get(name, {}))
        for name, view in sorted(views.items())
    )


class MetricsHandler(ExposingHandler):
    """``metrics``, in Prometheus' text format 0.0.4."""

    async def get(self) -> None:
        """Answer gauges and counters of a set; without one, all.

        Raises
        ------
        InvalidField
            There is no such set.
        """
        which = self.chosen_set(SETS, "all")
        text = self.service.metrics.text(await self._now(), which)
        if which in ("hub", "all"):
            text += self.service.request_durations.text()
        self.expose(text)

    async def _now(self) -> Now:
        service = self.service
        agents = service.registry.agents()
        attempts = [attempt for _, attempt in await service.book.executing()]
        views = service.farm.nodes if service.farm.current else {}
        return Now(
            tasks=await service.book.counts(),
            agents=Counter(agent.state for agent in agents),
            queued=await service.book.queued(),
            kept_bytes=sum((await service.book.kept_bytes_by_agent()).values()),
            nodes=nodes_now(views, service.farm.leases.values(), attempts, [agent.name for agent in agents]),
        )


#: Routes below the service's prefix.
ROUTES: list[tuple[Any, ...]] = [(r"metrics", MetricsHandler)]
