"""Following a run by server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from jupyter_server_process import Server
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from jupyterhub_agentfarm.runs.client import ServerRuns
from jupyterhub_agentfarm.runs.events import EventFeed


async def _follow(server: Server, run_id: str, stop_at: int | None = None, **headers: str) -> list[dict[str, Any]]:
    """Return the events of a run as a follower gets them, up to number `stop_at`."""
    events: list[dict[str, Any]] = []
    async with (
        server.client() as client,
        client.stream("GET", server.runs_url(f"{run_id}/events"), headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            key, _, value = line.partition(": ")
            if key == "id":
                events.append({"id": int(value)})
            elif key == "event":
                events[-1]["type"] = value
            elif key == "data":
                events[-1] |= json.loads(value)
                if events[-1]["id"] == stop_at:
                    return events
    return events


async def test_events_tell_the_run_and_end_with_it(server: Server) -> None:
    """A follower sees every state and cell in order, and the stream ends after the final state."""
    run = await server.submit("1", "2")
    events = await _follow(server, run["id"])
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    told = [(event["type"], event.get("state", event.get("index"))) for event in events]
    cells = [(kind, index) for index in (0, 1) for kind in ("cell_started", "cell_finished")]
    assert told == [("state", "queued"), ("state", "executing"), *cells, ("state", "completed")]
    assert events[3]["duration_seconds"] > 0
    assert (events[5]["cells_done"], events[5]["cells_total"]) == (2, 2)


async def test_an_answer_waits_for_the_end(server: Server) -> None:
    """Who asks with a wait is answered when the run has ended, or as it is when the wait is over; others at once."""
    go = server.root / "go"
    run = await server.submit(f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)")
    await server.until(run["id"], lambda seen: seen["state"] == "executing", "it executes")
    began = time.monotonic()
    answer = await server.request("GET", run["id"], params={"wait_seconds": "0.3"})
    assert (answer.json()["state"], time.monotonic() - began > 0.3) == ("executing", True)
    waiting = asyncio.create_task(server.request("GET", run["id"], params={"wait_seconds": "30"}))
    assert (await server.run(run["id"]))["state"] == "executing"
    go.touch()
    assert (await asyncio.wait_for(waiting, 20)).json()["state"] == "completed"
    assert (await server.request("GET", run["id"], params={"wait_seconds": "30"})).json()["state"] == "completed"


@pytest.mark.parametrize("text", ["", "soon", "-1", "31", "nan", "inf"])
async def test_a_wait_that_is_none_is_refused(server: Server, text: str) -> None:
    """Nobody holds a request for ever."""
    run = await server.execute("1")
    answer = await server.request("GET", run["id"], params={"wait_seconds": text})
    assert answer.status_code == 400
    assert "wait_seconds must be a number from 0 to 30" in answer.json()["message"]


async def test_a_server_that_cannot_wait_is_not_asked_without_pause() -> None:
    """One of an earlier version answers at once: the client waits in its place."""

    class Earlier(web.RequestHandler):
        def get(self) -> None:
            self.finish({"id": "a", "state": "executing"})

    server = HTTPServer(web.Application([("/.*", Earlier)]))
    (listening,) = bind_sockets(0, "127.0.0.1")
    server.add_socket(listening)
    began = time.monotonic()
    async with aiohttp.ClientSession() as session:
        runs = ServerRuns(session, f"http://127.0.0.1:{listening.getsockname()[1]}/", "n1")
        assert (await runs.get("a", 0.3))["state"] == "executing"
    assert time.monotonic() - began > 0.3
    server.stop()
    await server.close_all_connections()


async def test_a_follower_resumes_and_several_follow(server: Server) -> None:
    """A follower that lost its connection resumes without a gap or a repetition, and another is not disturbed."""
    run = await server.submit(*["import time; time.sleep(0.2)"] * 4)
    other = asyncio.create_task(_follow(server, run["id"]))
    first = await _follow(server, run["id"], stop_at=4)
    rest = await _follow(server, run["id"], **{"Last-Event-ID": "4"})
    assert first + rest == await other
    assert rest[0]["id"] == 5
    assert (await server.run(run["id"]))["state"] == "completed"


async def test_events_of_an_ended_run(server: Server) -> None:
    """The events of an ended run are answered at once; after the last there are none."""
    run = await server.execute("1/0")
    events = await _follow(server, run["id"])
    assert (events[-1]["state"], events[-1]["reason"]) == ("failed", "cell_error")
    last = events[-1]["id"]
    async with server.client() as client:
        answer = await client.get(server.runs_url(f"{run['id']}/events"), params={"after": last})
    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.parametrize("seq", ["-1", "x", "٣", "9" * 40])
async def test_an_id_that_is_none_is_refused(server: Server, seq: str) -> None:
    """A Last-Event-ID or ?after= that is no number is a 400."""
    run = await server.execute("1")
    async with server.client() as client:
        answer: httpx.Response = await client.get(server.runs_url(f"{run['id']}/events"), params={"after": seq})
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid")


async def test_a_feed_that_a_crash_cut_short_is_read(tmp_path: Path) -> None:
    """Half a line at the end of the file is dropped, and what is appended afterwards is whole."""
    feed = EventFeed(tmp_path / "events.jsonl")
    feed.publish("state", state="queued")
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write('\n{"type": "cell_st')
    loaded = EventFeed.load(tmp_path / "events.jsonl")
    loaded.publish("state", state="failed")
    again = await EventFeed.load(tmp_path / "events.jsonl").after(0, 0)
    assert [(event.seq, event.data["state"]) for event in again] == [(1, "queued"), (2, "failed")]


async def test_waiting_for_events_gives_up(tmp_path: Path) -> None:
    """Without an event the wait ends at its limit, and leaves no waiter behind."""
    feed = EventFeed(tmp_path / "events.jsonl")
    assert await feed.after(0, 0.01) == []
    assert feed._waiting == set()
