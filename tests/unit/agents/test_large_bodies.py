"""Long bodies: whose are kept, how many, and what is answered to the others."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import nbformat
import pytest
from agents_site import AgentsSite, agents_site, make_agent
from hub_double import HubDouble, hub_double
from traitlets import default
from waiting import eventually

from jupyterhub_agentfarm.agents.access import SUBMIT
from jupyterhub_agentfarm.agents.tasks import intake
from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.services.large_bodies import LargeBodyHandler

MIB = 2**20


class Small(AgentsSite):
    """A site that takes tasks of at most 12 MiB."""

    @default("max_task_body")
    def _max_task_body_default(self) -> int:
        return 12 * MIB


class Site:
    """The service and one client."""

    def __init__(self, site: AgentsSite, hub: HubDouble, session: aiohttp.ClientSession) -> None:
        self.site, self.hub, self._session = site, hub, session

    async def post(self, token: str | None, body: bytes, path: str = "tasks") -> tuple[int, dict[str, Any]]:
        """Return status and content of the answer to a body."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"token {token}"} if token else {})
        url = f"{self.site.url}api/v1/{path}"
        async with self._session.post(url, data=io.BytesIO(body), headers=headers) as answer:
            return answer.status, await answer.json()

    async def notebook(self, token: str, task: str, tag: str = "") -> tuple[int, str, bytes]:
        """Return status, tag and content of the answer to who asks for a notebook, and may know the one of a tag."""
        headers = {"Authorization": f"token {token}", "If-None-Match": tag}
        async with self._session.get(f"{self.site.url}api/v1/tasks/{task}/notebook", headers=headers) as answer:
            return answer.status, answer.headers["Etag"], await answer.read()

    async def begin(self, token: str | None, sent: int, declared: int) -> socket.socket:
        """Return a connection on which a part of a body has been sent."""
        where = urlsplit(self.site.url)
        lines = [f"POST {where.path}api/v1/tasks HTTP/1.1", f"Host: {where.netloc}", "Content-Type: application/json"]
        lines += [f"Content-Length: {declared}", *([f"Authorization: token {token}"] if token else [])]
        connection = await asyncio.to_thread(socket.create_connection, (where.hostname, where.port))
        head = "\r\n".join([*lines, "", ""]).encode()
        await asyncio.to_thread(connection.sendall, head + b" " * sent)
        return connection


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """Serve the API with one agent."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(hub_double())
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        served = await stack.enter_async_context(agents_site(tmp_path, [make_agent("bot")], kind=Small))
        yield Site(served, hub, await stack.enter_async_context(aiohttp.ClientSession()))


def task_of(size: int) -> bytes:
    """Return a request with a notebook of about so many bytes."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"'{'x' * size}'")])
    return json.dumps({"notebook": notebook}).encode()


async def test_nothing_is_kept_of_who_may_not(site: Site) -> None:
    """Bodies of nobody, of a user without the scope, and of what is declared as too long fill no memory."""
    without, bot = site.hub.token("ada", service="agents"), site.hub.token("bot", SUBMIT, service="agents")
    assert (await site.post(bot, task_of(10)))[0] == 201  # whatever is imported or kept once is there now
    tracemalloc.start()
    try:
        who = [(None, 10), (None, 10), (without, 10), (without, 10), (bot, 60), (bot, 60)]
        held = [await site.begin(token, 8 * MIB, mib * MIB) for token, mib in who]
        assert tracemalloc.get_traced_memory()[0] < 16 * MIB
    finally:
        tracemalloc.stop()
    for connection in held:
        connection.close()


