"""Which task is next.

The order
    Higher priority first; then the agent with the fewest attempts that execute; then the older task.
Who may go
    A task goes when its agent is active and within its own limits, and when room for it is seen (:mod:`.room`). What no
    room is seen for goes too, to have its place in the controller's line and to be held room for there, but only as
    long as fewer than `max_waiting` servers of ours wait; so it never keeps back what can be served. Where a server of
    ours waits already, the like of it counts as what no room is seen for, whatever the look ahead says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...models import UserOptions
from ...records import to_json
from ..models import Agent, Task
from .room import Room


def needs_of(options: UserOptions) -> str:
    """Return what is the same for all requests that the same things can serve."""
    return json.dumps(to_json(options), sort_keys=True)


@dataclass(frozen=True)
class Bounds:
    """The most that goes at a time."""

    executing: int
    #: Servers that wait in the controller's line.
    waiting: int


@dataclass
class Standing:
    """Who has what at the moment."""

    #: Attempts that execute, by agent.
    executing: Counter[str] = field(default_factory=Counter)
    #: GPUs of each server, by agent and server: those of attempts, and all others that hold a lease.
    servers: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Servers of ours that wait in the controller's line, by needs.
    waiting: Counter[str] = field(default_factory=Counter)
    #: Servers asked for that the controller has not told of yet.
    unplaced: int = 0

    @property
    def total(self) -> int:
        """Attempts that execute."""
        return self.executing.total()

    def add_server(self, agent: str, name: str, gpus: int) -> None:
        """Count a server; one that is counted already is not counted twice."""
        self.servers.setdefault(agent, {})[name] = gpus

    def begin(self, agent: str, name: str, options: UserOptions, *, warm: bool) -> None:
        """Count a new attempt."""
        self.executing[agent] += 1
        self.add_server(agent, name, options.gpus)
        self.unplaced += not warm

    def within_limits(self, agent: Agent, gpus: int) -> bool:
        """Whether the agent may have one more server with so many GPUs.

        What no server of the agent could ever have goes to the controller, which refuses it with the reason.
        """
        limits = agent.limits
        if gpus > limits.gpus or not limits.servers:
            return True
        mine = self.servers.get(agent.name, {})
        return len(mine) < limits.servers and (not gpus or sum(mine.values()) + gpus <= limits.gpus)


@dataclass(frozen=True)
class Asked:
    """A task that may be claimed, and what its server needs."""

    task: Task
    options: UserOptions
    #: :func:`needs_of` the options.
    needs: str
    #: A server that the agent's last task left, and that will do for this one.
    warm: str | None = None


def in_order(tasks: Iterable[Asked], executing: Mapping[str, int]) -> list[Asked]:
    """Return tasks, the next one first."""

    def rank(asked: Asked) -> tuple[int, int, float, str]:
        task = asked.task
        return -task.request.priority, executing.get(task.agent, 0), task.created_at, task.id

    return sorted(tasks, key=rank)


@dataclass(frozen=True)
class Chooser:
    """Chooses among available tasks.

    Parameters
    ----------
    bounds
        The most that goes at a time.
    agents
        Those that are active, by name.
    """

    bounds: Bounds
    agents: Mapping[str, Agent]

    def best(self, tasks: Iterable[Asked], standing: Standing, room: Room) -> Asked | None:
        """Return the task to claim next, or None when none may go now."""
        if standing.total >= self.bounds.executing:
            return None
        return next((asked for asked in in_order(tasks, standing.executing) if self._may(asked, standing, room)), None)

    def kept_by_limits(self, tasks: Iterable[Asked], standing: Standing) -> set[str]:
        """Return the agents of which a task is kept back by the agent's own limits."""
        known = ((asked, self.agents.get(asked.task.agent)) for asked in tasks if asked.warm is None)
        return {agent.name for asked, agent in known if agent and not standing.within_limits(agent, asked.options.gpus)}

    def _may(self, asked: Asked, standing: Standing, room: Room) -> bool:
        agent = self.agents.get(asked.task.agent)
        if agent is None:
            return False
        if asked.warm is not None:
            return True
        if not standing.within_limits(agent, asked.options.gpus):
            return False
        if self._sees_room(asked, agent, standing, room):
            return standing.unplaced < self.bounds.waiting
        return standing.waiting.total() + standing.unplaced < self.bounds.waiting

    def _sees_room(self, asked: Asked, agent: Agent, standing: Standing, room: Room) -> bool:
        if standing.waiting[asked.needs]:
            return False
        return room.sees(f"{asked.needs} {agent.name}", asked.options, labels_of(asked.options, agent))


def labels_of(options: UserOptions, agent: Agent) -> dict[str, str]:
    """Return the labels that a node must have for a server of the agent with these options."""
    return {**options.labels, **agent.labels}
