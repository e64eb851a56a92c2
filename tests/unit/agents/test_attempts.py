"""What is known of an attempt's server and its end: losses, outcomes, servers that wait, what is counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from agents_site import make_agent
from node_records import node, request
from prometheus_client.parser import text_string_to_metric_families
from waiting import eventually

from jupyterhub_agentfarm.agents.dispatch.farm_news import FarmNews
from jupyterhub_agentfarm.agents.dispatch.loss import LossWatch, Patience
from jupyterhub_agentfarm.agents.dispatch.outcomes import REASONS, outcome_of, refused_run
from jupyterhub_agentfarm.agents.dispatch.servers import StartFailed, TaskServers, compact
from jupyterhub_agentfarm.agents.dispatch.told import ToldRun, told_artifacts, told_run
from jupyterhub_agentfarm.agents.dispatch.warm import WarmServers
from jupyterhub_agentfarm.agents.metrics import Now, TaskMetrics, nodes_now
from jupyterhub_agentfarm.agents.models import Attempt, Task, TaskRequest
from jupyterhub_agentfarm.agents.tasks.states import OUTCOMES
from jupyterhub_agentfarm.controller.views import node_view
from jupyterhub_agentfarm.errors import HubApiError, InvalidField
from jupyterhub_agentfarm.metrics import AGENT_STATES, ATTEMPT_OUTCOMES, TASK_ENDS, TASK_STATES
from jupyterhub_agentfarm.models import Lease, Mark, UserOptions
from jupyterhub_agentfarm.records import to_json
from jupyterhub_agentfarm.runs.client import RunRefused
from jupyterhub_agentfarm.runs.models import CellError, Run

LEASE = Lease("1" * 32, "bot", "task-1", "running", 1, request("bot", "task-1"), 0.0, "n1")


class Clock:
    """A clock that stands still."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Known:
    """Farm and Hub as one server's attempt sees them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.news = FarmNews(self.clock)
        self.nodes: dict[str, Any] = {}
        self.leases: dict[str, Any] = {}
        self.current = True
        self.answer: Any = {"ready": True, "pending": None}
        self.tell_node()
        self.tell_lease()

    def tell_node(self, **changes: Any) -> None:
        """Tell of the node as the controller does."""
        self.nodes["n1"] = node_view(node("n1", **changes), (), lambda _: True)
        self.news.update_node(self.nodes["n1"])

    def tell_lease(self, **changes: Any) -> None:
        """Tell of the server's lease as the controller does."""
        lease = to_json(replace(LEASE, **changes))
        self.leases = {} if lease["state"] == "released" else {lease["id"]: lease}
        self.news.update_lease(lease)

    async def model(self, agent: str, name: str) -> Any:
        """Return what the Hub says."""
        assert (agent, name) == ("bot", "task-1")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def watch(self) -> LossWatch:
        """Return who judges the server."""
        return LossWatch(("bot", "task-1"), self, self.news, self, Patience(3, 600))


async def test_a_silent_server_on_a_node_that_is_well_is_waited_for() -> None:
    """Nobody knows of anything wrong: the attempt goes on, until the patience is over."""
    known = Known()
    assert known.watch().node() == "n1"
    assert await known.watch().verdict(500) is None
    lost = await known.watch().verdict(601)
    assert lost is not None
    assert lost.reason == "server_lost"


async def test_an_unreachable_node_needs_both_silences() -> None:
    """A server is silent for the grace, with its node for twice that: sshd may just restart."""
    known = Known()
    known.tell_node(state="unreachable", detail="timed out")
    assert await known.watch().verdict(5.9) is None
    assert await known.watch().verdict(6) is not None, "it has been silent long before that was seen of its node"
    known.clock.now += 3
    assert await known.watch().verdict(2.9) is None
    assert await known.watch().verdict(1) is None
    lost = await known.watch().verdict(3)
    assert lost is not None
    assert (lost.reason, "timed out" in lost.detail) == ("node_lost", True)
    known.news.reset([known.nodes["n1"]], [])
    assert known.news.away_seconds("n1") == 0, "after a gap in the events the time begins anew"
    known.tell_node()
    assert known.news.away_seconds("n1") == 0


