"""The API of tasks, asked over HTTP by agents, owners, members of projects, admins and strangers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from task_api import Api, notebook
from waiting import eventually

from jupyterhub_agentfarm.agents.access import MANAGE, READ
from jupyterhub_agentfarm.agents.client import AgentsClient
from jupyterhub_agentfarm.agents.models import AgentRequest
from jupyterhub_agentfarm.agents.registry.requests import AgentChange
from jupyterhub_agentfarm.agents.tasks import intake as task_intake
from jupyterhub_agentfarm.errors import AgentFarmError, ConflictError, InvalidField, NotFoundError


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """Give the content of a file."""
    for chunk in chunks:
        yield chunk


# ---- submissions ----


@pytest.mark.parametrize(("named", "kernel"), [("ir", "ir"), ("a b", ""), ("", "")])
async def test_a_task_knows_the_kernel_of_its_notebook(
    api: Api, monkeypatch: pytest.MonkeyPatch, named: str, kernel: str
) -> None:
    """It is kept at the submission, so that nobody reads the notebook again; what can be no kernel is not asked for."""
    assert (await api.submit(notebook=notebook(kernel=named)))["kernel"] == kernel
    monkeypatch.setattr(task_intake, "LARGE_BYTES", 10)
    assert (await api.submit(notebook=notebook(kernel=named)))["kernel"] == kernel


async def test_an_agent_submits_and_follows_its_task(api: Api) -> None:
    """From the submission to the artifact: view, events with progress, notebook."""
    task = await api.submit(name="sum", parameters={"a": [1]}, idempotency_key="k")
    assert (task["state"], task["agent"], task["created_by"]) == ("available", "bot", "bot")
    assert task["request"]["notebook"] == {}
    again = await api.submit(name="sum", parameters={"a": [1]}, idempotency_key="k")
    assert again == task, "cells have new ids in each notebook, but are the same work"
    bot = api.client("bot")
    heard: list[tuple[str, Any]] = []

    async def follow() -> None:
        async for name, data in bot.events(task["id"]):
            heard.append((name, data))

    following = asyncio.create_task(follow())
    await eventually(lambda: heard, "the first events have come")
    attempt = await api.claim(task)
    book = api.site.book
    await book.note(attempt, phase="running", node="n1")
    book.progress(attempt, 1, 2, 1)
    assert (await bot.task(task["id"]))["progress"]["cells_done"] == 1
    await book.keep_notebook(attempt, b'{"cells": [1]}')
    await book.keep_artifact(attempt, "out/a b.csv", pieces(b"a,", b"b"))
    await book.finish(attempt, "completed")
    await asyncio.wait_for(following, 10)
    names = [name for name, _ in heard]
    assert names[:2] == ["change", "task"]
    assert {"attempt", "progress", "artifact"} <= set(names)
    assert heard[-1][1]["state"] == "completed"
    view = await bot.task(task["id"])
    assert [change["reason"] for change in view["changes"]] == ["submitted", "claimed", "completed"]
    assert view["attempts"][0]["node"] == "n1"
    assert view["progress"] is None
    assert [each["path"] for each in view["artifacts"]] == ["out/a b.csv"]
    assert await whole(bot.artifact(task["id"], "out/a b.csv")) == b"a,b"
    assert await whole(bot.notebook(task["id"])) == b'{"cells": [1]}'
    submitted = json.loads(await whole(bot.notebook(task["id"], "submitted")))
    assert submitted["cells"][0]["source"] == ["1 + 1"]
    later = [name async for name, _ in bot.events(task["id"], view["changes"][1]["number"])]
    assert later == ["change", "task"]


async def whole(content: AsyncIterator[bytes]) -> bytes:
    """Return a file."""
    return b"".join([chunk async for chunk in content])


#: What is asked for beside a good notebook, and what is said about it.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"notebook": {"nbformat": 4}}, "notebook must be a notebook"),
    ({"notebook": notebook() | {"cells": [{"cell_type": "code"}]}}, "notebook must be a valid notebook"),
    ({"notebook": notebook() | {"cells": []}}, "at least one code cell"),
    ({"path": "a.ipynb"}, "not both"),
    ({"notebook": None}, "notebook must be given"),
    ({"notebook": None, "path": "../a.ipynb"}, "path must be relative"),
    ({"notebook": None, "path": "/etc/a.ipynb"}, "path must be relative"),
    ({"parameters": {"not a name": 1}}, "Python identifiers"),
    ({"parameters": {"a": "x" * 300_000}}, "put data into the workspace"),
    ({"notebook": notebook(language="fortran", kernel="f"), "parameters": {"a": 1}}, "written for Python, R, Julia"),
    ({"priority": 1}, "priority must be at most 0"),
    ({"options": {"gpus": 2}}, "options.gpus must be at most 1, the limit of the agent"),
    ({"options": {"priority": 1}}, "options must be without priority"),
    ({"after": ["no id"]}, "after must be the id of a task"),
    ({"after": ["0" * 16]}, "after must be ids of tasks that exist"),
    ({"project": "others"}, "project must be a project of the agent or of yours"),
    ({"timeout_seconds": 0}, "timeout_seconds"),
    ({"name": "a\0b"}, "name must be"),
    ({"frob": 1}, "frob must be one of"),
]


async def test_what_cannot_be_a_task_is_refused(api: Api) -> None:
    """The field, the form wanted and the value are said, and nothing is left behind."""
    for changes, message in REFUSED:
        with pytest.raises(InvalidField, match=message):
            await api.submit(**changes)
    assert (await api.client("bot").tasks())["tasks"] == []


async def test_what_an_agent_is_bound_to_is_respected(api: Api) -> None:
    """Labels and kernels of its registration; an agent that is not active takes no tasks."""
    with pytest.raises(InvalidField, match=r"options.labels.zone must be 'b' or absent"):
        await api.submit("twin", options={"labels": {"zone": "a"}})
    with pytest.raises(InvalidField, match=r"options.kernel must be one of the agent's kernels, python3, ir"):
        await api.submit("twin", options={"kernel": "julia"})
    with pytest.raises(InvalidField, match=r"notebook.metadata.kernelspec.name"):
        await api.submit("twin", notebook=notebook(kernel="bash"))
    await api.submit("twin", options={"labels": {"zone": "b"}, "kernel": "ir"})
    with pytest.raises(ConflictError, match="suspended"):
        await api.submit("ada", agent="idle")


async def test_an_owner_submits_with_priority(api: Api) -> None:
    """And so do those who manage agents; a person says which agent it is for."""
    assert (await api.submit("ada", agent="bot", priority=50))["created_by"] == "ada"
    api.client("root", MANAGE)
    await api.submit("root", agent="bot", priority=50)
    with pytest.raises(InvalidField, match="agent must be the name"):
        await api.submit("ada")


async def test_a_key_is_for_one_request(api: Api) -> None:
    """The answer to the same request is 200 with the same task, to another one 409."""
    body = {"notebook": notebook("1"), "idempotency_key": "k"}
    first = await api.client("bot").submit(body)
    assert (await api.client("bot").submit(body))["id"] == first["id"]
    for other in ({"priority": -1}, {"notebook": notebook("2")}):
        with pytest.raises(ConflictError, match="idempotency key"):
            await api.client("bot").submit(body | other)


async def test_a_large_notebook_is_read_by_a_child(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is checked as a small one is, and the event loop goes on meanwhile."""
    monkeypatch.setattr(task_intake, "LARGE_BYTES", 1000)
    task = await api.submit(notebook=notebook("'" + "x" * 3_000_000 + "'"), parameters={"a": 1})
    kept = await whole(api.client("bot").notebook(task["id"]))
    assert len(kept) > 3_000_000
    assert task["request"]["parameters"] == {"a": 1}
    with pytest.raises(InvalidField, match="at least one code cell"):
        await api.submit(notebook=notebook("") | {"metadata": {"x": "y" * 2000}})
    with pytest.raises(InvalidField, match="frob"):
        await api.submit(frob="y" * 2000)