async def test_the_end_of_a_connection_is_told(site: Site) -> None:
    """A connection is kept after a refusal, or the answer says that it ends: a proxy sends its next request on it."""
    where = urlsplit(site.site.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(f"GET {where.path}api/v1/tasks HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    body = await reader.readexactly(int(re.findall("content-length: (\\d+)", head)[0]))
    assert json.loads(body)["reason"] == "unauthenticated"
    writer.write(f"GET {where.path}api/v1/openapi.json HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
    kept = await reader.read(12) == b"HTTP/1.1 401"
    assert kept or "connection: close" in head
    writer.close()


async def test_a_refusal_comes_after_a_long_body(site: Site) -> None:
    """Whoever sends one is told why it is refused: not known, not allowed, too long."""
    without, bot = site.hub.token("ada", service="agents"), site.hub.token("bot", SUBMIT, service="agents")
    body = task_of(6 * MIB)
    for token, status, reason in ((None, 401, "unauthenticated"), (without, 403, "forbidden")):
        got, answer = await site.post(token, body)
        assert (got, answer["reason"]) == (status, reason)
    got, answer = await site.post(bot, task_of(13 * MIB))
    assert (got, answer["reason"], answer["max_bytes"]) == (413, "too_large", 12 * MIB)
    assert (await site.post(bot, body))[0] == 201


async def test_only_tasks_may_be_long(site: Site) -> None:
    """Every other order has the bound of all services."""
    bot = site.hub.token("bot", SUBMIT, service="agents")
    got, answer = await site.post(bot, b" " * (5 * MIB), "tasks/0123456789abcdef/cancel")
    assert (got, answer["reason"], answer["max_bytes"]) == (413, "too_large", 4 * MIB)


async def test_two_long_bodies_of_one_user_at_a_time(site: Site) -> None:
    """The third is refused, another user's is not, and one that is given up makes room."""
    bot, owner = (site.hub.token(name, SUBMIT, service="agents") for name in ("bot", "ada"))
    held = [await site.begin(bot, 5 * MIB, 6 * MIB) for _ in range(2)]
    await eventually(lambda: sum(LargeBodyHandler._large.values()) == 2, "both are being received")
    got, answer = await site.post(bot, task_of(5 * MIB))
    assert (got, answer["reason"]) == (429, "too_many")
    theirs = json.loads(task_of(5 * MIB)) | {"agent": "bot"}
    assert (await site.post(owner, json.dumps(theirs).encode()))[0] == 201
    held[0].close()
    await eventually(lambda: sum(LargeBodyHandler._large.values()) == 1, "the lost one is forgotten")
    assert (await site.post(bot, task_of(5 * MIB)))[0] == 201
    held[1].close()
    await eventually(lambda: not LargeBodyHandler._large, "nothing is kept")


async def test_few_large_notebooks_are_read_at_a_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come, there are two children, one of them for each user; who has two already is refused."""
    real, going, most, release = intake._ask_child, list[int](), list[int](), asyncio.Event()

    async def watched(body: bytes) -> bytes:
        going.append(1)
        most.append(len(going))
        await release.wait()
        try:
            return await real(body)
        finally:
            going.pop()

    monkeypatch.setattr(intake, "_ask_child", watched)
    body = task_of(3 * MIB)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(site.site.intake.read(body, user)) for user in ("a", "a", "b", "c")]
        await eventually(lambda: len(going) == 2, "two are being read")
        token = site.hub.token("a", SUBMIT, service="agents")
        got, answer = await site.post(token, body)
        assert (got, answer["reason"]) == (429, "too_many")
        release.set()
    assert max(most) == 2
    assert all(call.result().notebook for call in calls)


async def test_the_memory_of_a_child_is_bounded() -> None:
    """A body that would unfold to many times its size is refused, and the service does not feel it."""
    bomb = b'{"notebook": {"cells": [' + b"{}," * (14 * MIB) + b"{}]}}"
    with pytest.raises(InvalidField, match="memory there is"):
        await intake.Intake().read(bomb, "bot")


async def test_a_notebook_that_nobody_reads_fills_no_memory(site: Site) -> None:
    """Its answer is sent piece by piece, as fast as it is read, and is whole and known again by its tag."""
    token = site.hub.token("bot", SUBMIT, service="agents")
    _, task = await site.post(token, task_of(11 * MIB))
    where = urlsplit(f"{site.site.url}api/v1/tasks/{task['id']}/notebook")
    head = f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: token {token}\r\n\r\n".encode()
    tracemalloc.start()
    try:
        held = []
        for _ in range(4):
            held.append(await asyncio.to_thread(socket.create_connection, (where.hostname, where.port)))
            await asyncio.to_thread(held[-1].sendall, head)
            assert (await asyncio.to_thread(held[-1].recv, 15)) == b"HTTP/1.1 200 OK"
        assert tracemalloc.get_traced_memory()[0] < 12 * MIB
    finally:
        tracemalloc.stop()
    for connection in held:
        connection.close()
    status, tag, kept = await site.notebook(token, task["id"])
    assert (status, len(kept) > 11 * MIB) == (200, True)
    assert await site.notebook(token, task["id"], tag) == (304, tag, b"")
