"""Tasks of agents on a real Hub with real nodes: from submission to artifacts, and what becomes of those that fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jupyter_server_process import notebook
from tasks_hub import TasksHub, lines_of, tasks_hub
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

TELL = (
    "import os, pathlib\n"
    "print(x, os.environ['AGENTFARM_TASK_ID'], os.environ['AGENTFARM_ATTEMPT'], os.environ['AGENTFARM_FENCE'])\n"
    "folder = pathlib.Path(os.environ['AGENTFARM_ARTIFACTS'])\n(folder / 'deep').mkdir()\n"
    "(folder / 'deep' / 'out.csv').write_text('a,b\\n1,2\\n')\n(folder / 'away').symlink_to('/etc/passwd')"
)
TELL_R = (
    "cat(x[[2]], x[[3]]$three, Sys.getenv('AGENTFARM_TASK_ID'))\n"
    "write.csv(data.frame(a = 1), file.path(Sys.getenv('AGENTFARM_ARTIFACTS'), 'r.csv'))"
)
WAIT = "import pathlib, time\nwhile not pathlib.Path({go!r}).exists():\n    time.sleep(0.02)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[TasksHub]:
    """A Hub that all tests share."""
    async with tasks_hub(2, "c.WarmServers.keep_warm = 60\nc.Dispatcher.max_waiting = 2\n") as running:
        yield running


def texts(notebook: dict[str, object]) -> str:
    """Return what the cells of a notebook printed."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]  # type: ignore[attr-defined]
    return "".join(output.get("text", "") for output in outputs)


async def test_from_submission_to_artifacts(site: TasksHub) -> None:
    """A task gets its parameters and its identity, and leaves the executed notebook and its files, but no link's."""
    cells = ({"source": "x = 1", "metadata": {"tags": ["parameters"]}}, TELL)
    task = await site.submit("bot", *cells, parameters={"x": "given"})  # type: ignore[arg-type]
    view = await site.ended(task)
    assert (view["state"], view["attempt"]) == ("completed", 1), view
    (attempt,) = view["attempts"]
    assert attempt["node"] in ("n1", "n2")
    assert "symbolic link" in attempt["detail"]
    assert [change["state"] for change in view["changes"]] == ["available", "executing", "completed"]
    printed = texts(await site.request("GET", f"tasks/{task}/notebook", agent="bot"))
    assert printed == f"given {task} 1 {attempt['fence']}\n"
    (artifact,) = view["artifacts"]
    assert (artifact["path"], artifact["size_bytes"]) == ("deep/out.csv", 8)


async def test_a_warm_server_takes_the_next_task_of_equal_options(site: TasksHub) -> None:
    """The agent's next task runs in the server of the one before; one with other options gets a server of its own."""
    first = await site.ended(await site.submit("bot", "1"))
    second = await site.ended(await site.submit("bot", "2"))
    other = await site.ended(await site.submit("bot", "3", options={"gpus": 1}))
    names = [view["attempts"][0]["server_name"] for view in (first, second, other)]
    assert names[0] == names[1] != names[2]
    assert {view["state"] for view in (first, second, other)} == {"completed"}


async def test_a_poison_notebook_is_discarded(site: TasksHub) -> None:
    """An error of the notebook's own ends the task at the first attempt, with cell, line and traceback."""
    task = await site.submit("bot", "a = 1", "b = 2\nraise KeyError('poison')", "c = 3")
    view = await site.ended(task)
    assert (view["state"], view["reason"], len(view["attempts"])) == ("discarded", "cell_error", 1)
    error = view["error"]
    assert (error["ename"], error["cell"], error["line"]) == ("KeyError", 1, 2)
    assert error["source_line"] == "raise KeyError('poison')"
    assert any("poison" in line for line in error["traceback"])
    notebook = await site.request("GET", f"tasks/{task}/notebook")
    assert [cell["execution_count"] for cell in notebook["cells"]] == [1, 2, None]


async def test_a_kernel_that_dies_is_tried_again_until_it_was_enough(site: TasksHub, tmp_path: Path) -> None:
    """Each death is an attempt with its reason; after the last one the task is discarded, partial notebook kept."""
    log = tmp_path / "log"
    die = f"import os, signal\nopen({str(log)!r}, 'a').write(os.environ['AGENTFARM_ATTEMPT'] + '\\n')\n"
    task = await site.submit("bot", "print('before')", die + "os.kill(os.getpid(), signal.SIGKILL)", max_attempts=2)
    view = await site.ended(task)
    assert (view["state"], view["reason"]) == ("discarded", "attempts_exhausted"), view
    assert [attempt["outcome"] for attempt in view["attempts"]] == ["kernel_died", "kernel_died"]
    assert [change["state"] for change in view["changes"]].count("retryable") == 1
    assert lines_of(log) == ["1", "2"]
    assert texts(await site.request("GET", f"tasks/{task}/notebook")) == "before\n"