# ---- who sees and does what ----


async def test_strangers_do_not_see_a_task(api: Api) -> None:
    """To them it is not there: neither its view nor its files, events or orders, nor in lists."""
    task = await api.submit()
    eve, stranger = api.client("eve"), api.client("stranger")
    for client in (eve, stranger):
        for ask in (client.task, client.cancel, client.retry, client.delete):
            with pytest.raises(NotFoundError):
                await ask(task["id"])
        with pytest.raises(NotFoundError):
            await client.hand_over(task["id"], "stranger")
        with pytest.raises(NotFoundError):
            await whole(client.notebook(task["id"]))
        with pytest.raises(NotFoundError):
            await anext(client.events(task["id"]))
        assert (await client.tasks())["tasks"] == []
    with pytest.raises(NotFoundError, match="there is no agent 'bot'"):
        await api.submit("eve", agent="bot")
    with pytest.raises(InvalidField, match="after"):
        await api.submit("stranger", after=[task["id"]])


async def test_owners_and_admins_see_and_act(api: Api) -> None:
    """The owner acts for its agent; who may read everything sees, and does nothing."""
    task = await api.submit()
    ada, reader = api.client("ada"), api.client("auditor", READ)
    for client in (ada, reader):
        assert (await client.task(task["id"]))["id"] == task["id"]
        assert [each["id"] for each in (await client.tasks())["tasks"]] == [task["id"]]
    for order in (reader.cancel, reader.delete):
        with pytest.raises(AgentFarmError, match="only bot and its owner"):
            await order(task["id"])
    assert (await ada.cancel(task["id"]))["detail"] == "ada asked for its end"
    assert (await ada.retry(task["id"]))["state"] == "available"