async def test_nodes_that_are_down_or_removed() -> None:
    """These are lost at once."""
    known = Known()
    known.tell_node(state="down", detail="no answer for 60 s")
    lost = await known.watch().verdict(0.1)
    assert lost is not None
    assert (lost.reason, "no answer" in lost.detail) == ("node_lost", True)
    known.nodes.clear()
    assert (await known.watch().verdict(0.1)) is not None


@pytest.mark.parametrize(("end", "reason"), [("oom", "server_lost"), ("node_down", "node_lost"), (None, "server_lost")])
async def test_a_lease_that_ended_says_why(end: Any, reason: str) -> None:
    """How the server's lease ended is the attempt's detail, and whether the node was at fault its reason."""
    known = Known()
    known.tell_lease(state="released", end=end, detail="it ran out of memory")
    lost = await known.watch().verdict(0.1)
    assert lost is not None
    assert (lost.reason, "out of memory" in lost.detail) == (reason, True)
    known.tell_lease(state="granted")
    assert await known.watch().verdict(0.1) is None, "a new lease of that name is another one"


async def test_what_the_hub_says() -> None:
    """A server that the Hub has no more is lost; a Hub that does not answer proves nothing; nor one that checks."""
    known = Known()
    for answer in (HubApiError("GET", "/users/bot", 0, "away"), {"ready": False, "pending": "check"}):
        known.answer = answer
        assert await known.watch().verdict(5) is None
    for answer in (None, {"ready": False, "pending": None}):
        known.answer = answer
        lost = await known.watch().verdict(5)
        assert lost is not None
        assert lost.reason == "server_lost"


async def test_a_controller_that_is_away_proves_nothing() -> None:
    """An old state of the farm is not believed."""
    known = Known()
    known.tell_node(state="down")
    known.current = False
    assert await known.watch().verdict(60) is None


def test_ends_are_forgotten_in_their_order() -> None:
    """Of very many ended leases the newest are remembered."""
    news = FarmNews()
    for number in range(3000):
        lease = replace(LEASE, server_name=f"s{number}", state="released", detail=f"end {number}")
        news.update_lease(to_json(lease))
    assert news.end_of("bot", "s0") is None
    assert news.end_of("bot", "s2999") is not None


# ---- outcomes ----


def ended_run(**changes: Any) -> dict[str, Any]:
    """Return a run as a server tells it."""
    run = Run("0" * 16, "", "completed", "python3", "2026-01-01T00:00:00.000Z", 1)
    told: dict[str, Any] = to_json(replace(run, **changes))
    return told


def ended(**changes: Any) -> ToldRun:
    """Return a run as it is taken from a server."""
    return told_run(ended_run(**changes))


def test_outcomes_of_runs() -> None:
    """Each reason of a run is one of an attempt; error, cut output and what is not kept are told."""
    assert set(REASONS.values()) <= OUTCOMES
    done = outcome_of(ended(cut=("Cell 0: output was cut.",)), ("x: it is a symbolic link.",))
    assert (done.reason, done.sound) == ("completed", True)
    assert done.detail == "Cell 0: output was cut. x: it is a symbolic link."
    error = CellError(3, 2, "raise X", "X", "why", ("line",))
    failed = outcome_of(ended(state="failed", reason="cell_error", detail="Cell 3 raised X", error=error))
    assert failed.error is not None
    assert (failed.reason, failed.error.cell, failed.error.traceback) == ("cell_error", 3, ("line",))
    stopped = outcome_of(ended(state="failed", reason="server_stopped", detail="it was stopped"))
    assert (stopped.reason, stopped.sound) == ("server_lost", False)
    died = outcome_of(ended(state="failed", reason="kernel_died", detail="it died"))
    assert (died.reason, died.sound) == ("kernel_died", False), "the next attempt is not made where this one died"


@pytest.mark.parametrize(
    "lie",
    [
        {"id": "../../x"},
        {"id": 5},
        {"state": "done"},
        {"cells_done": "3"},
        {"cells_done": -1},
        {"cells_total": 10**12},
        {"current_cell": [1]},
        {"detail": {"a": 1}},
        {"cut": "all"},
        {"error": {"ename": 5, "evalue": ""}},
        {"error": {"ename": "E", "evalue": "", "traceback": [1]}},
        {"error": {"ename": "E", "evalue": "", "line": 10**12}},
        {"error": "E"},
    ],
)
def test_what_is_no_run_is_refused(lie: dict[str, Any]) -> None:
    """A server's answer is used only where each part is of its type and size."""
    with pytest.raises(InvalidField):
        told_run({**ended_run(), **lie})


