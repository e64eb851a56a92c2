"""Reports: the verdict, the numbers, and that nothing in them can do harm."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from benchmark_world import make_view

from jupyterhub_agentfarm.benchmark.models import BenchmarkRun, CaseError, CaseResult, RunNode, Sample
from jupyterhub_agentfarm.benchmark.report import Report
from jupyterhub_agentfarm.benchmark.sampler import take_samples

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


def about(name: str, role: str = "microserver", gpus: int = 1) -> RunNode:
    """Return a node's part in a run."""
    view = make_view(name, role=role, gpus=gpus)
    keys = ("uuid", "name", "memory_total_bytes", "simulated")
    devices = [{key: gpu[key] for key in keys} for gpu in view["telemetry"]["gpus"]]
    facts = {
        "facts": view["facts"] | {"boot_id": name},
        "cpus": 8,
        "memory_total_bytes": 2**35,
        "gpus": devices,
        "labels": {},
    }
    return RunNode(name, role, gpus=min(1, gpus), about=facts)


def a_run(**changes: Any) -> BenchmarkRun:
    """Return a run of two cases on three nodes and one that takes no part."""
    nodes = (about("n1"), about("n2", gpus=0), about("big", "gpuserver", 2))
    absent = replace(about("n4"), skipped="cordoned: new disk")
    cases = [{"name": "gemm"}, {"name": "torch"}]
    definition = {"cases": cases, "sha256": "ab" * 32, "sample_interval_seconds": 2}
    conditions = {"agentfarm": "0.1", "commit": None, "packages": {"jupyterhub": "6.1.1", "x": None}}
    run = BenchmarkRun("20260101-000000-abcdef", "smoke", "completed", "", "ada", 1_767_225_600.0, definition)
    run = replace(run, nodes=(*nodes, absent), provenance=conditions, started_at=1_767_225_610.0)
    return replace(run, ended_at=1_767_225_670.0, **changes)


def good(node: str, case: str, rate: float, seconds: float = 4.0) -> CaseResult:
    """Return a success."""
    figures = {"samples_per_second": rate, "passes": 3}
    return CaseResult(
        node, case, "succeeded", "", 1_767_225_611.0, seconds, figures, "samples_per_second", "cpu, 1 thread"
    )