async def test_a_task_that_ended_is_deleted(api: Api) -> None:
    """By its agent, with its files: what is kept of the agent's tasks, as its view tells it, is less then."""
    bot = api.client("bot")
    task = await api.submit()
    attempt = await api.claim(task)
    await api.site.book.keep_artifact(attempt, "a.csv", pieces(b"x" * 1000))
    with pytest.raises(ConflictError, match="it is executing"):
        await bot.delete(task["id"])
    await api.site.book.finish(attempt, "completed")
    view = await bot.agent("bot")
    assert (view["kept_bytes"] > 1000, view["max_kept_bytes"]) == (True, api.site.book.max_agent_bytes)
    await bot.delete(task["id"])
    assert (await bot.agent("bot"))["kept_bytes"] == 0
    with pytest.raises(NotFoundError):
        await bot.task(task["id"])


async def test_members_of_a_project_see_its_tasks_and_take_them_over(api: Api) -> None:
    """A person of the group and an agent of the project; they do not cancel them."""
    task = await api.submit(project="sales")
    carol, friend = api.client("carol", groups=("sales",)), api.client("friend")
    for client in (carol, friend):
        assert (await client.task(task["id"]))["state"] == "available"
        assert len((await client.tasks(project="sales"))["tasks"]) == 1
        with pytest.raises(AgentFarmError, match="only bot and its owner"):
            await client.cancel(task["id"])
    assert (await carol.hand_over(task["id"], "carol"))["assignee"] == "carol"
    taken = await friend.hand_over(task["id"], "friend", "I have the data")
    assert taken["agent"] == "friend"
    with pytest.raises(InvalidField, match="to must be an agent of the same owner"):
        await friend.hand_over(task["id"], "stranger")
    with pytest.raises(InvalidField, match="to must be an active agent"):
        await friend.hand_over(task["id"], "idle")


