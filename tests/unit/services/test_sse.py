"""Server-sent events over a real connection: what arrives, keep-alives, and the end in every case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from tornado import httpserver, netutil, web
from waiting import eventually

from jupyterhub_agentfarm.services import sse


class Source:
    """Events that the test feeds, and whether somebody still follows."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        self.closed = False

    async def events(self) -> AsyncIterator[tuple[str, Any]]:
        """Yield what is fed until a None."""
        try:
            while (event := await self.queue.get()) is not None:
                yield event
        finally:
            self.closed = True


class _Handler(web.RequestHandler):
    async def get(self) -> None:
        """Stream the source."""
        await sse.stream_events(self, self.settings["source"].events())


@pytest.fixture
async def served() -> AsyncIterator[tuple[Source, str]]:
    """A source and its URL."""
    source = Source()
    (socket,) = netutil.bind_sockets(0, "127.0.0.1")
    server = httpserver.HTTPServer(web.Application([(r"/", _Handler)], source=source))  # type: ignore[arg-type]
    server.add_socket(socket)
    yield source, f"http://127.0.0.1:{socket.getsockname()[1]}/"
    server.stop()
    await server.close_all_connections()


async def test_stream(served: tuple[Source, str]) -> None:
    """Events arrive as they are made, one line of JSON each, and the response ends with them."""
    source, url = served
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        await source.queue.put(("a", {"text": "two\nlines"}))
        assert await response.content.readline() == b"event: a\n"
        assert await response.content.readline() == b'data: {"text":"two\\nlines"}\n'
        assert await response.content.readline() == b"\n"
        await source.queue.put(None)
        assert await response.content.read() == b""
    assert source.closed


async def test_keep_alive_loses_nothing(served: tuple[Source, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet stream carries comments, and the event after them arrives."""
    monkeypatch.setattr(sse, "KEEPALIVE_SECONDS", 0.01)
    source, url = served
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert await response.content.readline() == b": keep-alive\n"
        assert await response.content.readline() == b"\n"
        await source.queue.put(("a", 1))
        async with asyncio.timeout(5):
            while await response.content.readline() != b"data: 1\n":
                pass


@pytest.mark.parametrize("quiet", [True, False])
async def test_client_goes_away(served: tuple[Source, str], monkeypatch: pytest.MonkeyPatch, *, quiet: bool) -> None:
    """When the client is gone the source is closed, also while it has nothing to say."""
    monkeypatch.setattr(sse, "KEEPALIVE_SECONDS", 0.05 if quiet else 3600)
    source, url = served
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        await source.queue.put(("a", 1))
        await response.content.readline()
        assert not source.closed

    def closed() -> bool:
        if not quiet:
            source.queue.put_nowait(("more", 1))
        return source.closed

    await eventually(closed, "the source is closed")