def test_texts_of_servers_are_cut() -> None:
    """Names, values, lines and tracebacks are kept to their bounds, the traceback's end first; newer fields pass."""
    error = {"ename": "E" * 9000, "evalue": "\0\ud800" * 9000, "source_line": "s" * 9000, "cell": 1, "more": 1}
    told = told_run({**ended_run(), "error": {**error, "traceback": ["t" * 9000, *"ab" * 5000]}, "new": 1}).error
    assert told is not None
    assert told.source_line is not None
    assert (len(told.ename), len(told.evalue), len(told.source_line)) == (200, 4000, 1000)
    assert "\0" not in told.evalue
    told.evalue.encode()
    assert (len(told.traceback), told.traceback[-1]) == (500, "b")
    assert (
        sum(map(len, told_run({**ended_run(), "error": {**error, "traceback": ["t" * 900] * 400}}).error.traceback))
        <= 64_000
    )  # type: ignore[union-attr]
    with pytest.raises(InvalidField):
        told_artifacts({"artifacts": [{"path": 5, "size_bytes": 1, "sha256": ""}]})
    with pytest.raises(InvalidField):
        told_artifacts({"artifacts": [{"path": "a", "size_bytes": 1, "sha256": ""}] * 10_001})
    assert len(told_artifacts({"refused": ["x" * 9000] * 9000}).refused) == 100


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "invalid_notebook"), (413, "invalid_notebook"), (404, "server_lost"), (418, "internal")],
)
def test_refused_runs(status: int, reason: str) -> None:
    """A server that does not take the notebook, or lost the run, says so by its status."""
    assert refused_run(RunRefused("n1", status, "no")).reason == reason


# ---- servers ----


class Stops:
    """Who stops servers."""

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def stop(self, agent: str, name: str) -> None:
        """Note it."""
        self.stopped.append(f"{agent}/{name}")


async def test_warm_servers() -> None:
    """They are found by equal options, bounded in number and time, and given up when asked for."""
    stops = Stops()
    warm = WarmServers(stops, keep_warm=0.05, max_warm=2)
    for number in range(3):
        warm.keep("a", f"s{number}", UserOptions(gpus=number))
    assert stops.stopped == ["a/s2"]
    assert warm.find("a", UserOptions(gpus=1)) is None, "nobody knows whether it lives"
    nodes = {"n1": node_view(node("n1"), (), lambda _: True)}
    warm.look([to_json(replace(LEASE, owner="a", server_name=f"s{number}")) for number in range(2)], nodes)
    assert warm.find("a", UserOptions(gpus=1, avoid=("n1",))) is None
    assert warm.find("a", UserOptions(gpus=1)) == "s1"
    assert warm.find("b", UserOptions(gpus=1)) is None
    assert warm.find("a", UserOptions()) == "s0"
    warm.take("a", "s0")
    assert [each.name for each in warm] == ["s1"]
    await eventually(lambda: "a/s1" in stops.stopped, "its time is over")
    assert "a/s0" not in stops.stopped, "a task uses it"
    warm.keep("b", "t", UserOptions())
    warm.drop_of({"a"})
    assert len(list(warm)) == 1
    warm.drop_of(None)
    assert stops.stopped[-1] == "b/t"
    await warm.aclose()


@pytest.mark.parametrize(
    "change", [{"state": "unreachable"}, {"state": "down"}, {"cordon": Mark("a rest", 0.0, "ada")}, None]
)
async def test_warm_servers_on_nodes_that_take_nothing_are_given_up(change: Any) -> None:
    """A server whose lease ended, or whose node died or is to take nothing more, waits for no task."""
    stops = Stops()
    warm = WarmServers(stops)
    warm.keep("bot", "task-1", UserOptions())
    nodes = {"n1": node_view(node("n1"), (), lambda _: True)}
    warm.look([to_json(LEASE)], nodes)
    assert warm.find("bot", UserOptions()) == "task-1"
    if change is not None:
        nodes["n1"] = node_view(node("n1", **change), (), lambda _: True)
    warm.look([to_json(LEASE)] if change is not None else [], nodes)
    assert (warm.find("bot", UserOptions()), stops.stopped) == (None, ["bot/task-1"])


