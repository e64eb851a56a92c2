"""One attempt with the real book and a server that answers as the test says: hostile, failing, or well."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from task_books import World as Books
from task_books import opened
from waiting import eventually

from jupyterhub_agentfarm.agents.dispatch.carrier import Carried, Carrier
from jupyterhub_agentfarm.agents.dispatch.carriers import Carriers
from jupyterhub_agentfarm.agents.dispatch.farm_news import FarmNews
from jupyterhub_agentfarm.agents.dispatch.servers import StartFailed
from jupyterhub_agentfarm.agents.dispatch.submission import submission
from jupyterhub_agentfarm.agents.dispatch.warm import WarmServers
from jupyterhub_agentfarm.agents.models import Attempt, Task, TaskRequest
from jupyterhub_agentfarm.agents.tasks import files as files_module
from jupyterhub_agentfarm.agents.tasks.files import Received
from jupyterhub_agentfarm.errors import DiskFull, FarmUnavailable, RunFailed
from jupyterhub_agentfarm.models import UserOptions
from jupyterhub_agentfarm.records import to_json
from jupyterhub_agentfarm.runs.client import LEASE_HEADER
from jupyterhub_agentfarm.runs.models import Run

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
RUN = to_json(Run("0" * 16, "", "completed", "python3", "2026-01-01T00:00:00.000Z", 1, 1))


class Server:
    """A user's server; what it answers to a request is its own."""

    def __init__(self) -> None:
        self.run: dict[str, Any] = dict(RUN)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request about runs."""
        what = f"{request.method} {request.path.partition('/runs')[2].removeprefix('/' + RUN['id'])}"
        self.asked.append(what)
        if what in self.answers:
            return await self.answers[what](request)
        if what.endswith("/notebook"):
            return told(body=b'{"cells": []}')
        if what.endswith("/artifacts"):
            return told({"artifacts": [], "refused": []})
        return told(self.run)


def told(data: Any = None, status: int = 200, **options: Any) -> web.Response:
    """Return an answer as farm's servers make them."""
    headers = {LEASE_HEADER: "1" * 32}
    if "body" in options:
        return web.Response(status=status, headers=headers, **options)
    return web.json_response(data, status=status, headers=headers)