async def test_errors_are_retried_when_asked(site: TasksHub, tmp_path: Path) -> None:
    """With `retry_errors` a notebook that failed by itself gets its further attempts."""
    flag = tmp_path / "flag"
    once = f"import pathlib\np = pathlib.Path({str(flag)!r})\nknown = p.exists()\np.touch()\nassert known"
    view = await site.ended(await site.submit("bot", once, retry_errors=True))
    assert view["state"] == "completed"
    assert [attempt["outcome"] for attempt in view["attempts"]] == ["cell_error", "completed"]


async def test_timeouts(site: TasksHub) -> None:
    """A notebook that takes longer than its limit is interrupted and discarded as the notebook's own failure."""
    view = await site.ended(await site.submit("bot", "import time\ntime.sleep(60)", timeout_seconds=1))
    assert (view["state"], view["reason"], len(view["attempts"])) == ("discarded", "run_timeout", 1)


async def test_cancelling_interrupts(site: TasksHub, tmp_path: Path) -> None:
    """A task that is cancelled while it executes ends within seconds, its notebook so far kept, its kernel gone."""
    go = tmp_path / "never"
    task = await site.submit("bot", "print('so far')", WAIT.format(go=str(go)), "print('never')")
    await site.until(task, lambda view: (view["progress"] or {}).get("cells_done") == 1, "its first cell is done")
    await site.request("POST", f"tasks/{task}/cancel", {})
    view = await site.ended(task, 30)
    assert (view["state"], view["reason"]) == ("cancelled", "cancelled")
    assert texts(await site.request("GET", f"tasks/{task}/notebook")) == "so far\n"


async def test_cancelling_what_starts(site: TasksHub) -> None:
    """A task that is cancelled while its server starts ends at once, and the server is forgotten."""
    task = await site.submit("bot", "1", options={"labels": {}, "memory_bytes": 2**20})
    view = await site.in_phase(task, "starting")
    await site.request("POST", f"tasks/{task}/cancel", {})
    assert (await site.ended(task, 30))["state"] == "cancelled"
    name = view["attempts"][0]["server_name"]

    async def forgotten() -> bool:
        _, user = await site.hub.api("GET", "/users/bot?include_stopped_servers")
        return name not in user["servers"]

    await eventually(forgotten, "the server is gone", 60, 0.2)


async def test_what_no_node_can_serve_keeps_back_nothing(site: TasksHub, tmp_path: Path) -> None:
    """A request that no node could ever serve is refused with each node's reason; others go meanwhile."""
    lost = [await site.submit("bot", "1", options={"labels": {"disk": "nvme"}}, priority=-1) for _ in range(3)]
    good = await site.submit("bot", "1", priority=-2)
    views = [await site.ended(task) for task in lost]
    assert {(view["state"], view["reason"]) for view in views} == {("discarded", "refused")}
    assert "n1" in views[0]["detail"]
    assert (await site.ended(good))["state"] == "completed"


async def test_what_waits_for_a_gpu_does_not_clog(site: TasksHub, tmp_path: Path) -> None:
    """While tasks wait for GPUs that are held, tasks that need none execute; then those that waited do."""
    go = tmp_path / "go"
    await site.register("holder")
    held = [await site.submit("holder", WAIT.format(go=str(go)), options={"gpus": 1}) for _ in range(2)]
    for task in held:
        await site.running(task)
    await site.register("wanting")
    waiting = [await site.submit("wanting", "1", options={"gpus": 1}) for _ in range(3)]

    async def in_line() -> bool:
        return len(await site.hub.farm.queue()) >= 1

    await eventually(in_line, "one waits in the controller's line", 30, 0.1)

    def told(view: dict[str, Any]) -> bool:
        return "it waits at position 1" in "".join(attempt["detail"] for attempt in view["attempts"])

    await site.until(waiting[0], told, "the attempt tells its place", 30)
    passing = await site.submit("wanting", "1")
    assert (await site.ended(passing))["state"] == "completed"
    assert len(await site.hub.farm.queue()) <= 2
    go.touch()
    views = [await site.ended(task, 120) for task in (*held, *waiting)]
    assert {view["state"] for view in views} == {"completed"}