def samples(run: BenchmarkRun, rounds: int = 20) -> list[Sample]:
    """Return samples of the run's nodes."""
    made: list[Sample] = []
    roles = {node.name: node.role for node in run.taking_part}
    for index in range(rounds):
        views = {}
        for place, (name, role) in enumerate(roles.items()):
            report = {"cpu_utilization_ratio": min(1.0, 0.05 * index + 0.1 * place)}
            views[name] = make_view(name, role=role, gpus=place % 2, telemetry_changes=report)
        made += take_samples(1_767_225_600.0 + 2 * index, views, roles, dict.fromkeys(roles, index // 10))
    return made


RESULTS = [good("n1", "gemm", 100), good("n2", "gemm", 50), good("big", "gemm", 100), good("n1", "torch", 9)]


class _Page(HTMLParser):
    """Collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.values: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.values += [value or "" for _, value in attrs]


def parsed(html: str) -> _Page:
    """Return what a browser would find."""
    page = _Page()
    page.feed(html)
    return page


def test_the_verdict_of_a_good_run() -> None:
    """The report says first what was delivered, how evenly, and that simulated GPUs are none."""
    run = a_run()
    results = [*RESULTS, good("n2", "torch", 9), CaseResult("big", "torch", "skipped", "torch is not installed")]
    data = Report(run, results, samples(run)).data()
    assert data["verdict"]["headline"] == "3 nodes delivered: all 5 cases succeeded, 1 skipped"
    text = " ".join(data["verdict"]["sentences"])
    assert "together the nodes delivered 250 samples/s, unevenly over the microservers (Jain's index 0.900)" in text
    assert "n4 took no part: cordoned: new disk." in text
    assert "torch was skipped on 1 node: torch is not installed." in text
    assert "simulated do not exist" in text


@pytest.mark.parametrize(
    ("state", "results", "headline"),
    [
        ("completed", [*RESULTS, CaseResult("n2", "torch", "lost", "gone")], "4 of 5 cases succeeded on 3 nodes"),
        (
            "completed",
            [CaseResult("n1", "torch", "skipped", "no torch")],
            "Nothing was measured on 3 nodes: every case",
        ),
        ("cancelled", RESULTS, "The run was not completed, it was cancelled: because"),
        ("interrupted", [], "The run was not completed, it was interrupted: because"),
        ("running", RESULTS, "The run is still running: 4 of 4 cases so far succeeded on 3 nodes"),
    ],
)
def test_other_verdicts(state: Any, results: list[CaseResult], headline: str) -> None:
    """Each way to end has its headline, and every format can be made of it."""
    report = Report(a_run(state=state, detail="because"), results)
    assert report.data()["verdict"]["headline"].startswith(headline)
    assert headline in report.html()
    assert report.markdown()


def test_nodes_that_are_one_machine() -> None:
    """Nodes with the same boot id are named: what they use is one machine's."""
    nodes = tuple(replace(node, about={"facts": {"boot_id": "b"}}) for node in a_run().taking_part)
    sentences = Report(a_run(nodes=nodes), RESULTS).data()["verdict"]["sentences"]
    assert any(sentence.startswith("n1, n2 and big are one machine: ") for sentence in sentences)


def test_faults_are_told_with_their_reason() -> None:
    """A lost node is named with the number of its cases and why."""
    lost = [CaseResult("n2", case, "lost", "the node is down") for case in ("gemm", "torch")]
    assert "n2: 2 cases lost: the node is down." in Report(a_run(), lost).data()["verdict"]["sentences"]


def test_html_stands_alone() -> None:
    """The page loads nothing and runs nothing; its plots are in it; nodes of each role are apart."""
    run = a_run()
    html = Report(run, RESULTS, samples(run)).html()
    page = parsed(html)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "image"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert "@import" not in html
    assert "http:" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)
    assert html.count("<svg") == html.count("<figure>") >= 8
    assert html.index("Microservers") < html.index("GPU servers")
    assert '<span class="tag">simulated</span>' in html
    assert "#123457" not in html


def test_hostile_texts_are_only_texts() -> None:
    """Names, reasons, figures, tracebacks and parameters that look like HTML come out as text."""
    nodes = (replace(about("n1"), name=HOSTILE, about={"gpus": [{"name": HOSTILE, "simulated": True}], "facts": {}}),)
    nodes[0].about["gpus"][0].update(uuid=HOSTILE, memory_total_bytes=None)
    changes = {"detail": HOSTILE, "requested_by": HOSTILE, "parameters": {HOSTILE: HOSTILE}, "suite": HOSTILE}
    definition = {"cases": [{"name": HOSTILE}], "sha256": HOSTILE, "sample_interval_seconds": HOSTILE}
    run = replace(a_run(), nodes=nodes, provenance={HOSTILE: {HOSTILE: HOSTILE}}, definition=definition, **changes)
    error = CaseError(HOSTILE, 1, HOSTILE)
    result = replace(good(HOSTILE, HOSTILE, 5), device=HOSTILE, primary=HOSTILE, figures={HOSTILE: 5})
    rounds = [Sample(1.0 + n, "node", HOSTILE, {"cpu_utilization_ratio": 0.5}) for n in range(3)]
    failed = replace(result, outcome="failed", reason=HOSTILE, error=error)
    for results in ([result], [failed]):
        html = Report(run, results, rounds).html()
        page = parsed(html)
        assert not page.tags & {"script", "img"}
        assert not {name for name in page.attributes if name.startswith("on")}
        assert "{{7*7}}" in html
        assert "&lt;script&gt;" in html
    assert "<script" not in Report(run, [failed], rounds).markdown()


def test_zero_samples_and_zero_results() -> None:
    """A run that never got anywhere still has a report in every format."""
    report = Report(a_run(state="failed", detail="no node's server became ready"))
    assert "There are no samples to draw." in report.html()
    assert report.samples_csv() == "time,scope,name\n"
    assert report.csv().count("\n") == 1
    assert json.loads(report.json())["results"] == []
    assert Report(replace(a_run(), nodes=(), definition={})).html()


def test_csv_has_every_sample() -> None:
    """One line per sample, empty where a quantity is not known."""
    run = a_run()
    rows = list(csv.DictReader(io.StringIO(Report(run, [], samples(run, 3)).samples_csv())))
    assert len(rows) == 3 * (3 + 2 + 1)
    assert rows[0]["gpu_utilization_ratio"] == ""
    assert float(rows[1]["gpu_power_watts"]) == 210.5


def test_markdown_has_the_table() -> None:
    """The Markdown report has a row per node."""
    text = Report(a_run(), RESULTS).markdown()
    assert "| n1 | 4.0 s, 100 samples/s | 4.0 s, 9 samples/s |" in text


def test_roles_are_sampled_apart() -> None:
    """Microservers and GPU servers have sums of their own; what nobody tells is left out."""
    views = {"n1": make_view("n1", gpus=0), "n2": make_view("n2", gpus=0), "big": make_view("big", gpus=2)}
    roles = {"n1": "microserver", "n2": "microserver", "big": "gpuserver"}
    by_name = {s.name: s.values for s in take_samples(0.0, views, roles, {})}
    assert by_name["microserver"]["cpus"] == 16
    assert "gpu_utilization_ratio" not in by_name["microserver"]
    assert by_name["gpuserver"]["gpu_power_watts"] == 421
    assert (by_name["farm"]["up"], by_name["farm"]["nodes"]) == (3, 3)
