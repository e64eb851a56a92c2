"""The dispatcher with the real book of tasks: what it begins, takes up and leaves; carriers here end when told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agents_site import make_agent
from jupyter_server_process import notebook
from node_records import node, request
from waiting import eventually

from jupyterhub_agentfarm.agents.dispatch import dispatcher
from jupyterhub_agentfarm.agents.dispatch.carrier import Carried
from jupyterhub_agentfarm.agents.dispatch.dispatcher import Dispatcher
from jupyterhub_agentfarm.agents.dispatch.farm_news import FarmNews
from jupyterhub_agentfarm.agents.dispatch.servers import TaskServers
from jupyterhub_agentfarm.agents.dispatch.warm import WarmServers
from jupyterhub_agentfarm.agents.metrics import Now, TaskMetrics
from jupyterhub_agentfarm.agents.models import AgentLimits, Attempt, Task, TaskReason, TaskRequest
from jupyterhub_agentfarm.agents.tasks.book import TaskBook
from jupyterhub_agentfarm.controller.views import node_view
from jupyterhub_agentfarm.errors import ConflictError, FarmUnavailable
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Lease, UserOptions
from jupyterhub_agentfarm.records import to_json

NOTEBOOK = json.dumps(notebook("1")).encode()


class Carrier:
    """Carries an attempt until the test says how it ended."""

    def __init__(self, carried: Carried, attempt: Attempt, book: TaskBook) -> None:
        self.task, self.options, self.attempt, self._book = carried.task, carried.options, attempt, book
        self.ended: asyncio.Future[TaskReason] = asyncio.get_running_loop().create_future()

    def end(self, reason: TaskReason) -> None:
        """End the attempt."""
        if not self.ended.done():
            self.ended.set_result(reason)

    async def carry(self) -> tuple[Task, TaskReason]:
        """Carry it to its end."""
        reason = await self.ended
        return await self._book.finish(self.attempt, reason, "told by the test"), reason


class World:
    """A dispatcher and what it needs, on a farm of one node."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'tasks.sqlite'}")
        self.book = TaskBook(self.database, folder / "files")
        self.news = FarmNews()
        view = node_view(node("n1"), (), lambda _lease: True)
        self.farm = SimpleNamespace(current=True, nodes={"n1": view}, leases={})
        self.active, self.state = {"bot"}, "active"
        self.carriers: list[Carrier] = []
        self.metrics = TaskMetrics()
        self.dispatcher = self.make()

    def make(self, **options: Any) -> Dispatcher:
        """Return a dispatcher."""
        servers = TaskServers(SimpleNamespace(user=self._user, server=self._server), cpus=1)  # type: ignore[arg-type]
        parts = SimpleNamespace(servers=servers, warm=WarmServers(servers), make=self._carrier)
        made = Dispatcher(self.book, self, parts, self.farm, self.news, **options)  # type: ignore[arg-type]
        made.observers.append(self.metrics)
        return made

    def agents(self) -> list[Any]:
        """Return all agents."""
        return [make_agent("bot", state=self.state, limits=AgentLimits(servers=8, gpus=1)), make_agent("idle")]

    def is_active(self, name: str) -> bool:
        """Whether an agent may have tasks executed."""
        return name in self.active

    async def _user(self, _name: str) -> dict[str, Any]:
        return {"servers": {}}

    async def _server(self, _agent: str, _name: str) -> None:
        """Say that there is none."""

    def _carrier(self, carried: Carried, attempt: Attempt) -> Carrier:
        self.carriers.append(Carrier(carried, attempt, self.book))
        return self.carriers[-1]

    async def submit(self, agent: str = "bot", content: bytes | None = NOTEBOOK, **fields: Any) -> str:
        """Submit a task; return its id."""
        request = TaskRequest(path=None if content else "n.ipynb", notebook={} if content else None, **fields)
        return (await self.book.submit(request, agent, "ada", content, kernel="ir" if content else ""))[0].id

    async def begun(self, count: int) -> Carrier:
        """Return the newest carrier once there are so many."""
        await eventually(lambda: len(self.carriers) >= count, f"{count} attempts have begun")
        return self.carriers[-1]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose book is open."""
    made = World(tmp_path)
    await made.book.open()
    yield made
    await made.dispatcher.aclose()
    await made.book.aclose()
    await made.database.aclose()


async def test_a_task_is_begun_with_its_notebooks_kernel(world: World) -> None:
    """What is submitted while it waits is claimed at once, and its server is to have kernel and cores."""
    await world.dispatcher.open()
    task = await world.submit()
    carrier = await world.begun(1)
    assert (carrier.task.id, carrier.options.kernel, carrier.options.cpus) == (task, "ir", 1)
    carrier.end("completed")
    await eventually(lambda: 'attempts_total{outcome="completed"} 1' in world.metrics.text(Now()), "it is counted")
    await world.submit(content=None)
    assert (await world.begun(2)).options.kernel == ""


async def test_what_executes_is_taken_up(world: World) -> None:
    """Attempts of an earlier service get carriers at the start, with the end that was asked for meanwhile."""
    going, ending = await world.submit(), await world.submit()
    for task in (going, ending):
        await world.book.claim(task)
    await world.book.cancel(ending, "ada")
    await world.dispatcher.open()
    assert {carrier.task.id for carrier in world.carriers} == {going, ending}

    async def cancelled() -> bool:
        return (await world.book.task(ending)).state == "cancelled"

    await eventually(cancelled, "its end was asked for")
    assert (await world.book.task(going)).state == "executing"


async def test_an_end_reaches_the_carrier(world: World) -> None:
    """Cancelling what executes ends its attempt; a suspension makes it available, and it is left until resumed."""
    await world.dispatcher.open()
    first = await world.submit()
    await world.begun(1)
    await world.book.cancel(first, "ada")
    await eventually(world.carriers[0].ended.done, "its carrier knows")
    assert world.carriers[0].ended.result() == "cancelled"
    second = await world.submit()
    await world.begun(2)
    world.active.clear()
    await world.book.hold("bot", "agent_suspended")

    async def available() -> bool:
        return (await world.book.task(second)).state == "available"

    await eventually(available, "it is available again")
    world.active.add("bot")
    world.news.changed.set()
    assert (await world.begun(3)).attempt.number == 2


async def test_nothing_is_begun_without_the_farm(world: World) -> None:
    """While the controller does not tell of the farm, tasks wait; when it does, they begin."""
    world.farm.current = False
    await world.dispatcher.open()
    task = await world.submit()
    world.active.add("idle")
    await eventually(lambda: not world.book.changed.is_set(), "a pass was made")
    assert (await world.book.task(task)).state == "available"
    world.farm.current = True
    world.news.changed.set()
    await world.begun(1)


async def test_the_bound_is_kept(world: World) -> None:
    """No more tasks execute than may; one that ends makes place for the next, the one of higher priority first."""
    dispatcher = world.make(max_executing=1)
    for priority in (0, 1, 0):
        await world.submit(priority=priority)
    await dispatcher.open()
    first = await world.begun(1)
    assert first.task.request.priority == 1
    first.end("completed")
    second = await world.begun(2)
    assert len(world.carriers) == 2
    assert not second.ended.done()
    await dispatcher.aclose()


async def test_due_tasks_begin_in_time(world: World) -> None:
    """A task with a time of its own and one that needs another begin when these have come."""
    await world.dispatcher.open()
    first = await world.submit()
    await world.submit(after=(first,))
    (await world.begun(1)).end("completed")
    second = await world.begun(2)
    assert second.task.request.after == (first,)
    later = time.time() + 0.2
    await world.submit(not_before_at=later)
    third = await world.begun(3)
    assert third.attempt.started_at >= later


@pytest.mark.parametrize(("state", "becomes"), [("suspended", "available"), ("retired", "cancelled")])
async def test_an_agent_that_ends_while_a_task_is_claimed(world: World, state: str, becomes: str) -> None:
    """A suspension or retirement that overtakes a claim ends the attempt, though nobody told it of this task."""
    plain = world.book.claim

    async def claim(*arguments: Any, **options: Any) -> Any:
        if state == "suspended":  # a task that is available is left as it is
            await world.book.hold("bot", "agent_suspended")
        world.active.clear()
        world.state = state
        return await plain(*arguments, **options)

    world.book.claim = claim  # type: ignore[method-assign]
    await world.dispatcher.open()
    task = await world.submit()

    async def ended() -> bool:
        return (await world.book.task(task)).state == becomes

    await eventually(ended, "its attempt ended")


async def test_a_task_is_not_begun_for_another_agent_or_an_inactive_one(world: World) -> None:
    """What was handed over after it was chosen is claimed for the new agent only; nobody's server runs it before."""
    task = await world.submit()
    with pytest.raises(ConflictError, match="idle"):
        await world.book.claim(task, agent="idle")
    chosen = world.dispatcher._asked(await world.book.task(task))
    world.active.clear()
    assert not await world.dispatcher._begin(chosen)
    assert (await world.book.task(task)).attempt == 0


