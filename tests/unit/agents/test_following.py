"""Who follows tasks hears of all that they may see, and of nothing once they may not any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents_site import make_agent
from task_api import Api, notebook
from waiting import eventually

from jupyterhub_agentfarm.agents.access import MANAGE, SUBMIT
from jupyterhub_agentfarm.agents.client import AgentsClient
from jupyterhub_agentfarm.agents.tasks import events
from jupyterhub_agentfarm.services import sse


async def followed(api: Api) -> None:
    """Return when somebody follows the board."""
    await eventually(lambda: api.site.book.followers._queues.get("board"), "the board is followed")


async def test_however_much_was_missed_it_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, from the oldest change on; what others do between does not push it out."""
    monkeypatch.setattr(events, "PAGE", 3)
    first = await api.submit()
    mine = [await api.submit(name=str(number)) for number in range(10)]
    for _ in range(10):
        await api.submit("stranger")
    (change,) = await api.site.book.changes(first["id"])
    heard: list[str] = []

    async def follow() -> None:
        async for _, data in api.client("bot").board(change.number):
            heard.append(data["task"]["id"])

    following = asyncio.create_task(follow())
    await eventually(lambda: len(heard) == 10, "all is heard of")
    late = await api.submit()
    await eventually(lambda: len(heard) == 11, "and what comes now")
    following.cancel()
    assert heard == [*(task["id"] for task in mine), late["id"]]


async def lapse(api: Api, how: str) -> None:
    """Take from the agent `bot` what it may."""
    registry = api.site.registry
    if how == "rotated":
        registry.revocations["bot"] += 1
    else:
        await registry._known.save(make_agent("bot", owner="ada", projects=("sales",), state="suspended"), "ready")


@pytest.mark.parametrize("how", ["rotated", "suspended"])
async def test_an_agent_whose_right_ended_hears_nothing_more(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """Neither of all tasks nor of one, and the streams end, also where nothing happens."""
    task = await api.submit()
    heard: list[Any] = []

    async def follow(stream: Any) -> None:
        async for name, _ in stream:
            heard.append(name)

    streams = [api.client("bot").board(), api.client("bot").events(task["id"])]
    following = [asyncio.create_task(follow(stream)) for stream in streams]
    await followed(api)
    await eventually(lambda: len(heard) == 2, "the task is heard of")
    await lapse(api, how)
    await api.site.book.cancel(task["id"], "ada")
    await asyncio.wait_for(asyncio.gather(*following, return_exceptions=True), 10)
    assert len(heard) == 2
    if how == "rotated":
        monkeypatch.setattr(sse, "KEEPALIVE_SECONDS", 0.05)
        quiet = asyncio.create_task(follow(api.client("bot").board()))
        await followed(api)
        await lapse(api, how)
        await asyncio.wait_for(asyncio.gather(quiet, return_exceptions=True), 10)


async def test_a_former_owner_hears_nothing_more(api: Api) -> None:
    """From the change of the agent's owner on."""
    task = await api.submit()
    heard: list[Any] = []

    async def follow(stream: Any) -> None:
        async for name, _ in stream:
            heard.append(name)

    streams = [api.client("ada").board(), api.client("ada").events(task["id"])]
    following = [asyncio.create_task(follow(stream)) for stream in streams]
    await followed(api)
    await eventually(lambda: len(heard) == 2, "the task is heard of")
    await api.site.registry._known.save(make_agent("bot", owner="eve"), "ready")
    await api.site.book.cancel(task["id"], "eve")
    await asyncio.wait_for(asyncio.gather(following[1], return_exceptions=True), 10)
    following[0].cancel()
    assert len(heard) == 2


async def test_a_user_who_is_called_like_no_user_sees_nothing(api: Api) -> None:
    """Tasks of the Hub's own machine and of services are not those of users of the same name."""
    service = api.hub.token("reaper", SUBMIT, MANAGE, kind="service", service="agents")
    for token in (api.site.token, service):
        client = AgentsClient(url=api.site.url, token=token, runtime_dir=api.site.runtime_dir)
        task = await client.submit({"agent": "bot", "notebook": notebook()})
        assert task["created_by"] in ("local/local", "service/reaper")
        await client.aclose()
    for name in ("local", "reaper"):
        assert (await api.client(name).tasks())["tasks"] == []
