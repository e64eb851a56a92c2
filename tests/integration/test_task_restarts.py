"""Nothing is lost: the agents service, the Hub, nodes and their links die while tasks are in every phase."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from tasks_hub import AWAY, ENDED, TasksHub, lines_of, tasks_hub
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[TasksHub]:
    """A Hub with three nodes, so that there is one left to go to."""
    async with tasks_hub(3, "c.WarmServers.keep_warm = 0\n") as running:
        yield running


def notebook_of(log: Path, go: Path) -> tuple[str, ...]:
    """Return cells that write who executes them into `log` and wait for `go`."""
    tell = f"import os\nopen({str(log)!r}, 'a').write(os.environ['AGENTFARM_ATTEMPT'] + ' {{}}\\n')"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.02)"
    return tell.format("begun"), wait, tell.format("done")


def executed(*attempts: int) -> list[str]:
    """Return the log of attempts that were executed one after the other, of which the last one ended well."""
    return [*(f"{number} begun" for number in attempts), f"{attempts[-1]} done"]


async def begun(site: TasksHub, task: str, log: Path, attempt: int = 1) -> dict[str, Any]:
    """Return the view of a task whose notebook has begun."""
    await eventually(lambda: f"{attempt} begun" in lines_of(log), "its first cell is executed", 90, 0.05)
    return await site.running(task, attempt)


async def test_the_service_is_killed_in_every_phase(site: TasksHub, tmp_path: Path) -> None:
    """Attempts that start, run or wait are taken up where they were: same run, each cell executed once."""
    log, go = tmp_path / "log", tmp_path / "go"
    running = await site.submit("bot", *notebook_of(log, go))
    before = await begun(site, running, log)
    starting = await site.submit("bot", *notebook_of(tmp_path / "log2", go), options={"memory_bytes": 1})
    waiting = await site.submit("bot", "1", after=[running])
    await site.in_phase(starting, "starting")
    await site.kill_service()
    await site.running(starting)
    after = await site.running(running)
    same = [before["attempts"][0][name] for name in ("run_id", "server_name", "fence", "node")]
    assert [after["attempts"][0][name] for name in ("run_id", "server_name", "fence", "node")] == same
    go.touch()
    views = [await site.ended(task) for task in (running, starting, waiting)]
    assert [(view["state"], view["attempt"]) for view in views] == [("completed", 1)] * 3
    assert lines_of(log) == lines_of(tmp_path / "log2") == executed(1)


async def test_the_service_is_killed_while_it_collects(site: TasksHub) -> None:
    """Results that were fetched in part are fetched anew, whole, and the notebook is not executed again."""
    make = "import os\nfor name in 'abcd':\n    path = os.environ['AGENTFARM_ARTIFACTS'] + '/' + name\n"
    task = await site.submit("bot", make + "    open(path, 'wb').truncate(2 ** 27)")
    await site.in_phase(task, "collecting")
    await site.kill_service()
    view = await site.ended(task)
    assert (view["state"], view["attempt"]) == ("completed", 1), view
    assert [(each["path"], each["size_bytes"]) for each in view["artifacts"]] == [(name, 2**27) for name in "abcd"]


async def test_what_ended_meanwhile_is_collected(site: TasksHub, tmp_path: Path) -> None:
    """A notebook that ends while the service is away is collected when it is back."""
    log, go = tmp_path / "log", tmp_path / "go"
    task = await site.submit("bot", *notebook_of(log, go))
    await site.running(task)
    site.service().send_signal(signal.SIGSTOP)
    go.touch()
    await eventually(lambda: lines_of(log) == executed(1), "it has ended", 20)
    await site.kill_service()
    view = await site.ended(task)
    assert (view["state"], view["attempt"]) == ("completed", 1)


async def test_leftovers_are_stopped(site: TasksHub, tmp_path: Path) -> None:
    """A task's server that no attempt uses, as a killed service leaves it, is stopped by the next one."""
    go = tmp_path / "go"
    task = await site.submit("bot", *notebook_of(tmp_path / "log", go))
    await site.running(task)
    status, _ = await site.hub.api("POST", "/users/bot/servers/task-00000000-1", {})
    assert status in (201, 202)
    await site.hub.ready("bot", "task-00000000-1")
    await site.kill_service()

    async def names() -> set[str]:
        _, user = await site.hub.api("GET", "/users/bot?include_stopped_servers")
        return {name for name in user["servers"] if name.startswith("task-")}

    used = f"task-{task[:8]}-1"

    async def only_used() -> bool:
        return await names() == {used}

    await eventually(only_used, "the server that is not used is gone", 60, 0.2)
    go.touch()
    assert (await site.ended(task))["state"] == "completed"