async def test_without_warmth_each_server_ends() -> None:
    """`keep_warm = 0` keeps none."""
    stops = Stops()
    WarmServers(stops, keep_warm=0).keep("a", "s", UserOptions())
    assert stops.stopped == ["a/s"]


class Hub:
    """The Hub's answers about one server."""

    def __init__(self, *models: Any, failure: str | None = None, refusals: tuple[HubApiError, ...] = ()) -> None:
        self.models, self.failure, self.refusals = list(models), failure, list(refusals)
        self.asked: list[dict[str, Any]] = []

    async def server(self, _user: str, _name: str) -> Any:
        """Return the next model; the last one again and again."""
        model = self.models.pop(0) if len(self.models) > 1 else self.models[0]
        if isinstance(model, Exception):
            raise model
        return model

    async def start_server(self, _user: str, _name: str, options: dict[str, Any]) -> None:
        """Take a start, or refuse it."""
        if self.refusals:
            raise self.refusals.pop(0)
        self.asked.append(options)

    async def start_failure(self, _user: str, _name: str) -> str | None:
        """Return why the start failed."""
        return self.failure


READY, PENDING = {"ready": True, "pending": None}, {"ready": False, "pending": "spawn"}
STOPPED = {"ready": False, "pending": None}


def refusal(status: int, message: str) -> HubApiError:
    """Return an answer of the Hub."""
    return HubApiError("POST", "/users/a/servers/s", status, message)


def servers(hub: Hub) -> TaskServers:
    """Return the servers of tasks on a Hub."""
    return TaskServers(hub, poll_interval=0.001)  # type: ignore[arg-type]


async def started(hub: Hub) -> list[dict[str, Any]]:
    """Start a server; return the options that the Hub was asked with, each time."""
    async with asyncio.timeout(10):
        await servers(hub).start("a", "s", UserOptions(gpus=1))
    return hub.asked


async def test_starts() -> None:
    """One that is there is not asked for; one that is not is asked for once; the Hub may be away in between."""
    away = refusal(0, "away")
    assert await started(Hub(READY)) == []
    assert await started(Hub(None, PENDING, PENDING, READY)) == [{"gpus": 1}]
    assert await started(Hub(away, None, away, PENDING, READY)) == [{"gpus": 1}]
    assert await started(Hub(None, PENDING, STOPPED, PENDING, READY)) == [{"gpus": 1}] * 2, "a restarted Hub forgot it"
    busy = (refusal(429, "Too many"), refusal(503, "the controller does not answer"), refusal(400, "s is pending stop"))
    assert await started(Hub(None, None, None, None, READY, refusals=busy)) == [{"gpus": 1}]


@pytest.mark.parametrize(
    ("hub", "outcome"),
    [
        (Hub(None, refusals=(refusal(409, "No node of this farm can ever serve this request (n1: …)."),)), "refused"),
        (Hub(None, STOPPED, failure="No node of this farm can ever serve this request (n1: …)."), "refused"),
        (Hub(None, STOPPED, failure="bot has used 3 of 2 GPU-hours"), "quota"),
        (Hub(None, refusals=(refusal(403, "bot has used 3 of 2 GPU-hours"),)), "quota"),
        (Hub(None, refusals=(refusal(403, "Action is not authorized with current scopes"),)), "start_failed"),
        (Hub(None, STOPPED, failure="The server on n1 did not answer within 120 seconds"), "start_failed"),
        (Hub(None, STOPPED), "start_failed"),
        (Hub(refusal(403, "no")), "start_failed"),
    ],
)
async def test_starts_that_fail(hub: Hub, outcome: str) -> None:
    """Why a server did not start is told from the Hub's answer."""
    with pytest.raises(StartFailed) as caught:
        await started(hub)
    assert caught.value.outcome == outcome