async def test_an_owner_moves_tasks_between_their_agents(api: Api) -> None:
    """The owner acts for both; the agent that had the task sees it still, and does not get it back by itself."""
    task = await api.submit()
    bot, ada = api.client("bot"), api.client("ada")
    assert (await bot.hand_over(task["id"], "ada", "please look"))["assignee"] == "ada"
    assert (await ada.hand_over(task["id"], "twin"))["agent"] == "twin"
    assert (await bot.task(task["id"]))["assignee"] == "ada"  # it has submitted it, and still sees it
    with pytest.raises(AgentFarmError, match="only twin"):
        await bot.hand_over(task["id"], "bot")
    kernel = await api.submit(options={"kernel": "julia"})
    with pytest.raises(InvalidField, match=r"options.kernel must be one of the agent's kernels"):
        await ada.hand_over(kernel["id"], "twin")
    with pytest.raises(InvalidField, match="to must be the agent's owner"):
        await ada.hand_over(task["id"], "bob")


async def test_no_agent_has_another_one_execute_its_task(api: Api) -> None:
    """Of one owner or in one project: it is an offer, which the other one sees and takes, or its owner does."""
    bot = api.client("bot")
    for name, owner in (("twin", "ada"), ("friend", "bob")):
        task = await api.submit(project="sales")
        offered = await bot.hand_over(task["id"], name, "yours?")
        assert (offered["agent"], offered["assignee"]) == ("bot", name)
        for who in (name, owner):
            client = api.client(who)
            assert task["id"] in {each["id"] for each in (await client.tasks())["tasks"]}, who
            assert (await client.task(task["id"]))["assignee"] == name
        taken = await api.client(owner).hand_over(task["id"], name)
        assert (taken["agent"], taken["assignee"]) == (name, None)
    task = await api.submit()
    await bot.hand_over(task["id"], "twin")
    with pytest.raises(NotFoundError):
        await api.client("stranger").hand_over(task["id"], "stranger")
    assert (await api.client("twin").hand_over(task["id"], "twin"))["agent"] == "twin"


async def test_members_of_a_project_make_no_agent_of_others_execute(api: Api) -> None:
    """Neither a person of the project nor its agents: the task stays where it is."""
    task = await api.submit("friend", project="sales")
    for name in ("bot", "carol"):
        given = await api.client(name, groups=("sales",)).hand_over(task["id"], "friend" if name == "bot" else "bot")
        assert given["agent"] == "friend", name


async def test_who_takes_a_task_over_is_held_to_its_own_limits(api: Api) -> None:
    """The tasks that it may have open, and the priority that whoever asks may give it."""
    task = await api.submit("ada", agent="bot", priority=50)
    await api.client("ada").hand_over(task["id"], "twin")
    assert (await api.client("ada").task(task["id"]))["request"]["priority"] == 50
    task = await api.submit("ada", agent="bot", priority=50, project="sales")
    friend = api.client("friend")
    assert (await friend.hand_over(task["id"], "friend"))["request"]["priority"] == 0
    assert (await friend.task(task["id"]))["request"]["priority"] == 0
    api.site.book.max_open = 1
    with pytest.raises(AgentFarmError, match="friend has 1 tasks that have not ended"):
        await friend.hand_over((await api.submit(project="sales"))["id"], "friend")


@pytest.mark.parametrize("name", ["..", ".", "../services/agents", "ada/tokens", "a\nb"])
async def test_a_name_is_no_path_at_the_hub(api: Api, name: str) -> None:
    """A task is handed over to nobody of such a name, and no agent gets such an owner."""
    task = await api.submit()
    with pytest.raises(InvalidField, match="to must be"):
        await api.client("bot").hand_over(task["id"], name)
    for refused in (lambda: AgentRequest("x", owner=name), lambda: AgentChange(owner=name)):
        with pytest.raises(InvalidField, match="owner must be"):
            refused()