class Site:
    """A book, and carriers of attempts in the server."""

    def __init__(self, books: Books, url: str, server: Server) -> None:
        self.books, self.book, self.server, self.url_ = books, books.book, server, url
        self.stopped: list[str] = []
        self.started: list[tuple[str, UserOptions]] = []
        self.refusal: StartFailed | None = None
        farm = SimpleNamespace(current=True, nodes={}, leases={}, waiting_for=lambda *_: "")
        self.warm = WarmServers(self)
        self.news = FarmNews()
        parts = (self.book, self, self.warm, (farm, self.news), self)
        self.carriers = Carriers(*parts, retry_interval=0.01, poll_interval=0.01, cancel_timeout=5)  # type: ignore[arg-type]

    def url(self, _agent: str, _name: str) -> str:
        """Return where the server is."""
        return self.url_

    async def start(self, _agent: str, name: str, options: UserOptions) -> None:
        """Start it, or refuse to."""
        self.started.append((name, options))
        if self.refusal is not None:
            raise self.refusal

    async def model(self, _agent: str, _name: str) -> Any:
        """Return the Hub's model of it."""
        return {"ready": True, "pending": None}

    def stop(self, _agent: str, name: str) -> None:
        """Have it end."""
        self.stopped.append(name)

    async def get(self, _agent: str) -> str:
        """Return a token."""
        return "token"

    def forget(self, _agent: str) -> None:
        """Forget it."""

    async def begun(self, **request: Any) -> tuple[Task, Attempt, Carrier]:
        """Return the carrier of a new task's attempt."""
        task, attempt = await self.books.executing(**request)
        return task, attempt, self.carriers.make(Carried(task, UserOptions()), attempt)

    async def carried(self, **request: Any) -> tuple[Task, Attempt]:
        """Carry a new task's attempt to its end; return both as they are kept."""
        task, _, carrier = await self.begun(**request)
        async with asyncio.timeout(20):
            await carrier.carry()
        return await self.book.task(task.id), (await self.book.attempts(task.id))[-1]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A site whose server is well."""
    async with _site(tmp_path) as made:
        yield made


@asynccontextmanager
async def _site(folder: Path) -> AsyncIterator[Site]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    async with opened(f"sqlite:///{folder / 'tasks.sqlite'}", folder) as books, TestServer(app) as http:
        made = Site(books, str(http.make_url("/")), server)
        try:
            yield made
        finally:
            await made.warm.aclose()
            await made.carriers.aclose()


async def test_an_attempt_is_carried(site: Site) -> None:
    """What is well is completed, and its server waits for the next task."""
    task, attempt = await site.carried()
    assert (task.state, attempt.outcome, site.stopped) == ("completed", "completed", [])
    assert [warm.name for warm in site.warm] == [attempt.server_name]


@pytest.mark.parametrize(
    "lie", [{"error": {"ename": 5, "evalue": "x"}}, {"id": "../../../api/kernels"}, {"cells_done": {}}, {"state": 7}]
)
async def test_lies_end_the_attempt_and_nothing_else(site: Site, lie: dict[str, Any]) -> None:
    """A server that tells nonsense fails its own attempt; all tasks can be read and promoted on."""
    site.server.run |= {"state": "failed", "reason": "cell_error"} | lie
    task, attempt = await site.carried()
    assert (attempt.outcome, task.state, len(site.stopped)) == ("internal", "retryable", 1)
    await site.book.promote(site.books.clock.now + 100)
    assert [each.state for each in await site.book.tasks()] == ["available"]


async def test_a_kernel_that_the_server_lacks(site: Site) -> None:
    """The attempt goes on in a server that has the kernel which the notebook's file on the first one names."""
    lacking = site.server.run | {"state": "failed", "reason": "kernel_not_found", "kernel_name": "ir"}
    runs = iter([lacking, site.server.run])
    site.server.answers["POST "] = lambda _: _later(told(next(runs), 201))
    site.server.answers["GET "] = lambda _: _later(told(lacking if len(site.started) == 1 else site.server.run))
    task, attempt = await site.carried()
    assert (task.state, task.kernel, attempt.number, attempt.outcome) == ("completed", "ir", 1, "completed")
    (first, usual), (second, with_kernel) = site.started
    assert (usual.kernel, with_kernel.kernel, attempt.server_name) == ("", "ir", second)
    assert site.stopped == [first]
    assert [change.reason for change in await site.book.changes(task.id)] == [
        "submitted", "claimed", "moved", "completed",
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "servers"), [("ir", 2), ("../x", 1)])
async def test_a_kernel_that_no_server_has(site: Site, name: str, servers: int) -> None:
    """Such a task is discarded at its first attempt; what is no kernel's name is asked for nowhere."""
    site.server.run |= {"state": "failed", "reason": "kernel_not_found", "kernel_name": name}
    task, attempt = await site.carried()
    assert (task.state, task.reason, attempt.number, len(site.started)) == ("discarded", "kernel_not_found", 1, servers)


async def test_a_notebook_is_submitted_as_it_is_kept(tmp_path: Path) -> None:
    """A large one is neither read nor written anew, which would hold up all others."""
    async with opened(f"sqlite:///{tmp_path / 'tasks.sqlite'}", tmp_path) as books:
        cells = b",".join([b'{"cell_type":"raw","metadata":{},"source":"a"}'] * 400_000)
        notebook = b'{"cells":[' + cells + b'],"metadata":{},"nbformat":4,"nbformat_minor":4}'
        request = TaskRequest(notebook={}, parameters={"x": [1]}, name='"n"', options=UserOptions(kernel="ir"))
        task, _ = await books.book.submit(request, "bot", "ada", notebook)
        _, attempt = await books.book.claim(task.id)
        began = time.process_time()
        body = await submission(task, attempt, books.book.files)
        took = time.process_time() - began
        began = time.process_time()
        sent = json.loads(body)
        assert took < (time.process_time() - began) / 4
        assert len(sent.pop("notebook")["cells"]) == 400_000
        assert (sent["parameters"], sent["name"], sent["kernel_name"]) == ({"x": [1]}, '"n"', "ir")
        assert sent["environment"]["AGENTFARM_TASK_ID"] == task.id
        task, _ = await books.book.submit(TaskRequest(path='a".ipynb'), "bot", "ada", None)
        sent = json.loads(await submission(task, attempt, books.book.files))
        assert (sent["path"], sent["idempotency_key"]) == ('a".ipynb', attempt.key)


