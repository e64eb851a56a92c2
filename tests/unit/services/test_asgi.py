"""An ASGI application inside a service: requests, streams, and every way in which one of the two ends early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from waiting import eventually

from jupyterhub_agentfarm.services import local
from jupyterhub_agentfarm.services.app import ServiceApp
from jupyterhub_agentfarm.services.asgi import AsgiApp, AsgiHandler
from jupyterhub_agentfarm.services.hub import close_shared_client

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


class Handler(AsgiHandler):
    """Serves the application of the test."""

    start_seconds = 0.3
    leave_seconds = 0.1

    def asgi_app(self) -> AsgiApp:
        """Return the test's application."""
        app: AsgiApp = self.service.asgi_app
        return app

    def asgi_scope(self) -> Mapping[str, Any]:
        """Pass on who asks."""
        return {"user": self.principal.name, "state": {"colour": "green"}}


class App(ServiceApp):
    """A service with one ASGI application."""

    name = "asgi"
    asgi_app: AsgiApp

    def handlers(self) -> list[tuple[Any, ...]]:
        """Return the one route."""
        return [(r"app", Handler)]


class Site:
    """The running service; `app.asgi_app` is what it serves."""

    def __init__(self, app: App, session: aiohttp.ClientSession) -> None:
        self.app = app
        self.url = local.find_service(app.runtime_path, "asgi") + "app"
        self.session = session
        self.headers = {"Authorization": f"Bearer {local.local_token(app.runtime_path)}"}

    def request(self, method: str = "GET", **options: Any) -> Any:
        """Make a request."""
        headers = self.headers | options.pop("headers", {})
        return self.session.request(method, self.url, headers=headers, **options)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A service whose application a test gives; no task of it is left at the end."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "none")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    before: set[Any] = asyncio.all_tasks()
    app = App(runtime_dir=str(tmp_path / "run"), service_url="http://127.0.0.1:0")
    server = app.listen()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield Site(app, session)
    server.stop()
    await server.close_all_connections()
    await close_shared_client()
    before.add(asyncio.current_task())
    await eventually(lambda: asyncio.all_tasks() <= before, "no task is left")


async def test_the_application_is_told_the_request(site: Site) -> None:
    """Method, path, query, headers, body, who asks and the handler's own state arrive; answers have its headers."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        told = {key: scope[key] for key in ("type", "method", "path", "user")}
        told |= {"query": scope["query_string"].decode(), "body": message["body"].decode()}
        told |= {"colour": scope["state"]["colour"], "x": dict(scope["headers"])[b"x-mark"].decode()}
        await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"application/json"),
                    (b"x-two", b"1"), (b"x-two", b"2"), (b"connection", b"close")]})  # fmt: skip
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})

    site.app.asgi_app = echo
    for method in ("GET", "POST", "DELETE"):
        async with site.request(method, params={"a": "b c"}, data=b"data", headers={"X-Mark": "m"}) as answer:
            assert answer.status == 201
            assert answer.headers.getall("X-Two") == ["1", "2"]
            told = await answer.json()
            assert told.pop("query") in ("a=b+c", "a=b%20c")
            path = "/services/asgi/app"
            assert told == {"type": "http", "method": method, "path": path, "user": "local", "body": "data",
                            "colour": "green", "x": "m"}  # fmt: skip


async def test_nobody_reaches_it_without_a_token(site: Site) -> None:
    """The service's own authentication is asked first, and the application not at all."""
    site.headers = {}
    async with site.request("POST") as answer:
        assert answer.status == 401
        assert (await answer.json())["reason"] == "unauthenticated"


async def test_parts_arrive_as_they_are_sent(site: Site) -> None:
    """A part is with the client before the next is made."""
    read = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for number in range(3):
            await send({"type": "http.response.body", "body": b"part %d\n" % number, "more_body": True})
            await read.wait()
            read.clear()
        await send({"type": "http.response.body", "body": b""})

    site.app.asgi_app = stream
    async with site.request() as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        for number in range(3):
            assert await answer.content.readline() == b"part %d\n" % number
            read.set()
        assert await answer.content.read() == b""


async def test_a_client_that_reads_slowly_holds_the_application_back(site: Site) -> None:
    """No more than the connection's buffers is made ahead of the client."""
    sent = 0

    async def flood(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(START)
        while True:
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
            sent += 1

    site.app.asgi_app = flood
    async with site.request() as answer:
        await answer.content.readexactly(2**20)

        async def stalled() -> bool:
            before = sent
            await asyncio.sleep(0.1)
            return sent == before

        await eventually(stalled, "the application waits")
        assert sent < 64


async def test_a_client_that_goes_away_is_told_to_the_application(site: Site) -> None:
    """`receive` says it, the state says it, and what is sent after that is refused."""
    seen: list[Any] = []

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        seen.append((await receive())["type"])
        seen.append(scope["state"]["gone"].is_set())
        try:
            await send({"type": "http.response.body", "body": b"y", "more_body": True})
        except OSError as exc:
            seen.append(str(exc))
            raise

    site.app.asgi_app = wait
    async with site.request() as answer:
        await answer.content.readexactly(1)
        answer.close()
    await eventually(lambda: seen == ["http.disconnect", True, "the client went away"], f"it is told: {seen}")


@pytest.mark.parametrize("begun", [True, False])
async def test_an_application_that_does_not_listen_is_cancelled(site: Site, *, begun: bool) -> None:
    """After the grace nothing goes on for a client that is gone, before the first part or after it."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    entered = asyncio.Event()

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        try:
            if begun:
                await send(START)
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            entered.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set_result("cancelled")
            raise

    Handler.start_seconds, before = 10, Handler.start_seconds
    try:
        site.app.asgi_app = deaf
        asking = asyncio.ensure_future(site.request().__aenter__())
        await entered.wait()
        if begun:
            (await asking).close()
        asking.cancel()
        assert await asyncio.wait_for(ended, 5) == "cancelled"
    finally:
        Handler.start_seconds = before


async def test_an_answer_that_does_not_begin_is_ended(site: Site) -> None:
    """504 with the time, and the application's call is cancelled."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    site.app.asgi_app = silent
    async with site.request() as answer:
        assert answer.status == 504
        assert (await answer.json())["message"] == "there was no answer within 0.3 s"


async def test_no_answer_at_all_is_a_fault(site: Site) -> None:
    """An application that returns without an answer is 500."""

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        return

    site.app.asgi_app = nothing
    async with site.request() as answer:
        assert answer.status == 500


async def test_a_fault_before_the_answer_shows_no_detail(site: Site) -> None:
    """What it says stays here."""

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        raise ValueError("secret-detail")

    site.app.asgi_app = broken
    async with site.request() as answer:
        assert answer.status == 500
        assert "secret-detail" not in await answer.text()


@pytest.mark.parametrize("fault", [True, False])
async def test_half_an_answer_does_not_look_whole(site: Site, *, fault: bool) -> None:
    """An application that fails or ends in the middle of its answer breaks the connection."""

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        if fault:
            raise ValueError("no more")

    site.app.asgi_app = half
    async with site.request() as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
