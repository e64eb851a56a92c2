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
            suite = {"name": "smoke", "title": "Smoke test", "cases": [{"name": "digits"}]}
            soak = suite | {"name": "soak", "title": "Soak", "mode": "duration", "duration_seconds": 14400}
            ramp = suite | {"name": "scaling", "title": "Scaling", "mode": "ramp", "ramp": [1, 2, 0]}
            self.finish({"suites": [suite, soak, ramp]})
        elif path == "runs":
            self.finish({"runs": [view]})
        elif path == "runs/r1":
            self.finish(view)
        elif path == "runs/r1/report":
            against = self.get_argument("against", "")
            self.finish(f"the {self.get_argument('format')} report" + (f" against {against}" if against else ""))
        elif path == "runs/r1/events":
            self._events(view)
        else:
            self.set_status(404)
            self.finish({"message": f"there is no run {path.partition('/')[2]!r}", "reason": "not_found"})

    def _events(self, view: dict[str, Any]) -> None:
        """Tell the run's events; fail as often as `away` says, the stream breaking off in the middle."""
        self.set_header("Content-Type", "text/event-stream")
        going = view | {"state": "running", "results": []}
        if self.settings["away"]:
            self.settings["away"] -= 1
            self.set_header("Content-Length", "100000")
            self.write(encode_event("run", going))
            self.flush()
            self.detach().close()
            return
        self.finish(encode_event("run", going) + encode_event("run", view))

    def post(self) -> None:
        self.settings["asked"].append(json.loads(self.request.body))
        if self.request.path.endswith("/cancel"):
            self.finish(self.settings["view"] | {"state": "running"})
            return
        self.set_status(201)
        self.finish(self.settings["view"] | {"state": "starting"})


@pytest.fixture
async def service(runtime_dir: Path) -> AsyncIterator[dict[str, Any]]:
    """Give what the service answers with, which a test may change, and what it was asked."""
    application = web.Application([(r"/api/v1/.*", _Service)], log_function=lambda handler: None)
    application.settings |= {"view": run_view(), "asked": [], "away": 0}
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
    assert ended.out == (
        "NAME     TITLE       MODE            CASES\n"
        "smoke    Smoke test  once            digits\n"
        "soak     Soak        4h              digits\n"
        "scaling  Scaling     ramp 1, 2, all  digits\n"
    )


async def test_list(service: Any, agentfarm: Any) -> None:
    """Runs are listed with how long they took; --json has them whole."""
    ended = await agentfarm("benchmark", "list")
    assert ended.out == (
        "ID  SUITE  STATE      PASSED  BY   STARTED  TOOK  NODES  DETAIL\n"
        "r1  smoke  completed  -       ada  4m       30s   a\n"
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
    assert ended.err == "run r1; Ctrl-C stops watching, not the run\na: 0/1 running\na: 1/1 done\n", ended.err
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


async def test_all_options(service: Any, agentfarm: Any, tmp_path: Path) -> None:
    """Labels, duration, interval and the rest are asked for, and nothing that was not given."""
    options = "--nodes role=microserver,zone=a --duration 4h --sample-interval 5m --exclusive --follow --against r0"
    report = tmp_path / "r.html"
    ended = await agentfarm("benchmark", "run", "soak", *options.split(), "--output", str(report))
    assert ended.status == 0, ended.err
    assert service["asked"] == [
        {
            "suite": "soak",
            "nodes": None,
            "labels": {"role": "microserver", "zone": "a"},
            "duration_seconds": 14400.0,
            "sample_interval_seconds": 300.0,
            "exclusive": True,
        }
    ]
    assert report.read_text() == "the html report against r0"
    await agentfarm("benchmark", "run", "soak", "--repeat", "3", "--no-wait")
    assert service["asked"][-1] == {"suite": "soak", "nodes": None, "repeat": 3}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--duration soon", "--duration must be a duration such as 30s, 15m or 4h, not 'soon'"),
        ("--duration 0s", "--duration must be a duration such as 30s, 15m or 4h, not '0s'"),
        ("--sample-interval -1", "--sample-interval must be a duration such as 30s, 15m or 4h, not '-1'"),
        ("--repeat 0", "--repeat must be a whole number of at least 1, not 0"),
        ("--repeat 2 --duration 4h", "--duration and --repeat do not go together: give one of them"),
        ("--nodes a,role=gpuserver", "--nodes takes names of nodes or labels, not both at once"),
        ("--nodes role=", "--nodes takes labels as in role=microserver, not 'role='"),
        ("--nodes zone=a,zone=b", "--nodes asks for zone=a and zone=b at once: no node has both"),
        ("--node a", "there is no option --node"),
    ],
)
async def test_wrong_options(service: Any, agentfarm: Any, options: str, sentence: str) -> None:
    """Each is one sentence and exit status 2, and nothing is started."""
    ended = await agentfarm("benchmark", "run", "smoke", *options.split())
    assert (ended.status, ended.err) == (2, f"agentfarm: {sentence} (see `agentfarm benchmark run --help`)\n")
    assert service["asked"] == []


async def test_the_service_goes_away_and_comes_back(service: Any, agentfarm: Any, tmp_path: Path) -> None:
    """A run is followed on, the service's absence is said once, and the exit status is the run's."""
    service["away"] = 2
    ended = await agentfarm("benchmark", "follow", "r1", "--output", str(tmp_path / "r.html"))
    assert ended.status == 0, ended.err
    away = [line for line in ended.err.splitlines() if "trying again" in line]
    assert away == [
        "the connection to the benchmark service was lost (ClientPayloadError); trying again until it is back"
    ]
    assert (await agentfarm("benchmark", "follow", "r2")).err == "agentfarm: there is no run 'r2'\n"


async def test_a_broken_limit(service: Any, agentfarm: Any, tmp_path: Path) -> None:
    """A run whose limits did not hold ends with status 1 and the limit."""
    limits = [
        {"name": "max_nodes_lost", "wanted": 0, "got": 1, "held": False},
        {"name": "min_succeeded_ratio", "wanted": 0.9, "got": 0.95, "held": True},
    ]
    lost = {"node": "a", "case": "digits", "outcome": "lost", "reason": "gone"}
    service["view"] = run_view(passed=False, limits=limits, results=[*run_view()["results"], lost])
    ended = await agentfarm("benchmark", "follow", "r1", "--output", str(tmp_path / "r.html"))
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == "agentfarm: limit max_nodes_lost 0: broken, it was 1"
    assert ended.out.splitlines()[2:5] == [
        "limit max_nodes_lost 0: broken, it was 1",
        "limit min_succeeded_ratio 0.9: held, it was 0.95",
        "run r1 of suite smoke: completed in 30s, not passed",
    ]
    service["view"]["passed"], limits[0]["held"] = True, True
    assert (await agentfarm("benchmark", "follow", "r1", "--output", str(tmp_path / "r.html"))).status == 0


async def test_cancel(service: Any, agentfarm: Any) -> None:
    """The end of a run is asked for."""
    ended = await agentfarm("benchmark", "cancel", "r1")
    assert (ended.status, service["asked"]) == (0, [{}])
    assert ended.out == "run r1 of suite smoke is being cancelled: its servers are stopped\n"


async def test_a_report_against_another_run(service: Any, agentfarm: Any, tmp_path: Path) -> None:
    """The other run is named to the service, and a PDF is written as it is."""
    path = tmp_path / "r.pdf"
    ended = await agentfarm("benchmark", "report", "r1", "--against", "r0", "--format", "pdf", "--output", str(path))
    assert (ended.status, path.read_bytes()) == (0, b"the pdf report against r0")
