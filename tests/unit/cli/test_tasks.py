"""``agentfarm tasks``: against the real service, whose dispatcher is the test."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from agents_site import AgentsSite, agents_site, make_agent
from waiting import eventually

from jupyterhub_agentfarm.agents.models import Task, TaskError, TaskReason, TaskRequest
from jupyterhub_agentfarm.cli.task_submission import not_before, parameter
from jupyterhub_agentfarm.errors import InvalidField

NOTEBOOK: dict[str, Any] = json.loads(
    nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]))
)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AgentsSite]:
    """Serve the tasks of two agents of ada's."""
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "none")
    async with agents_site(tmp_path, [make_agent("bot"), make_agent("twin")]) as made:
        yield made


@pytest.fixture
def tasks(site: AgentsSite, agentfarm: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a coroutine function that runs `agentfarm tasks`."""
    monkeypatch.setenv("AGENTFARM_RUNTIME_DIR", site.runtime_dir)
    return lambda *argv: agentfarm("tasks", *argv)


async def submitted(site: AgentsSite, **request: Any) -> Task:
    """Return a task of bot's, whose name is sum."""
    given = TaskRequest(**({"notebook": {}, "name": "sum"} | request))
    return (await site.book.submit(given, "bot", "ada", json.dumps(NOTEBOOK).encode()))[0]


async def ended(site: AgentsSite, outcome: TaskReason, *, error: TaskError | None = None, **request: Any) -> Task:
    """Return a task that has executed on n1 and ended."""
    task = await submitted(site, **request)
    _, attempt = await site.book.claim(task.id)
    attempt = await site.book.note(attempt, phase="running", node="n1")
    return await site.book.finish(attempt, outcome, "as it should" if outcome == "completed" else "it broke", error)


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """Give the content of a file."""
    for chunk in chunks:
        yield chunk


async def test_submit(site: AgentsSite, tasks: Any, tmp_path: Path) -> None:
    """Every option reaches the task; its id is written."""
    path = tmp_path / "train.ipynb"
    path.write_text(json.dumps(NOTEBOOK))
    needed = await submitted(site)
    done = await tasks(
        "submit", str(path), "--agent", "bot", "--param", "epochs=5", "--param", "name=a b", "--param", "rate=0.5",
        "--gpus", "1", "--label", "zone=a", "--kernel", "python3", "--priority=-5", "--timeout", "90m",
        "--max-attempts", "7", "--after", needed.id, "--not-before", "2h", "--retry-errors", "--key", "k",
    )  # fmt: skip
    assert (done.status, done.err) == (0, "")
    task = await site.book.task(done.out.strip())
    request = task.request
    assert request.parameters == {"epochs": 5, "name": "a b", "rate": 0.5}
    assert (request.name, request.priority, request.timeout_seconds, request.max_attempts) == ("train", -5, 5400.0, 7)
    assert (request.options.gpus, request.options.labels, request.options.kernel) == (1, {"zone": "a"}, "python3")
    assert (request.after, request.not_before_at, request.retry_errors) == ((needed.id,), 7500.0, True)
    again = await tasks("submit", "--path", "reports/weekly.ipynb", "--agent", "twin", "--json")
    assert json.loads(again.out)["request"]["path"] == "reports/weekly.ipynb"


async def test_mistakes_are_said_in_a_sentence(tasks: Any, tmp_path: Path) -> None:
    """Before anything is sent, or as the service says it."""
    (tmp_path / "text.ipynb").write_text("text")
    (tmp_path / "empty.ipynb").write_text("{}")
    for argv, status, message in (
        (["submit"], 2, "give a NOTEBOOK here or --path of one in the workspace, and not both"),
        (["submit", "a.ipynb", "--path", "a.ipynb"], 2, "and not both"),
        (["submit", str(tmp_path / "none.ipynb")], 1, "none.ipynb cannot be read: No such file or directory"),
        (["submit", str(tmp_path / "text.ipynb")], 1, "text.ipynb is no notebook: it is not JSON"),
        (["submit", str(tmp_path / "empty.ipynb"), "--agent", "bot"], 1, "notebook must be a notebook"),
        (["submit", "--path", "a.ipynb", "--agent", "nobody"], 1, "there is no agent 'nobody'"),
        (["show", "0123456789abcdef"], 1, "there is no task '0123456789abcdef'"),
        (["submit", "--path", "a.ipynb", "--not-before", "2e9"], 1, "--not-before must be a duration such as 2h"),
        (["list", "--state", "done"], 1, "state must be one of scheduled, available"),
    ):
        done = await tasks(*argv)
        assert (done.status, done.out) == (status, ""), argv
        assert message in done.err
        assert done.err.count("\n") == 1


def test_values_of_the_command_line() -> None:
    """Parameters are JSON where they can be, times are durations or seconds since 1970."""
    assert [parameter(text) for text in ("1", "true", "[1]", "a b", "")] == [1, True, [1], "a b", ""]
    assert [not_before(text, 100.0) for text in ("", "2h", "1795694099")] == [None, 7300.0, 1795694099.0]
    with pytest.raises(InvalidField):
        not_before("tomorrow", 0.0)


async def test_list(site: AgentsSite, tasks: Any) -> None:
    """The newest first, by what is wanted; --json has them whole."""
    assert (await tasks("list")).err == "There are no such tasks: make one with `agentfarm tasks submit`.\n"
    first, second = await submitted(site), await submitted(site, name="late", not_before_at=9e9)
    done = await tasks("list")
    assert done.out == (
        "ID                NAME  AGENT  STATE      WHY         ATTEMPT  PRIORITY  AGE  TOOK\n"
        f"{second.id}  late  bot    scheduled  not_before  0        0         0s   -\n"
        f"{first.id}  sum   bot    available  submitted   0        0         0s   -\n"
    )
    some = json.loads((await tasks("list", "--json", "--state", "scheduled", "--name", "LATE")).out)
    assert [task["id"] for task in some["tasks"]] == [second.id]
    assert len(json.loads((await tasks("list", "--json", "--limit", "1")).out)["tasks"]) == 1


async def test_show_and_logs(site: AgentsSite, tasks: Any) -> None:
    """A failed task shows its attempt and the line that failed; its log has every change with its reason."""
    error = TaskError("ValueError", "no", 2, 3, "    raise ValueError('no')")
    task = await ended(site, "cell_error", error=error)
    shown = (await tasks("show", task.id)).out
    assert "state:      discarded (cell_error)\n" in shown
    assert re.search(r"^1 +n1 +ended +cell_error +0s +task-\w+-1 +it broke$", shown, re.MULTILINE)
    assert shown.endswith("  cell 2, line 3: raise ValueError('no')\n  ValueError: no\n")
    lines = (await tasks("logs", task.id)).out.splitlines()
    assert [line[20:] for line in lines] == [
        "available (submitted) by ada", "executing (claimed) attempt 1: attempt 1",
        "discarded (cell_error) attempt 1: it broke",
    ]  # fmt: skip
    assert len(json.loads((await tasks("logs", task.id, "--json")).out)["changes"]) == 3
    followed = await tasks("logs", task.id, "--follow")
    assert followed.status == 1
    assert followed.out.splitlines() == lines
    assert "cell 2, line 3: raise ValueError('no')" in followed.err
    task = await ended(site, "cell_error", error=TaskError("", "1", 4, None, "set -e"))
    assert "cell 4, line unknown; the cell begins with: set -e\n" in (await tasks("show", task.id)).out


async def test_submit_and_follow(site: AgentsSite, tasks: Any, tmp_path: Path) -> None:
    """Changes and cells are shown while it executes, and the exit status tells how it ended."""
    path = tmp_path / "sum.ipynb"
    path.write_text(json.dumps(NOTEBOOK))

    async def execute() -> None:
        (task,) = await eventually(site.book.available, "the task is there")
        await eventually(lambda: site.book.followers._queues.get(task.id), "it is followed")
        _, attempt = await site.book.claim(task.id)
        site.book.progress(attempt, 0, 1, 0)
        site.book.progress(attempt, 1, 1, None)
        await site.book.finish(attempt, "completed")

    done, _ = await asyncio.gather(tasks("submit", str(path), "--agent", "bot", "--follow"), execute())
    assert done.status == 0, done.err
    (task,) = await site.book.tasks()
    assert done.out == f"task {task.id} 'sum' of bot: completed in 0s\n"
    notes = done.err.splitlines()
    assert notes[0] == f"task {task.id}; Ctrl-C stops watching, not the task"
    assert [note for note in notes if note.startswith(f"{task.id}: ")] == [
        f"{task.id}: 0/1 attempt 1, cell 0", f"{task.id}: 1/1 attempt 1",
    ]  # fmt: skip


async def test_cancel_retry_and_hand_over(site: AgentsSite, tasks: Any) -> None:
    """Each says how the task is then."""
    task = await submitted(site)
    head = f"task {task.id} 'sum' of"
    assert (await tasks("cancel", task.id)).out == f"{head} bot: cancelled (local asked for its end)\n"
    assert (await tasks("cancel", task.id)).err == f"agentfarm: task {task.id} is cancelled already\n"
    assert (await tasks("retry", task.id)).out == f"{head} bot: available (local asked for one more attempt)\n"
    assert (await tasks("hand-over", task.id, "twin", "--note", "yours")).out.startswith(f"{head} twin: available")
    handed = json.loads((await tasks("hand-over", task.id, "ada", "--json")).out)
    assert handed["assignee"] == "ada"
    await site.book.claim(task.id)
    asked = await tasks("cancel", task.id)
    assert asked.out.endswith(": it ends when its attempt has been stopped\n")


async def test_notebook_and_artifacts(site: AgentsSite, tasks: Any, tmp_path: Path) -> None:
    """The notebook goes to stdout or a file, artifacts are listed or written into a folder."""
    task = await submitted(site)
    assert json.loads((await tasks("notebook", task.id)).out) == NOTEBOOK
    assert (await tasks("artifacts", task.id)).err == "The task has left no files.\n"
    _, attempt = await site.book.claim(task.id)
    await site.book.keep_notebook(attempt, b'{"executed": "\xc3\xa9"}')
    await site.book.keep_artifact(attempt, "out/a.csv", pieces(b"a,b"))
    target = tmp_path / "new" / "executed.ipynb"
    assert (await tasks("notebook", task.id, "--output", str(target))).err == f"Notebook: {target}\n"
    assert target.read_bytes() == b'{"executed": "\xc3\xa9"}'
    assert (await tasks("notebook", task.id, "--which", "executed")).out == '{"executed": "é"}'
    listed = (await tasks("artifacts", task.id, "--output", str(tmp_path / "files"))).out.splitlines()
    assert listed[1].startswith("1        out/a.csv  3     ")
    assert (tmp_path / "files" / "out" / "a.csv").read_text() == "a,b"
    missing = await tasks("notebook", task.id, "--output", str(target / "x"))
    assert missing.err == f"agentfarm: {target / 'x'} cannot be written: File exists\n"
