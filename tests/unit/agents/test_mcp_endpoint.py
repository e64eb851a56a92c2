"""The MCP endpoint by itself: who gets in, how many, what errors look like, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hub_double import HubDouble, hub_double
from mcp_client import mcp_session, text_of
from traitlets.config import Config
from waiting import eventually

from jupyterhub_agentfarm.agents.mcp import server as mcp_server
from jupyterhub_agentfarm.agents.mcp.server import McpEndpoint
from jupyterhub_agentfarm.agents.mcp.tools import answers
from jupyterhub_agentfarm.errors import KernelBusy
from jupyterhub_agentfarm.services import local
from jupyterhub_agentfarm.services.app import ServiceApp
from jupyterhub_agentfarm.services.hub import close_shared_client

INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


class _People:
    """A registry without agents."""

    def find(self, name: str) -> None:
        """Find none."""


class App(ServiceApp):
    """A service with the endpoint alone."""

    name = "agents"
    registry = _People()
    mcp: McpEndpoint

    def handlers(self) -> list[tuple[Any, ...]]:
        """Return the endpoint's routes."""
        return list(mcp_server.ROUTES)


class Site:
    """The running service."""

    def __init__(self, app: App, hub: HubDouble, session: aiohttp.ClientSession) -> None:
        self.app, self.hub, self._session = app, hub, session
        self.url = local.find_service(app.runtime_path, "agents") + "mcp"

    async def initialize(self, token: str, **headers: str) -> tuple[int, str]:
        """Return status and text of the answer to a client that opens a session."""
        headers |= {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
        async with self._session.post(self.url, json=INITIALIZE, headers=headers) as answer:
            return answer.status, await answer.text()

    async def open_session(self, token: str) -> tuple[int, str]:
        """Return status and name of a session, or what is said instead."""
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
        async with self._session.post(self.url, json=INITIALIZE, headers=headers) as answer:
            text = await answer.text()
            return answer.status, answer.headers.get("Mcp-Session-Id") or json.loads(text)["message"]

    async def end_session(self, token: str, name: str) -> int:
        """Return the status of the answer to a client that ends a session."""
        headers = {"Authorization": f"Bearer {token}", "Mcp-Session-Id": name}
        async with self._session.delete(self.url, headers=headers) as answer:
            return answer.status


@pytest.fixture
async def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Make services with options of the endpoint's; no task is left at the end."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(hub_double())
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def make(**options: Any) -> Site:
            app = App(runtime_dir=str(tmp_path / "run"), service_url="http://127.0.0.1:0")
            app.update_config(Config({"McpEndpoint": options}))
            app.mcp = McpEndpoint(app.runtime_path, parent=app)
            await app.mcp.open()
            stack.push_async_callback(app.mcp.aclose)
            server = app.listen()
            stack.push_async_callback(server.close_all_connections)
            stack.callback(server.stop)
            return Site(app, hub, session)

        yield make
        await close_shared_client()
    mine = asyncio.current_task()
    left = {task for task in asyncio.all_tasks() - before if task is not mine and "_shutdown_watcher" not in repr(task)}
    assert not left


async def test_any_host_or_those_that_are_allowed(make_site: Any) -> None:
    """Behind a proxy the Host is the public one; a site that names its hosts refuses others with 421."""
    site = await make_site()
    token = site.hub.token("ada", service="agents")
    assert (await site.initialize(token, Host="hub.example.org"))[0] == 200
    strict = await make_site(allowed_hosts=["hub.example.org", "127.0.0.1:*"])
    assert (await strict.initialize(token, Host="hub.example.org"))[0] == 200
    assert (await strict.initialize(token))[0] == 200
    assert (await strict.initialize(token, Host="evil.example.org"))[0] == 421


async def test_only_hub_users_get_in(make_site: Any) -> None:
    """Services and the machine's own account have no servers, and a token for another service is none for this."""
    site = await make_site()
    service = site.hub.token("backup", kind="service", service="agents")
    for token in (service, local.local_token(site.app.runtime_path)):
        status, text = await site.initialize(token)
        assert (status, "send a token of one" in text) == (403, True)
    status, text = await site.initialize(site.hub.token("ada", service="other"))
    assert (status, json.loads(text)["reason"]) == (403, "forbidden")


async def test_sessions_are_bounded(make_site: Any) -> None:
    """One too many is told to come later."""
    site = await make_site(max_sessions=2)
    token = site.hub.token("ada", service="agents")
    assert [(await site.initialize(token))[0] for _ in range(3)] == [200, 200, 503]


async def test_the_sessions_of_one_user_are_bounded(make_site: Any) -> None:
    """One user takes nothing from others; one that is ended makes room; requests without one are not counted."""
    site = await make_site(max_user_sessions=2)
    ada, bob = (site.hub.token(name, service="agents") for name in ("ada", "bob"))
    async with mcp_session(site.url, ada) as mcp:
        await mcp.client.list_tools()
    opened = [await site.open_session(ada) for _ in range(3)]
    assert [status for status, _ in opened] == [200, 200, 429]
    assert "you have 2 MCP sessions open" in opened[2][1]
    assert (await site.open_session(bob))[0] == 200
    assert await site.end_session(bob, opened[0][1]) == 404
    assert (await site.open_session(ada))[0] == 429, "another user ended nothing"
    assert await site.end_session(ada, opened[0][1]) == 200
    assert (await site.open_session(ada))[0] == 200


async def test_idle_sessions_of_a_user_make_room(make_site: Any) -> None:
    """A session that the SDK has ended because nobody used it counts no longer."""
    site = await make_site(max_user_sessions=1, session_timeout=0.2)
    token = site.hub.token("ada", service="agents")
    assert (await site.open_session(token))[0] == 200
    assert (await site.open_session(token))[0] == 429

    async def has_room() -> bool:
        return bool((await site.open_session(token))[0] == 200)

    await eventually(has_room, "the idle one is forgotten", interval=0.1)


async def test_a_fault_of_ours_shows_no_detail(make_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is told that the tool failed, and nothing of how; the next call works."""
    site = await make_site()
    token = site.hub.token("ada", service="agents")

    async def broken(caller: Any) -> dict[str, Any]:
        raise RuntimeError("secret-detail")

    async with mcp_session(site.url, token) as mcp:
        monkeypatch.setattr(site.app.mcp.desk, "servers", broken)
        result = await mcp.call("list_servers")
        assert result.is_error
        assert "secret-detail" not in text_of(result)
        assert len((await mcp.client.list_tools()).tools) == 17


async def test_a_hub_that_does_not_answer_is_a_value(make_site: Any) -> None:
    """The sentence and the reason are there, as for every failure."""
    site = await make_site()
    async with mcp_session(site.url, site.hub.token("ada", service="agents")) as mcp:
        error = await mcp.error("list_servers")
    assert error["reason"] == "hub_api"
    assert error["message"].startswith("the Hub answered 404 to GET /users/ada")


async def test_after_the_end_there_is_nothing(make_site: Any) -> None:
    """A service that closes says so, ends the sessions that are open, and may be closed again."""
    site = await make_site()
    token = site.hub.token("ada", service="agents")
    async with mcp_session(site.url, token, "legacy") as mcp:
        await mcp.client.list_tools()
        await site.app.mcp.aclose()
        await site.app.mcp.aclose()
        status, text = await site.initialize(token)
        assert (status, "the service is closing" in text) == (503, True)


async def test_failures_are_values() -> None:
    """An error of the farm keeps its reason and facts; one that takes too long has one of its own."""

    @answers.bounded(0.05)
    async def tool(wait: float) -> Any:
        await asyncio.sleep(wait)
        raise KernelBusy("it is busy")

    busy, slow = await tool(0), await tool(30)
    assert busy.is_error
    assert busy.structured_content == {"reason": "kernel_busy", "message": "it is busy"}
    assert text_of(busy) == "it is busy (reason: kernel_busy)"
    assert (slow.structured_content or {})["reason"] == "took_too_long"


async def test_an_answer_fits_what_clients_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too long goes without its data, which its text has too."""
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 100)
    assert answers.answer({"a": 1}).structured_content == {"a": 1}
    long = answers.answer({"output": "é" * 20}, "é" * 20)
    assert (long.structured_content, text_of(long)) == (None, "é" * 20)