def test_options_of_servers() -> None:
    """A task's server gets the notebook's kernel and the site's cores where the task asks for neither."""
    own = TaskServers(Hub(READY), cpus=2)  # type: ignore[arg-type]
    assert compact(own.options(UserOptions(), "ir")) == {"kernel": "ir", "cpus": 2.0}
    assert compact(own.options(UserOptions(kernel="python3", cpus=0.5), "ir")) == {"kernel": "python3", "cpus": 0.5}
    asked = UserOptions(cpus=1, avoid=("a", "mine"))
    assert own.options(asked, "", ("b", "a")).avoid == ("a", "b", "mine")
    assert len(own.options(asked, "", tuple(f"n{number}" for number in range(20))).avoid) == 16
    assert own.url("bot", "task-1").endswith("/user/bot/task-1/")


# ---- metrics ----


def test_metrics() -> None:
    """Every state and outcome is there from the start; waits and durations are counted; nobody is named."""
    assert set(ATTEMPT_OUTCOMES) == OUTCOMES
    counted = TaskMetrics()
    asked = TaskRequest(path="n.ipynb")
    ended = Task("1" * 16, "secret-agent", "completed", "completed", "", asked, 0.0, "secret-person",
                 5.0, 20.0, started_at=7.0, ended_at=20.0)  # fmt: skip
    counted.began(ended, Attempt(ended.id, 1, 1, "secret-agent", "s", "starting", 8.0))
    counted.ended(ended, "completed", "n1")
    counted.ended(replace(ended, state="retryable", ended_at=None), "kernel_died")
    queued = {-5: 1, 0: 2, 7: 3, 100: 4}
    view = {"spec": {"role": "microserver"}, "state": "ready"}
    views = {"n1": view, "n2": view | {"state": "down"}, "big": view | {"spec": {"role": "gpuserver"}}}
    leases = [{"node": node, "owner": owner} for node, owner in (("n1", "b"), ("n1", "a"), ("n1", "ada"), (None, "b"))]
    going = [
        Attempt("2" * 16, 1, 2, "a", "s", "running", 8.0, node="n1", running_at=9.0),
        Attempt("3" * 16, 1, 3, "a", "s", "starting", 8.0, node="n1"),
        Attempt("4" * 16, 1, 4, "b", "s", "starting", 8.0),
        Attempt("5" * 16, 1, 5, "b", "s", "running", 8.0, node="n2", running_at=9.0),
    ]
    nodes = nodes_now(views, leases, going, ["a", "b"])
    text = counted.text(Now({"available": 3}, {"active": 2}, queued, 5, nodes))
    assert "secret" not in text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert [samples["agentfarm_tasks", state] for state in TASK_STATES] == [0, 3, 0, 0, 0, 0, 0]
    assert [samples["agentfarm_agents", state] for state in AGENT_STATES] == [2, 0, 0]
    assert samples["agentfarm_task_attempts_total", "completed"] == 1
    assert samples["agentfarm_task_attempts_total", "node_lost"] == 0
    assert samples["agentfarm_task_wait_seconds_sum",] == 3
    assert [samples["agentfarm_task_duration_seconds_count", end] for end in TASK_ENDS] == [1, 0, 0]
    assert samples["agentfarm_task_duration_seconds_sum", "completed"] == 13
    assert make_agent("a").state in AGENT_STATES
    assert [samples["agentfarm_tasks_queued", each] for each in ("low", "normal", "high")] == [1, 2, 7]
    assert samples["agentfarm_tasks_kept_bytes",] == 5
    assert samples["agentfarm_tasks_finished_total", "n1", "task", "succeeded"] == 1
    assert samples["agentfarm_tasks_finished_total", "n2", "task", "failed"] == 0
    assert [samples["agentfarm_node_tasks", "n1", state] for state in ("queued", "running")] == [1, 1]
    assert [samples["agentfarm_node_agents", "n1", state] for state in ("working", "idle")] == [1, 1]
    assert ("agentfarm_node_tasks", "n2", "running") not in samples
    parts = [counted.text(Now(nodes=nodes), each) for each in ("hub", "microserver", "gpuserver")]
    assert ["node=" in part for part in parts] == [False, True, True]
    assert ['node="big"' in part for part in parts] == [False, False, True]
