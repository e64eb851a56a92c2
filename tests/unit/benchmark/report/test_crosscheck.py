"""The comparison with Prometheus: the arithmetic, and every way in which a Prometheus can be wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from benchmark_records import START, run_node, run_record, sample, success
from traitlets import TraitError

from jupyterhub_agentfarm.benchmark.report import PrometheusCheck, Report
from jupyterhub_agentfarm.benchmark.report.crosscheck import COMPLETED, FARM, Observed, cross_check
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence

NODES = [run_node("n1"), run_node("big", "gpuserver")]


def measured() -> Evidence:
    """Return a run of 100 s: n1 has 8 processors at 50 %, big 64 at 10 %, and each completed two cases."""
    samples = [sample("n1", at, cpu_utilization_ratio=0.5) for at in range(0, 101, 10)]
    samples += [sample("big", at, cpus=64, cpu_utilization_ratio=0.1) for at in range(0, 101, 10)]
    results = [success(node.name, "train", at, 50, warm_up=at == 0) for node in NODES for at in (0, 50)]
    return Evidence(run_record(NODES, ["train"], 100, sample_interval_seconds=10.0), results, samples)


def seen(cpu: float, completed: int | None) -> Observed:
    """Return what Prometheus saw of a node that was up all the time."""
    return Observed({"cpu": np.full(20, cpu), "up": np.ones(20)}, completed)


def test_agreement() -> None:
    """The same means and counts agree, for each node and for the farm, which is weighted with processors."""
    found = cross_check(measured(), "http://p", 5, {"n1": seen(0.51, 2), "big": seen(0.1, 2)})
    assert found.differing == []
    farm = {row.quantity: row for row in found.rows if row.name == FARM}
    assert farm["CPU utilisation"].ours == pytest.approx((8 * 0.5 + 64 * 0.1) / 72)
    assert farm["CPU utilisation"].theirs == pytest.approx((8 * 0.51 + 64 * 0.1) / 72)
    assert (farm[COMPLETED].ours, farm[COMPLETED].theirs) == (4, 4)
    assert farm["memory in use"].agrees is None


def test_differences_are_told_with_their_size() -> None:
    """A mean that is ten points off and a count that is one off differ; the worst for its tolerance comes first."""
    found = cross_check(measured(), "http://p", 5, {"n1": seen(0.6, 2), "big": seen(0.1, 1)})
    assert [(row.name, row.quantity) for row in found.differing] == [
        (FARM, COMPLETED),
        ("big", COMPLETED),
        ("n1", "CPU utilisation"),
    ]
    assert found.differing[2].difference == pytest.approx(0.1)


def test_what_fluctuates_may_be_further_apart() -> None:
    """Five values between 0 and 1 tell their mean to no better than twice their standard error."""
    noisy = Observed({"cpu": np.array([0.0, 1.0, 0.0, 1.0, 0.7])}, None)
    found = cross_check(measured(), "http://p", 5, {"n1": noisy})
    (row,) = [row for row in found.rows if (row.name, row.quantity) == ("n1", "CPU utilisation")]
    assert row.tolerance == pytest.approx(2 * np.std([0, 1, 0, 1, 0.7], ddof=1) / 5**0.5)


def test_a_prometheus_that_saw_nothing() -> None:
    """A Prometheus of another farm has no samples of these nodes: that is said."""
    found = cross_check(measured(), "http://p", 5, {"n1": Observed({}, None)})
    assert (found.rows, "no samples of this run's nodes" in found.problem) == ((), True)


Answer = Callable[[web.Request], Any]


@asynccontextmanager
async def prometheus(answer: Answer) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """Serve answers to range queries; gives the URL and the queries asked."""
    asked: list[dict[str, str]] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append({**await request.post(), "authorization": request.headers.get("Authorization", "")})
        given = answer(request)
        return await given if asyncio.iscoroutine(given) else given

    app = web.Application()
    app.router.add_post("/api/v1/query_range", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


def matrix(*series: tuple[dict[str, str], list[tuple[float, str]]]) -> web.Response:
    """Return a range query's answer."""
    result = [{"metric": labels, "values": values} for labels, values in series]
    return web.json_response({"status": "success", "data": {"resultType": "matrix", "result": result}})