async def test_an_agents_limit_is_kept(site: TasksHub, tmp_path: Path) -> None:
    """An agent with one server has its tasks executed one after the other, without one waiting in the line."""
    await site.register("single", limits={"servers": 1, "gpus": 0})
    log = tmp_path / "log"
    note = "import time\n"
    note += f"for word in ('begin', 'end'):\n    open({str(log)!r}, 'a').write(word + '\\n')\n    time.sleep(0.2)"
    tasks = [await site.submit("single", note, options={"memory_bytes": number}) for number in range(1, 4)]
    views = [await site.ended(task, 120) for task in tasks]
    assert {view["state"] for view in views} == {"completed"}
    assert lines_of(log) == ["begin", "end"] * 3


async def test_suspended_agents_wait_and_retired_ones_do_not(site: TasksHub, tmp_path: Path) -> None:
    """A suspension makes what executes available again, uncounted; retirement cancels everything."""
    await site.register("shaky")
    task = await site.submit("shaky", WAIT.format(go=str(tmp_path / "go")))
    await site.running(task)
    await site.request("POST", "agents/shaky/suspend", {})
    view = await site.until(task, lambda view: view["state"] == "available", "it waits")
    assert (view["failures"], view["attempts"][0]["outcome"]) == (0, "agent_suspended")
    await site.request("POST", "agents/shaky/resume", {})
    (tmp_path / "go").touch()
    assert (await site.ended(task))["attempt"] == 2
    body = await site.request("POST", "agents/shaky/token", {})
    site.tokens["shaky"] = body["token"]
    last = await site.submit("shaky", WAIT.format(go=str(tmp_path / "never")))
    await site.running(last)
    await site.request("POST", "agents/shaky/retire", {})
    assert (await site.ended(last))["state"] == "cancelled"


async def test_what_is_handed_over_executes_as_the_other_agent(site: TasksHub, tmp_path: Path) -> None:
    """A task that another agent takes over runs in a server of that agent's, as its user, and is its task."""
    await site.register("giver")
    await site.register("taker")
    first = await site.submit("giver", WAIT.format(go=str(tmp_path / "go")))
    task = await site.submit("giver", "import os\nprint(os.environ['JUPYTERHUB_USER'])", after=[first])
    await site.running(first)
    await site.request("POST", f"tasks/{task}/handover", {"to": "taker"})
    (tmp_path / "go").touch()
    view = await site.ended(task)
    assert (view["state"], view["agent"]) == ("completed", "taker"), view
    assert [attempt["agent"] for attempt in view["attempts"]] == ["taker"]
    assert texts(await site.request("GET", f"tasks/{task}/notebook", agent="taker")) == "taker\n"
    assert (await site.ended(first))["agent"] == "giver"


async def test_metrics_are_for_those_who_may(site: TasksHub) -> None:
    """Who holds read:metrics gets the page of tasks, or the set of a role's nodes; an agent does not."""
    view = await site.ended(await site.submit("bot", "1"))
    node = view["attempts"][-1]["node"]
    page = await site.request("GET", "../../metrics")
    finished = f'agentfarm_tasks_finished_total{{node="{node}",kind="task",outcome="succeeded"}} '
    assert [line for line in page.splitlines() if line.startswith(finished) and int(line.split()[-1]) > 0], page
    assert f'agentfarm_node_tasks{{node="{node}",state="running"}} 0' in page
    assert 'agentfarm_api_request_duration_seconds_count{handler="agents.Tasks",code="201"}' in page
    assert "agentfarm_node_tasks" not in await site.request("GET", "../../metrics?set=hub")
    assert "agentfarm_tasks_queued" not in await site.request("GET", "../../metrics?set=microserver")
    with pytest.raises(ValueError, match="400"):
        await site.request("GET", "../../metrics?set=farm")
    assert 'agentfarm_tasks{state="executing"}' in page
    assert 'agentfarm_task_attempts_total{outcome="completed"}' in page
    assert "bot" not in page
    with pytest.raises(ValueError, match="403"):
        await site.request("GET", "../../metrics", agent="bot")


@pytest.mark.skipif(not Path("/usr/share/jupyter/kernels/ir").is_dir(), reason="R's IRkernel is not installed")
async def test_another_language(site: TasksHub) -> None:
    """A notebook of R's goes where R's kernel is, by the kernel that it names, with its parameters and its identity."""
    cells = ({"source": "x <- 1", "metadata": {"tags": ["parameters"]}}, TELL_R)
    body = notebook(*cells, kernelspec={"name": "ir", "display_name": "R", "language": "R"})  # type: ignore[arg-type]
    parameters = {"x": [1, "zwei", {"three": True}]}
    made = await site.request("POST", "tasks", {"notebook": body, "parameters": parameters}, "bot")
    view = await site.ended(made["id"], 120)
    assert view["state"] == "completed", view
    printed = texts(await site.request("GET", f"tasks/{made['id']}/notebook"))
    assert printed == f"zwei TRUE {made['id']}"
    assert [artifact["path"] for artifact in view["artifacts"]] == ["r.csv"]