async def test_the_hub_is_killed(site: TasksHub, tmp_path: Path) -> None:
    """Tasks outlive the Hub's SIGKILL and restart: what ran goes on, what started starts, each once."""
    log, go = tmp_path / "log", tmp_path / "go"
    running = await site.submit("bot", *notebook_of(log, go))
    before = await begun(site, running, log)
    starting = await site.submit("bot", *notebook_of(tmp_path / "log2", go), options={"memory_bytes": 1})
    await site.in_phase(starting, "starting")
    await site.hub.kill()
    await site.hub.start()
    await eventually(site.answers, "the agents service answers again", 60, 0.1)
    after = await site.running(running)
    assert after["attempts"][0]["run_id"] == before["attempts"][0]["run_id"]
    go.touch()
    views = [await site.ended(task, 120) for task in (running, starting)]
    assert [view["state"] for view in views] == ["completed"] * 2, views
    assert (len(views[0]["attempts"]), lines_of(log)) == (1, executed(1)), views[0]["attempts"]
    assert lines_of(tmp_path / "log2")[-1].endswith("done")
    assert sum(line.endswith("done") for line in lines_of(tmp_path / "log2")) == 1


async def test_a_server_that_is_killed(site: TasksHub, tmp_path: Path) -> None:
    """A server whose process is killed costs an attempt, with how it ended, and the next one is made at once."""
    log, go = tmp_path / "log", tmp_path / "go"
    task = await site.submit("bot", *notebook_of(log, go))
    view = await begun(site, task, log)
    (server,) = await site.servers_on(view["attempts"][0]["node"])
    server.kill()
    view = await site.running(task, 2)
    first = view["attempts"][0]
    assert first["outcome"] == "server_lost"
    assert "signal 9" in first["detail"]
    go.touch()
    assert (await site.ended(task))["attempt"] == 2
    assert lines_of(log) == executed(1, 2)


async def test_a_node_dies(site: TasksHub, tmp_path: Path) -> None:
    """Its task is retryable within ten seconds of the loss being known, and executes elsewhere as attempt 2."""
    log, go = tmp_path / "log", tmp_path / "go"
    task = await site.submit("bot", *notebook_of(log, go))
    node = (await begun(site, task, log))["attempts"][0]["node"]
    await site.lose_power(node)
    died_at = time.time()
    view = await site.running(task, 2, 90)
    first, second = view["attempts"]
    assert (first["outcome"], second["node"] != node) == ("node_lost", True), view
    assert node in first["detail"]
    (retryable,) = [change for change in view["changes"] if change["state"] == "retryable"]
    assert retryable["reason"] == "node_lost"
    assert retryable["at"] - died_at < 10 + 6, "the link's keepalive knows in at most six seconds"
    go.touch()
    assert (await site.ended(task))["state"] == "completed"
    assert lines_of(log) == executed(1, 2)
    await site.nodes[node].start()
    await site.ready()


async def test_a_node_that_is_cut_off_and_heals(site: TasksHub, tmp_path: Path) -> None:
    """The copy that goes on there is not collected, is ended at the heal, and the other one completes the task."""
    log, go = tmp_path / "log", tmp_path / "go"
    task = await site.submit("bot", *notebook_of(log, go))
    node = (await begun(site, task, log))["attempts"][0]["node"]
    servers = await site.servers_on(node)
    kernels = [process for server in servers for process in server.children(recursive=True)]
    site.nodes[node].freeze()
    for server in servers:
        server.suspend()
    view = await site.running(task, 2, 90)
    assert [attempt["outcome"] for attempt in view["attempts"]] == ["node_lost", None]
    site.nodes[node].thaw()
    for server in servers:
        with suppress(psutil.NoSuchProcess):
            server.resume()
    await eventually(lambda: not any(map(alive, [*servers, *kernels])), "the old copy is ended", 60, 0.2)
    go.touch()
    view = await site.ended(task)
    assert (view["state"], view["attempt"]) == ("completed", 2)
    assert lines_of(log) == executed(1, 2)
    await site.ready()


def alive(process: psutil.Process) -> bool:
    """Whether a process lives."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


async def test_many_tasks_through_many_deaths(site: TasksHub, tmp_path: Path) -> None:
    """Fifteen tasks of three agents, the service killed again and again: all completed, none twice at a time."""
    for name in ("mona", "lisa"):
        await site.register(name)
    tasks: dict[str, Path] = {}
    for number in range(15):
        log = tmp_path / f"log{number}"
        agent = ("bot", "mona", "lisa")[number % 3]
        tasks[await site.submit(agent, *notebook_of(log, tmp_path))] = log
    for _ in range(2):
        done = await states(site, tasks)
        await eventually_more(site, tasks, done.count("completed") + 3)
        await site.kill_service()
    views = [await site.ended(task, 150) for task in tasks]
    assert {view["state"] for view in views} == {"completed"}
    for view in views:
        assert lines_of(tasks[view["id"]]) == executed(*range(1, view["attempt"] + 1)), view


async def states(site: TasksHub, tasks: dict[str, Path]) -> list[str]:
    """Return the states of tasks."""
    while True:
        with suppress(*AWAY):
            found = await site.request("GET", "tasks?limit=100")
            return [task["state"] for task in found["tasks"] if task["id"] in tasks]
        await asyncio.sleep(0.1)


async def eventually_more(site: TasksHub, tasks: dict[str, Path], count: int) -> Any:
    """Return when so many tasks are completed, or all have ended."""

    async def enough() -> bool:
        found = await states(site, tasks)
        return found.count("completed") >= count or all(state in ENDED for state in found)

    return await eventually(enough, f"{count} are completed", 150, 0.1)