async def test_a_run_is_compared_and_the_report_says_so() -> None:
    """Values are asked for over the run; a counter that was reset and one that appeared in it are counted."""

    async def answer(request: web.Request) -> web.Response:
        query = (await request.post())["query"]
        if "cases_total" in query:
            return matrix(
                ({"node": "n1", "case": "train"}, [(START - 30, "7"), (START + 50, "8"), (START + 100, "1")]),
                ({"node": "big", "case": "train"}, [(START + 60, "1"), (START + 110, "2")]),
            )
        value = "0.5" if "cpu" in query else "1" if "node_up" in query else "NaN"
        moments = [(START + at, value) for at in range(0, 101, 5)]
        return matrix(({"node": "n1"}, moments), ({"node": "big"}, moments))

    async with prometheus(answer) as (url, asked):
        found = await PrometheusCheck(url=url, selector='cluster="lab"').compare(measured())
    assert found is not None
    assert found.problem == ""
    rows = {(row.name, row.quantity): row for row in found.rows}
    assert rows["n1", COMPLETED].theirs == 2
    assert rows["big", COMPLETED].theirs == 2
    assert rows["big", "CPU utilisation"].difference == pytest.approx(0.4)
    assert rows["n1", "GPU utilisation"].theirs is None
    assert len(asked) == 5
    assert {one["authorization"] for one in asked} == {""}
    assert all('node=~"n1|big",cluster="lab"' in one["query"] for one in asked)
    evidence = measured()
    html = Report(evidence.run, evidence.results, evidence.samples, crosscheck=found).html()
    assert "CPU utilisation of big" in html
    assert "+40.0 points" in html


async def hanging(request: web.Request) -> web.Response:
    """Answer never."""
    await asyncio.Event().wait()
    raise AssertionError(request)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda _: web.Response(text="<html>"), "something that is no result of a query"),
        (
            lambda _: web.json_response({"status": "success", "data": {"result": [{"metric": {}, "values": 3}]}}),
            "no result",
        ),
        (
            lambda _: web.json_response({"status": "error", "error": "parse error"}, status=400),
            "refused a query: parse error",
        ),
        (lambda _: web.Response(status=403), "it refused us (403): set PrometheusCheck.token_file"),
        (lambda _: web.Response(body=b"x" * 3_000_000), "longer than PrometheusCheck.max_answer_bytes"),
        (lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}), "answered 302"),
        (hanging, "did not answer within 0.3 s"),
    ],
)
async def test_a_wrong_prometheus_is_said_and_nothing_else(answer: Answer, problem: str) -> None:
    """Whatever it answers, or not, the report has one sentence about it and is otherwise whole."""
    async with prometheus(answer) as (url, _):
        check = PrometheusCheck(url=url, timeout=0.3, max_answer_bytes=2_000_000)
        found = await check.compare(measured())
    assert found is not None
    assert problem in found.problem
    html = Report(measured().run, crosscheck=found).html()
    assert "Against Prometheus" in html


async def test_an_absent_prometheus() -> None:
    """Where nothing listens, that is said; where none is configured, there is no word of it."""
    found = await PrometheusCheck(url="http://name:secret@127.0.0.1:9").compare(measured())
    assert found is not None
    assert "could not be reached" in found.problem
    assert found.url == "http://127.0.0.1:9"
    assert await PrometheusCheck().compare(measured()) is None
    assert "Prometheus" not in Report(measured().run).html()


async def test_a_token_is_sent_from_its_file(tmp_path: Path) -> None:
    """The token is read anew each time; a missing file is a sentence in the report."""
    (tmp_path / "token").write_text("abc\n")
    async with prometheus(lambda _: matrix()) as (url, asked):
        await PrometheusCheck(url=url, token_file=str(tmp_path / "token")).compare(measured())
        found = await PrometheusCheck(url=url, token_file=str(tmp_path / "none")).compare(measured())
    assert {one["authorization"] for one in asked} == {"Bearer abc"}
    assert found is not None
    assert "PrometheusCheck.token_file cannot be read" in found.problem


@pytest.mark.parametrize("url", ["127.0.0.1:9090", "ftp://p", "http://"])
def test_a_url_that_is_none(url: str) -> None:
    """The option is refused with the form that is wanted."""
    with pytest.raises(TraitError, match=r"as in http://127\.0\.0\.1:9090"):
        PrometheusCheck(url=url)


async def test_names_of_nodes_are_no_part_of_the_query_language() -> None:
    """A name is a label's value, whatever is in it."""
    run = run_record([run_node('n"} or vector(1) or {x=~".*')], ["train"], 100)
    async with prometheus(lambda _: matrix()) as (url, asked):
        await PrometheusCheck(url=url).compare(Evidence(run))
    # Every quote of the name is escaped, and so is every sign of a regular expression.
    assert json.dumps('n"').strip('"') in asked[0]["query"]
    assert ".*" not in asked[0]["query"].replace("\\\\.\\\\*", "")
