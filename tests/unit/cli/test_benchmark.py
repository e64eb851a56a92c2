"""``agentfarm benchmark``: against a service that answers from memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tornado import httpserver, netutil, web

from jupyterhub_agentfarm.services import local
from jupyterhub_agentfarm.services.sse import encode_event


def run_view(**changes: Any) -> dict[str, Any]:
    """Return a run as the service answers it."""
    plain = {
        "id": "r1", "suite": "smoke", "state": "completed", "detail": "", "requested_by": "ada", "created_at": 0.0,
        "definition": {"cases": [{"name": "digits"}]}, "nodes": [{"name": "a", "skipped": ""}], "parameters": {},
        "provenance": {}, "started_at": 60.0, "ended_at": 90.0, "progress": [],
        "results": [{"node": "a", "case": "digits", "outcome": "succeeded", "reason": ""}],
    }  # fmt: skip
    return plain | changes


class _Service(web.RequestHandler):
    """All of the API."""

    def get(self) -> None:
        view, path = self.settings["view"], self.request.path.removeprefix("/api/v1/")
        if path == "suites":
            self.finish({"suites": [{"name": "smoke", "title": "Smoke test", "cases": [{"name": "digits"}]}]})
        elif path == "runs":
            self.finish({"runs": [view]})
        elif path == "runs/r1":
            self.finish(view)
        elif path == "runs/r1/report":
            self.finish(f"the {self.get_argument('format')} report")
        elif path == "runs/r1/events":
            self.set_header("Content-Type", "text/event-stream")
            going = view | {"state": "running", "results": []}
            self.finish(encode_event("run", going) + encode_event("run", view))
        else:
            self.set_status(404)
            self.finish({"message": f"there is no run {path.partition('/')[2]!r}", "reason": "not_found"})

    def post(self) -> None:
        self.settings["asked"].append(json.loads(self.request.body))
        self.set_status(201)
        self.finish(self.settings["view"] | {"state": "starting"})


@pytest.fixture
async def service(runtime_dir: Path) -> AsyncIterator[dict[str, Any]]:
    """Give what the service answers with, which a test may change, and what it was asked."""
    application = web.Application([(r"/api/v1/.*", _Service)], log_function=lambda handler: None)
    application.settings |= {"view": run_view(), "asked": []}
    local.local_token(runtime_dir)
    server = httpserver.HTTPServer(application)
    sockets = netutil.bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    local.announce(runtime_dir, "benchmark", f"http://127.0.0.1:{sockets[0].getsockname()[1]}/")
    yield application.settings
    server.stop()
    await server.close_all_connections()


async def test_suites(service: Any, agentfarm: Any) -> None:
    """Suites are listed with their cases."""
    ended = await agentfarm("benchmark", "suites")
    assert ended.out == "NAME   TITLE       CASES\nsmoke  Smoke test  digits\n"


async def test_list(service: Any, agentfarm: Any) -> None:
    """Runs are listed with how long they took; --json has them whole."""
    ended = await agentfarm("benchmark", "list")
    assert ended.out == (
        "ID  SUITE  STATE      BY   STARTED  TOOK  NODES  DETAIL\n"
        "r1  smoke  completed  ada  4m       30s   a\n"
    )  # fmt: skip
    assert json.loads((await agentfarm("benchmark", "list", "--json")).out) == {"runs": [run_view()]}


async def test_run(service: Any, agentfarm: Any, tmp_path: Path) -> None:
    """A run is followed to its verdict, and its report is written."""
    report = tmp_path / "report.html"
    ended = await agentfarm("benchmark", "run", "smoke", "--nodes", "a, b", "--output", str(report))
    assert (ended.status, service["asked"]) == (0, [{"suite": "smoke", "nodes": ["a", "b"]}])
    assert ended.out == (
        f"a: 1 succeeded of 1 cases\nrun r1 of suite smoke: completed in 30s\nReport: {report}\n"
    )  # fmt: skip
    assert ended.err == "run r1; Ctrl-C stops watching, not the run\na: 0/1 running\na: 1/1 done\n"
    assert report.read_text() == "the html report"


async def test_a_failed_run(service: Any, agentfarm: Any, tmp_path: Path) -> None:
    """A run with a case that failed ends with status 1, and with its report all the same."""
    service["view"] = run_view(results=[{"node": "a", "case": "digits", "outcome": "failed", "reason": "NameError"}])
    ended = await agentfarm("benchmark", "run", "smoke", "--output", str(tmp_path / "r.html"))
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == "agentfarm: digits on a failed: NameError"
    assert (tmp_path / "r.html").exists()


async def test_no_wait(service: Any, agentfarm: Any) -> None:
    """With --no-wait the run is only started."""
    ended = await agentfarm("benchmark", "run", "smoke", "--no-wait")
    assert (ended.status, ended.out) == (0, "run r1 of suite smoke was started\n")


async def test_show(service: Any, agentfarm: Any) -> None:
    """A run's verdict can be read later."""
    ended = await agentfarm("benchmark", "show", "r1")
    assert ended.out == "run r1 of suite smoke: completed in 30s\na: 1 succeeded of 1 cases\n"
    unknown = await agentfarm("benchmark", "show", "r2")
    assert (unknown.status, unknown.err) == (1, "agentfarm: there is no run 'r2'\n")


async def test_report(service: Any, agentfarm: Any, tmp_path: Path) -> None:
    """A report goes to stdout or to a file, in the form asked for; where it cannot be written is said."""
    assert (await agentfarm("benchmark", "report", "r1", "--format", "md")).out == "the md report"
    path = tmp_path / "r.csv"
    assert (await agentfarm("benchmark", "report", "r1", "--format=csv", f"--output={path}")).out == ""
    assert path.read_text() == "the csv report"
    ended = await agentfarm("benchmark", "report", "r1", "--output", str(tmp_path / "none" / "r.html"))
    assert (ended.status, ended.err) == (
        1,
        f"agentfarm: {tmp_path}/none/r.html cannot be written: No such file or directory\n",
    )