async def test_what_executes_without_a_carrier_is_taken_up(world: World) -> None:
    """An attempt whose claim was committed while the connection was lost, or whose carrier failed, gets a carrier."""
    plain, lost = world.book.claim, asyncio.Event()

    async def claim(*arguments: Any, **options: Any) -> Any:
        await plain(*arguments, **options)
        lost.set()
        raise FarmUnavailable("the connection was lost at the commit")

    world.book.claim = claim  # type: ignore[method-assign]
    await world.dispatcher.open()
    task = await world.submit()
    await asyncio.wait_for(lost.wait(), 10)
    carrier = await world.begun(1)
    assert (carrier.task.id, carrier.attempt.number) == (task, 1)
    carrier.ended.set_exception(RuntimeError("a fault of the carrier"))
    assert (await world.begun(2)).attempt.number == 1


async def test_a_carrier_that_leaves_late_takes_only_itself_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next attempt began before the carrier of the last one was gone, its end can be asked for still."""
    may_leave = asyncio.Event()
    plain = Carrier.carry

    async def carry(self: Carrier) -> tuple[Task, TaskReason]:
        ended = await plain(self)
        await may_leave.wait()
        return ended

    monkeypatch.setattr(Carrier, "carry", carry)
    await world.dispatcher.open()
    task = await world.submit()
    (await world.begun(1)).end("node_lost")
    second = await world.begun(2)
    may_leave.set()
    await eventually(lambda: 'outcome="node_lost"} 1' in world.metrics.text(Now()), "the first carrier has left")
    await world.book.cancel(task, "ada")
    await eventually(second.ended.done, "the second carrier knows")


async def test_many_that_cannot_go_hide_none_that_can(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tasks of an agent wait for GPUs that it may not have now, one that needs none begins."""
    monkeypatch.setattr(dispatcher, "_TASKS", 2)
    monkeypatch.setattr(dispatcher, "_TASKS_OF_EACH", 2)
    monkeypatch.setattr(dispatcher, "_TICK_SECONDS", 0.05)
    for _ in range(8):
        await world.submit(options=UserOptions(gpus=1))
    plain = await world.submit()
    await world.dispatcher.open()
    await world.begun(2)
    assert {carrier.options.gpus for carrier in world.carriers} == {0, 1}
    assert plain in {carrier.task.id for carrier in world.carriers}