async def test_a_scope_is_needed_to_submit(api: Api) -> None:
    """A token of the agent without it reads only."""
    token = api.hub.token("bot", service="agents")
    client = AgentsClient(url=api.site.url, token=token, runtime_dir=api.site.runtime_dir)
    with pytest.raises(AgentFarmError, match="custom:agents:tasks:submit"):
        await client.submit({"notebook": notebook()})
    assert (await client.tasks())["tasks"] == []
    await client.aclose()


# ---- the rest ----


async def test_pages_of_the_list(api: Api) -> None:
    """The cursor of one page gives the next; what is no filter is refused."""
    ids = [(await api.submit(name=f"t{number}"))["id"] for number in range(3)]
    bot = api.client("bot")
    first = await bot.tasks(limit=2, state=["available", "executing"])
    assert [task["id"] for task in first["tasks"]] == [ids[2], ids[1]]
    second = await bot.tasks(limit=2, cursor=first["cursor"])
    assert ([task["id"] for task in second["tasks"]], second["cursor"]) == ([ids[0]], None)
    for wanted in ({"state": "done"}, {"limit": 0}, {"limit": "x"}, {"cursor": "x"}, {"cursor": "0" * 16}):
        with pytest.raises(InvalidField):
            await bot.tasks(**wanted)


async def test_the_board_tells_what_one_may_see(api: Api) -> None:
    """A follower hears of its own tasks only, and after a break of what it missed."""
    heard: list[Any] = []

    async def follow(client: AgentsClient, after: int | None = None) -> None:
        async for name, data in client.board(after):
            heard.append((name, data["task"]["agent"], data["change"]["state"], data["change"]["number"]))

    following = asyncio.create_task(follow(api.client("bot")))
    topic = api.site.book.followers._queues
    await eventually(lambda: topic.get("board"), "the board is followed")
    await api.submit("stranger")
    task = await api.submit()
    await eventually(lambda: heard, "the task is heard of")
    following.cancel()
    assert [each[:3] for each in heard] == [("change", "bot", "available")]
    await api.client("bot").cancel(task["id"])
    await api.submit("stranger")
    again = asyncio.create_task(follow(api.client("bot"), heard[0][3]))
    await eventually(lambda: len(heard) == 2, "what was missed is heard of")
    again.cancel()
    assert heard[1][:3] == ("change", "bot", "cancelled")


async def test_files_are_never_shown_as_pages_of_ours(api: Api) -> None:
    """Whatever an attempt left is a download, sealed; a path that is none is not found."""
    task = await api.submit()
    attempt = await api.claim(task)
    await api.site.book.keep_artifact(attempt, "x.html", pieces(b"<script>"))
    bot = api.client("bot")
    async with aiohttp.ClientSession(headers={"Authorization": f"token {bot.token}"}) as session:
        base = f"{api.site.url}api/v1/tasks/{task['id']}"
        async with session.get(f"{base}/artifacts/x.html") as got:
            assert got.headers["Content-Type"] == "application/octet-stream"
            assert got.headers["Content-Disposition"] == "attachment; filename*=UTF-8''x.html"
            assert "sandbox" in got.headers["Content-Security-Policy"]
            assert await got.read() == b"<script>"
        for path in ("artifacts/y", "artifacts/..%2Fnotebook.ipynb", "artifacts/x.html?attempt=2", "frob"):
            async with session.get(f"{base}/{path}") as got:
                assert got.status == 404, path
        async with session.get(f"{base}/events", headers={"Last-Event-ID": "x"}) as got:
            assert got.status == 400
        async with session.get(f"{base}/notebook?which=x") as got:
            assert got.status == 400
    with pytest.raises(NotFoundError):
        await whole(bot.notebook(task["id"], "executed"))


async def test_a_full_disk_is_said_so(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The submission is refused with what the disk said, and there is no task."""
    files = api.site.book.files
    files.max_notebook = 100
    with pytest.raises(AgentFarmError, match="larger than the 100 bytes"):
        await api.submit()
    assert (await api.client("bot").tasks())["tasks"] == []
