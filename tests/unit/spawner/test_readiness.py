"""Only the server itself is ready: not whoever else answers on its port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado import httpserver, netutil, web
from waiting import eventually

from jupyterhub_agentfarm.spawner import readiness
from jupyterhub_agentfarm.spawner.readiness import LEASE_HEADER, VERSION_HEADER, until_ready

MINE, ANOTHERS = "a" * 32, "b" * 32


class _Squatter(web.RequestHandler):
    def initialize(self, status: int, headers: dict[str, str]) -> None:
        self.answer = status, headers

    def get(self) -> None:
        status, headers = self.answer
        self.set_status(status)
        for name, value in headers.items():
            self.set_header(name, value)
        self.finish({"version": "2.21.1"})


@asynccontextmanager
async def answering(status: int, headers: dict[str, str], port: int = 0) -> AsyncIterator[str]:
    """Give the URL of something that answers every GET so."""
    (listener,) = netutil.bind_sockets(port, "127.0.0.1")
    options = {"status": status, "headers": headers}
    server = httpserver.HTTPServer(web.Application([(r".*", _Squatter, options)]))
    server.add_socket(listener)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/user/ada/api"
    finally:
        server.stop()
        await server.close_all_connections()


async def is_ready(url: str, lease: str | None = MINE) -> bool:
    """Return whether the server is found ready soon."""
    try:
        async with asyncio.timeout(0.5):
            await until_ready(url, lease)
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {}),
        (200, {VERSION_HEADER: "6.1.1"}),
        (200, {LEASE_HEADER: MINE}),
        (200, {VERSION_HEADER: "6.1.1", LEASE_HEADER: ANOTHERS}),
        (200, {VERSION_HEADER: "6.1.1", LEASE_HEADER: MINE[:-1]}),
        (404, {VERSION_HEADER: "6.1.1", LEASE_HEADER: MINE}),
        (302, {VERSION_HEADER: "6.1.1", LEASE_HEADER: MINE, "Location": "/user/ada/api"}),
        (500, {VERSION_HEADER: "6.1.1", LEASE_HEADER: MINE}),
    ],
)
async def test_a_squatter_is_not_the_server(status: int, headers: dict[str, str]) -> None:
    """Whoever answers on the port without the lease's identity, or with anything but 200, is not ready."""
    async with answering(status, headers) as url:
        assert not await is_ready(url)


async def test_the_server_itself_is_ready() -> None:
    """200 with JupyterHub's version and the lease's id is the server; of another program the version is enough."""
    async with answering(200, {VERSION_HEADER: "6.1.1", LEASE_HEADER: MINE}) as url:
        assert await is_ready(url)
    async with answering(200, {VERSION_HEADER: "6.1.1"}) as url:
        assert await is_ready(url, None)


async def test_a_squatter_that_goes_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait goes on while a stranger answers, resets, or is silent, and ends with the server's first answer."""
    monkeypatch.setattr(readiness, "REQUEST_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        waiting = asyncio.create_task(until_ready(f"http://127.0.0.1:{port}/user/ada/api", MINE))
        await asyncio.wait({waiting}, timeout=0.5)
        assert not waiting.done()

    async def free() -> Any:
        try:
            return await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
        except OSError:
            return None

    resetting = await eventually(free, "the port can be listened on again")
    await asyncio.wait({waiting}, timeout=0.5)
    assert not waiting.done()
    resetting.close()
    await resetting.wait_closed()
    async with answering(200, {VERSION_HEADER: "6.1.1", LEASE_HEADER: MINE}, port), asyncio.timeout(5):
        await waiting


async def test_damage_without_the_identity_a_stranger_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the test that JupyterHub makes, any answer below 500, a stranger is taken for the server."""
    monkeypatch.setattr(readiness, "identified", lambda status, _headers, _lease: status < 500)
    async with answering(404, {}) as url:
        assert await is_ready(url)
