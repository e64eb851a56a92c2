"""Dispatcher: takes the best next task, as long as there is room, and has it carried.

::

    book changed, farm changed, something is due ──▶ promote ──▶ choose ──▶ claim ──▶ carrier
                                                                  └── again, until none may go

One loop does this. It claims no more than it may start: what waits here costs nothing, and goes by priority and
fairness when its time has come; what waits in the controller's line has its place there.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from traitlets import Integer
from traitlets.config import LoggingConfigurable

from ...controller.farm_watch import FarmWatch
from ...errors import ConflictError, NotFoundError
from ...faults import Edge
from ...models import UserOptions
from ...tasks import OwnedTasks
from ..models import Agent, Attempt, Task, TaskReason
from ..tasks.book import TaskBook
from .carrier import Carried, Carrier
from .carriers import Carriers
from .choice import Asked, Bounds, Chooser, Standing, labels_of, needs_of
from .farm_news import FarmNews
from .room import Room

#: So many tasks are looked at, about; of each agent at least so many.
_TASKS, _TASKS_OF_EACH = 2000, 20
#: Least time between two passes, and longest, in seconds; telemetry alone causes none.
_PAUSE_SECONDS, _TICK_SECONDS = 0.02, 2.0
#: Of so many tasks it is kept what they need.
_MOST_KEPT = 10_000


class Agents(Protocol):
    """Who is an agent."""

    def agents(self) -> list[Agent]:
        """Return all agents."""

    def is_active(self, name: str) -> bool:
        """Whether an agent may have tasks executed."""


class Observer(Protocol):
    """Who is told of attempts."""

    def began(self, task: Task, attempt: Attempt) -> None:
        """Take an attempt that begins."""

    def ended(self, task: Task, outcome: TaskReason, node: str | None) -> None:
        """Take how an attempt ended and on which node, where it had come to one, and its task as it is then."""


class Dispatcher(LoggingConfigurable):
    """Begins attempts and owns their carriers.

    Parameters
    ----------
    book
        All tasks.
    agents
        Who is an agent.
    carriers
        Makes carriers; its warm servers are used.
    farm, news
        What is known of nodes and leases, and what happens there.
    """

    max_executing = Integer(
        50,
        min=1,
        help="Most tasks that execute at a time, of all agents together. More use a large farm better; fewer keep the "
        "Hub and this service, which holds a connection for each, less busy.",
    ).tag(config=True)
    max_waiting = Integer(
        8,
        min=1,
        help="Most servers of tasks that wait in the controller's line at a time. More have their places in line, "
        "ahead of people who come later; fewer leave the order of tasks to priority and fairness for longer. What room "
        "is seen for goes in any case.",
    ).tag(config=True)

    def __init__(
        self, book: TaskBook, agents: Agents, carriers: Carriers, farm: FarmWatch, news: FarmNews, **options: Any
    ) -> None:
        super().__init__(**options)
        self._book, self._agents, self._carriers = book, agents, carriers
        self._farm, self._news = farm, news
        self._going: dict[str, Carrier] = {}
        #: Tasks whose end was asked for before they had a carrier.
        self._ended: dict[str, Task] = {}
        #: What the next attempt of a task needs, by the task and its attempts so far.
        self._wanted: dict[tuple[str, int], tuple[UserOptions, str]] = {}
        self._owned = OwnedTasks(self.log)
        self._taken_up_at = -_TICK_SECONDS
        #: Which of the tasks that come later are looked at next.
        self._page = 1
        carriers.inactive = self._inactive
        #: Who is told of attempts.
        self.observers: list[Observer] = []

    # ---- life ----

    async def open(self) -> None:
        """Take up what an earlier service was at, and begin."""
        self._book.cancelled.append(self._end)
        await self._take_up()
        self._carriers.servers.stop_leftovers((agent.name for agent in self._agents.agents()), self._is_used)
        self._owned.start_single(self._loop(), "dispatching tasks")

    async def aclose(self) -> None:
        """Begin nothing more and leave what goes on to the next service; a second call does nothing."""
        if self._end in self._book.cancelled:
            self._book.cancelled.remove(self._end)
        await self._owned.aclose()

    def _end(self, task: Task) -> None:
        carrier = self._going.get(task.id)
        if carrier is None:
            self._ended[task.id] = task
        elif task.ending is not None:
            carrier.task = task
            carrier.end(task.ending)

    def _is_used(self, agent: str, name: str) -> bool:
        attempts = (carrier.attempt for carrier in self._going.values())
        used = ((attempt.agent, attempt.server_name) for attempt in attempts)
        return (agent, name) in used or any((warm.agent, warm.name) == (agent, name) for warm in self._carriers.warm)

    async def _take_up(self) -> None:
        """Carry what executes and has no carrier: what an earlier service, a lost connection or a fault left."""
        self._taken_up_at = time.monotonic()
        # Nothing but this loop begins attempts, and a carrier leaves only after its attempt's end is kept.
        going = set(self._going)
        for task, attempt in await self._book.executing():
            if task.id not in going:
                self._carry(task, attempt)

    # ---- the loop ----

    async def _loop(self) -> None:
        while True:
            began, due = time.monotonic(), None
            self._book.changed.clear()
            self._news.changed.clear()
            with Edge(self.log, "tasks could not be dispatched, trying again"):
                due = await self._pass()
            # A pass over a long book is not made for every change of it.
            await asyncio.sleep(max(_PAUSE_SECONDS, time.monotonic() - began))
            await self._until_something_happens(due)

    async def _until_something_happens(self, due: float | None) -> None:
        seconds = _TICK_SECONDS if due is None else min(_TICK_SECONDS, max(0.0, due - time.time()))
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._book.changed, self._news.changed)]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    async def _pass(self) -> float | None:
        """Begin what may begin now; return when the next task is due."""
        due = await self._book.promote(time.time())
        if time.monotonic() - self._taken_up_at >= _TICK_SECONDS:
            await self._take_up()
        if len(self._going) >= self.max_executing or not self._farm.current:
            return due
        agents = {agent.name: agent for agent in self._agents.agents() if self._agents.is_active(agent.name)}
        of_each = max(_TASKS_OF_EACH, _TASKS // max(1, len(agents)))
        tasks = {task.id: task for task in await self._available(of_each)}
        chooser = Chooser(Bounds(self.max_executing, self.max_waiting), agents)
        self._carriers.warm.look(self._farm.leases.values(), self._farm.nodes)
        standing, room = self._standing(), self._room(agents)
        self._give_up_warm(chooser, tasks.values(), standing)
        while tasks and (best := chooser.best(map(self._asked, tasks.values()), standing, room)) is not None:
            del tasks[best.task.id]
            if await self._begin(best):
                name = self._going[best.task.id].attempt.server_name
                standing.begin(best.task.agent, name, best.options, warm=best.warm is not None)
                if best.warm is None:
                    room.take(best.options, labels_of(best.options, agents[best.task.agent]))
        return due

    async def _available(self, of_each: int) -> list[Task]:
        """Return tasks to choose from: the first of each agent and, where there are more, some that come later.

        Those that come later are others in each pass, so that none is hidden by many that cannot go now.
        """
        tasks = await self._book.available(of_each)
        if max(Counter(task.agent for task in tasks).values(), default=0) < of_each:
            self._page = 1
            return tasks
        later = await self._book.available(of_each, self._page * of_each)
        self._page = self._page + 1 if later else 1
        return tasks + later

    async def _begin(self, asked: Asked) -> bool:
        """Claim a task and start its carrier; return whether it was still there, and its agent active."""
        agent = asked.task.agent
        if not self._agents.is_active(agent):
            return False
        try:
            task, attempt = await self._book.claim(asked.task.id, asked.warm, agent=agent)
        except (ConflictError, NotFoundError):
            return False
        if asked.warm is not None:
            self._carriers.warm.take(task.agent, asked.warm)
        self._carry(task, attempt)
        for observer in self.observers:
            observer.began(task, attempt)
        if (reason := self._inactive(agent)) is not None:  # its tasks were held before this one was claimed
            self._going[task.id].end(reason)
        return True

    def _inactive(self, name: str) -> TaskReason | None:
        """Return for which reason an agent's attempts are to end; None while it is active."""
        if self._agents.is_active(name):
            return None
        states = {agent.name: agent.state for agent in self._agents.agents()}
        return "agent_retired" if states.get(name, "retired") == "retired" else "agent_suspended"

    def _carry(self, task: Task, attempt: Attempt) -> None:
        carrier = self._carriers.make(Carried(task, self._options(task)), attempt)
        self._going[task.id] = carrier
        if (ended := self._ended.pop(task.id, task)).ending is not None:
            self._end(ended)
        self._owned.start(self._carried(carrier), f"carrying {attempt.key}")

    async def _carried(self, carrier: Carrier) -> None:
        """Carry an attempt to its end, and forget what was known of its task."""
        try:
            ended = await carrier.carry()
        finally:
            if self._going.get(carrier.task.id) is carrier:  # the end was kept before: there may be a next one by now
                del self._going[carrier.task.id]
            self._news.changed.set()
        if ended is not None:
            for observer in self.observers:
                observer.ended(*ended, carrier.attempt.node)

    # ---- what is known ----

    def _standing(self) -> Standing:
        """Return who has what."""
        standing = Standing()
        leases = {(lease["owner"], lease["server_name"]): lease for lease in self._farm.leases.values()}
        for (owner, name), lease in leases.items():
            if lease["state"] != "stopping":
                standing.add_server(owner, name, lease["request"]["options"]["gpus"])
        for warm in self._carriers.warm:
            standing.add_server(warm.agent, warm.name, warm.options.gpus)
        for carrier in self._going.values():
            attempt = carrier.attempt
            standing.executing[attempt.agent] += 1
            standing.add_server(attempt.agent, attempt.server_name, carrier.options.gpus)
            if attempt.phase == "starting":
                placed = leases.get((attempt.agent, attempt.server_name))
                standing.unplaced += placed is None
                if placed is not None and placed["state"] == "waiting":
                    standing.waiting[needs_of(carrier.options)] += 1
        return standing

    def _room(self, agents: dict[str, Agent]) -> Room:
        """Return what is free, what was asked for a moment ago not counted."""
        room = Room(self._farm.nodes.values(), self._farm.leases.values())
        placed = {(lease["owner"], lease["server_name"]) for lease in self._farm.leases.values()}
        for carrier in self._going.values():
            attempt, agent = carrier.attempt, agents.get(carrier.attempt.agent)
            if attempt.phase == "starting" and agent and (attempt.agent, attempt.server_name) not in placed:
                room.take(carrier.options, labels_of(carrier.options, agent))
        return room

    def _give_up_warm(self, chooser: Chooser, tasks: Iterable[Task], standing: Standing) -> None:
        """End servers that wait for tasks where others need what they hold."""
        if any(lease["state"] == "waiting" for lease in self._farm.leases.values()):
            self._carriers.warm.drop_of(None)
        elif kept := chooser.kept_by_limits(map(self._asked, tasks), standing):
            self._carriers.warm.drop_of(kept)

    def _asked(self, task: Task) -> Asked:
        options, needs = self._wanted.get((task.id, task.attempt)) or self._want(task)
        return Asked(task, options, needs, self._carriers.warm.find(task.agent, options))

    def _want(self, task: Task) -> tuple[UserOptions, str]:
        """Return options and needs, which are the same until an attempt has ended."""
        if len(self._wanted) >= _MOST_KEPT:
            self._wanted.clear()
        options = self._options(task)
        self._wanted[task.id, task.attempt] = wanted = options, needs_of(options)
        return wanted

    def _options(self, task: Task) -> UserOptions:
        return self._carriers.servers.options(task.request.options, task.kernel, task.avoid)