async def test_leftovers_are_those_of_tasks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only servers of names that tasks' servers have are stopped at the start; an agent's own are not."""
    stopped: list[str] = []
    servers = world.dispatcher._carriers.servers
    monkeypatch.setattr(servers, "stop", lambda _agent, name: stopped.append(name))
    names = ("", "task-force", "task-0123abcd-x", "task-0123abcd-12", "xtask-0123abcd-1")
    monkeypatch.setattr(servers._hub, "user", lambda _name: asyncio.sleep(0, {"servers": dict.fromkeys(names)}))
    servers.stop_leftovers(["bot"], lambda *_: False)
    await eventually(lambda: stopped, "one is stopped")
    await servers.aclose()
    assert stopped == ["task-0123abcd-12"]


async def test_an_attempt_that_moved_is_taken_up_where_it_went(world: World) -> None:
    """A service that was killed after its notebook had named another kernel asks for a server that has it."""
    task = await world.submit(content=None)
    _, attempt = await world.book.claim(task)
    await world.book.move(attempt, "ir", "there is no ir on n1")
    await world.dispatcher.open()
    carrier = await world.begun(1)
    assert (carrier.options.kernel, carrier.attempt.number, carrier.attempt.phase) == ("ir", 1, "starting")


async def test_no_task_goes_to_a_warm_server_on_a_node_that_died(world: World) -> None:
    """A server that waits takes the next task, but neither where the node died nor where this task was lost."""
    options = world.dispatcher._carriers.servers.options(UserOptions(), "")
    warm = world.dispatcher._carriers.warm
    for name in ("first", "second"):
        lease = Lease(name, "bot", name, "running", 1, request("bot", name), 0.0, "n1")
        world.farm.leases[name] = to_json(lease)
        warm.keep("bot", name, options)
    await world.dispatcher.open()
    await world.submit(content=None)
    lost = await world.begun(1)
    assert lost.attempt.server_name == "first"
    lost.attempt = await world.book.note(lost.attempt, node="n1")
    lost.end("server_lost")
    again = await world.begun(2)
    assert again.attempt.server_name not in ("first", "second"), "that one is on the node of the last attempt"
    assert (again.options.avoid, again.task.avoid) == (("n1",), ("n1",))
    await world.submit(content=None)
    assert (await world.begun(3)).attempt.server_name == "second"
    warm.keep("bot", "first", options)
    world.farm.nodes["n1"] = node_view(node("n1", state="unreachable"), (), lambda _lease: True)
    await world.submit(content=None)
    assert (await world.begun(4)).attempt.server_name not in ("first", "second")
    assert list(warm) == []