def artifact(site: Site, path: str, content: bytes) -> None:
    """Have the server tell of a file that the run left."""
    entry = {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    site.server.answers["GET /artifacts"] = lambda _: _later(told({"artifacts": [entry], "refused": []}))
    site.server.answers[f"GET /artifacts/{path}"] = lambda _: _later(told(body=content))


async def test_a_full_disk_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """While this side has no room the node keeps what a run left, and the attempt says so; then all of it is kept."""
    artifact(site, "a.csv", b"1,2")
    task, _, carrier = await site.begun()
    create, full = files_module._create, [True]

    def on_a_full_disk(path: Path) -> Any:
        return Path("/dev/full").open("wb", buffering=0) if full[0] else create(path)

    monkeypatch.setattr(files_module, "_create", on_a_full_disk)
    carrying = asyncio.create_task(carrier.carry())

    async def waits() -> bool:
        (attempt,) = await site.book.attempts(task.id)
        return attempt.phase == "collecting" and "No space left on device" in attempt.detail

    await eventually(waits, "the attempt says what it waits for")
    tries = site.server.asked.count("GET /artifacts/a.csv")
    assert "DELETE " not in site.server.asked
    full[0] = False
    async with asyncio.timeout(20):
        await carrying
    (attempt,) = await site.book.attempts(task.id)
    assert (attempt.outcome, attempt.detail, tries) == ("completed", "", 0)
    assert [each.path for each in await site.book.artifacts(task.id)] == ["a.csv"]
    await eventually(lambda: "DELETE " in site.server.asked, "the server may forget the run")


async def test_a_disk_that_stays_full(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """At some time the attempt ends, says where its results are, and leaves them there."""
    site.carriers.disk_timeout = 0.1
    plain = site.book.files.receive

    async def receive(attempt: Attempt, path: str, content: AsyncIterator[bytes]) -> Received:
        await plain(attempt, path, content)
        raise DiskFull(f"{path} cannot be kept: No space left on device")

    artifact(site, "a.csv", b"1,2")
    monkeypatch.setattr(site.book.files, "receive", receive)
    task, attempt = await site.carried()
    assert (task.state, attempt.outcome) == ("retryable", "internal")
    assert "they are left on" in attempt.detail
    assert site.server.asked.count("GET /artifacts/a.csv") > 1
    await site.carriers.aclose()
    assert "DELETE " not in site.server.asked


async def test_what_is_not_kept_here_stays_on_the_node(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is larger than what is kept is left out with a note; the server is not asked to forget it."""
    monkeypatch.setattr(site.book.files, "max_artifact", 2)
    artifact(site, "a.csv", b"1,2")
    task, attempt = await site.carried()
    assert task.state == "completed"
    assert "a.csv" in attempt.detail
    await site.carriers.aclose()
    assert "DELETE " not in site.server.asked


async def test_a_list_of_files_that_is_none(site: Site) -> None:
    """What is told of artifacts is checked as well."""
    site.server.answers["GET /artifacts"] = lambda _: _later(told({"artifacts": [{"path": [], "sha256": 1}]}))
    assert (await site.carried())[1].outcome == "internal"


async def test_a_server_that_always_fails_is_lost(site: Site) -> None:
    """One that is there and answers nothing but 500 is borne for `patience`, as one that is silent."""
    site.carriers.patience = 0.1
    site.server.answers["GET "] = lambda _: _later(told({"message": "its disk failed", "reason": "disk"}, 507))
    _, attempt = await site.carried()
    assert attempt.outcome == "server_lost"
    assert "its disk failed" in attempt.detail
    assert site.server.asked.count("GET ") > 3


async def test_a_notebook_that_is_gone(site: Site) -> None:
    """A run whose notebook its server has no more is one whose output is lost."""
    site.server.answers["GET /notebook"] = lambda _: _later(told({"message": "gone", "reason": "not_found"}, 404))
    assert (await site.carried())[1].outcome == "output_lost"


@pytest.mark.parametrize("what", ["GET /notebook", "GET ", "GET /artifacts"])
async def test_endless_answers_are_not_read_to_their_end(
    site: Site, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a server sends without end, a bounded part of it is in memory; the attempt says why it ended."""
    monkeypatch.setattr(site.book.files, "max_notebook", 2**20)
    task, _, carrier = await site.begun()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={LEASE_HEADER: "1" * 32})
        await response.prepare(request)
        while True:
            await response.write(b" " * 2**20)

    site.server.answers[what] = endless
    async with asyncio.timeout(20):
        await carrier.carry()
    attempt = (await site.book.attempts(task.id))[-1]
    assert attempt.outcome == "output_lost"
    assert "bytes that are read" in attempt.detail


@pytest.mark.parametrize("fault", [FarmUnavailable("the database is away"), KeyError("state"), RunFailed("no JSON")])
async def test_a_fault_while_a_cancelled_attempt_ends(
    site: Site, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails while there is still something to keep of it, the attempt ends and its server is left."""
    site.server.run |= {"state": "executing"}
    task, attempt, carrier = await site.begun()
    carrying = asyncio.create_task(carrier.carry())
    await eventually(lambda: site.server.asked.count("GET ") > 2, "it is followed")

    async def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(carrier._server.runs, "cancel", fail)
    await site.book.cancel(task.id, "ada")
    carrier.end("cancelled")
    async with asyncio.timeout(10):
        await carrying
    assert (await site.book.task(task.id)).state == "cancelled"
    assert site.stopped == [attempt.server_name]


async def test_a_database_that_is_away_for_a_while_is_waited_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is to be written down ends the attempt because it cannot be written down at this moment."""
    asked: dict[str, int] = {}

    def flaky(name: str, kept: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **options: Any) -> Any:
            asked[name] = asked.get(name, 0) + 1
            if asked[name] % 3:
                raise FarmUnavailable("the database of tasks does not answer")
            return await kept(*arguments, **options)

        return call

    for name in ("note", "keep_notebook", "add_artifact", "finish"):
        monkeypatch.setattr(site.book, name, flaky(name, getattr(site.book, name)))
    artifact(site, "a.csv", b"1,2")
    task, attempt = await site.carried()
    assert (task.state, attempt.detail) == ("completed", "")
    assert [each.path for each in await site.book.artifacts(task.id)] == ["a.csv"]
    assert asked["note"] >= 6


@pytest.mark.parametrize(
    ("inactive", "state", "reason"),
    [
        ("agent_suspended", "available", "agent_suspended"),
        ("agent_retired", "cancelled", "agent_retired"),
        (None, "discarded", "refused"),
    ],
)
async def test_a_start_that_is_refused_because_of_the_agent(site: Site, inactive: Any, state: str, reason: str) -> None:
    """A suspended agent's servers are refused: its task waits for it, and is not discarded for that."""
    site.refusal = StartFailed("refused", "bot may start no servers")
    site.carriers.inactive = lambda _agent: inactive
    task, _ = await site.carried()
    assert (task.state, task.reason) == (state, reason)


@pytest.mark.parametrize(
    ("free_in_seconds", "pause_seconds"),
    [(200.0, 200), (1e6, 900), (-5.0, 1), (None, 60), ("the controller is away", 60)],
)
async def test_a_used_up_quota_is_tried_again_when_some_of_it_is_free(
    site: Site, free_in_seconds: float | str | None, pause_seconds: float
) -> None:
    """The task waits until then, but not for ever, and says how long; where nobody knows it asks now and then."""

    async def usage() -> dict[str, Any]:
        if isinstance(free_in_seconds, str):
            raise FarmUnavailable(free_in_seconds)
        free_at = None if free_in_seconds is None else time.time() + free_in_seconds
        others = {"owner": "other", "gpu_hours_free_at": time.time() + 5}
        return {"usage": [others, {"owner": "bot", "gpu_hours_free_at": free_at}]}

    site.refusal = StartFailed("quota", "bot used 4.0 of 4 GPU-hours in 7 days: 1 h is free again later")
    site.carriers.usage = usage
    task, _ = await site.carried()
    assert (task.state, task.reason, task.failures) == ("retryable", "quota", 0)
    assert task.available_at - site.books.clock.now == pytest.approx(pause_seconds, abs=1)
    waits = round(task.available_at - task.changed_at)
    assert re.search(rf"free again later; it is tried again in {waits} s, on \w+day", task.detail)


async def test_a_start_that_failed_names_its_node(site: Site) -> None:
    """The next attempt avoids the node on which a server did not come up, whose lease has ended by now."""
    site.refusal = StartFailed("start_failed", "the server ended at once")
    task, attempt, carrier = await site.begun()
    site.news.update_lease(
        {"owner": "bot", "server_name": attempt.server_name, "state": "released", "node": "n7", "detail": ""}
    )
    await carrier.carry()
    assert (await site.book.attempts(task.id))[-1].node == "n7"
    assert (await site.book.task(task.id)).avoid == ("n7",)


async def _later(answer: web.Response) -> web.StreamResponse:
    return answer
