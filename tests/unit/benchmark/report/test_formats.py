"""The formats: whole for every kind of run, quick and small for a large one, and harmless whatever is in it."""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import io
import json
import re
import time
from pathlib import Path

import pytest
from benchmark_records import phase_json, run_node, run_record, sample, soak_page, soak_report, success

from jupyterhub_agentfarm.benchmark.models import CaseError, CaseResult, LimitOutcome, Phase, RunEvent
from jupyterhub_agentfarm.benchmark.report import FORMATS, PrometheusCheck, Report, ReportRenderer, write_report
from jupyterhub_agentfarm.errors import ConflictError

HOSTILE = "<img src=http://127.0.0.1:9/x onerror=alert(1)>\"'&{{7*7}}"
TEXTS = [form for form in FORMATS if form != "pdf"]


def lost_report() -> Report:
    """Return the report of a run in which every node was lost."""
    nodes = [run_node("n1"), run_node("n2")]
    results = [CaseResult(node.name, "train", "lost", "the node is down") for node in nodes]
    samples = [sample(node.name, at, up=0) for node in nodes for at in range(0, 100, 10)]
    return Report(run_record(nodes, ["train"], 100), results, samples)


def going_report() -> Report:
    """Return the report of a run that goes on."""
    changes = {"state": "running", "ended_at": None, "passed": None}
    run = run_record([run_node("n1")], ["train"], 100, **changes)
    samples = [sample("n1", at, cpu_utilization_ratio=0.5) for at in range(0, 100, 10)]
    return Report(run, [success("n1", "train", 0, 40)], samples)


KINDS = {
    "empty": Report(run_record([], [], 10, started_at=None, ended_at=None)),
    "not begun": Report(run_record([run_node("n1")], ["train"], 10, state="starting", started_at=None, ended_at=None)),
    "none took part": Report(run_record([run_node("n1", skipped="cordoned")], ["train"], 10)),
    "one node": Report(run_record([run_node("n1")], ["train"], 10), [success("n1", "train", 0, 10)], [sample("n1", 5)]),
    "all lost": lost_report(),
    "going": going_report(),
    "no samples": Report(run_record([run_node("n1")], ["train"], 10), [success("n1", "train", 0, 10, rate=5)]),
    "samples alone": Report(run_record([run_node("n1")], ["train"], 100), (), [sample("n1", at) for at in (0, 50)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_every_format(kind: str) -> None:
    """A run that is empty, has one node, lost all, or goes on has a report, without a number that is none."""
    report = KINDS[kind]
    for form in TEXTS:
        text = report.as_format(form)
        assert text
        shown = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
        assert not re.search(r"\b(nan|inf|NaN|Infinity)\b|\bNone\b(?! (of|was) )", shown)
    json.loads(report.json())


def test_the_verdict_of_lost_and_of_going_runs() -> None:
    """All lost is bad and says who; a run that goes on says how far it is, and judges nothing."""
    lost, going = KINDS["all lost"].findings.verdict, KINDS["going"].findings.verdict
    assert (lost.headline, lost.tone) == ("0 of 2 cases succeeded on 2 nodes", "bad")
    assert "n1 was lost once, for 103 s in all." in lost.faults
    assert (going.headline, going.tone) == (
        "The run is still running: 1 of 1 cases so far succeeded on 1 node",
        "going",
    )


def test_limits_are_told_with_what_was_measured() -> None:
    """A broken limit is in the headline; each says what was wanted and got; the badge says that it did not pass."""
    limits = (
        LimitOutcome("max_memory_ratio", 0.9, 0.93, False),
        LimitOutcome("min_succeeded_ratio", 0.99, 1.0, True),
        LimitOutcome("min_balance_ratio", 0.8, None, False),
    )
    run = run_record([run_node("n1")], ["train"], 10, limits=limits, passed=False)
    report = Report(run, [success("n1", "train", 0, 10)])
    found = report.findings.verdict
    assert found.headline == "1 node delivered: all 1 cases succeeded, but 2 limits did not hold"
    assert found.tone == "bad"
    assert [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in found.limits] == [
        "Limit broken: memory in use of every node, at most 90 %, measured 93 %.",
        "Limit held: cases that succeed, of those tried, at least 99 %, measured 100 %.",
        "Limit broken: Jain's index of the nodes' completion rates, at least 0.8, not measured.",
    ]
    assert 'class="badge bad">did not pass<' in report.html()


@pytest.mark.timeout(240)
def test_a_day_of_fifty_nodes_is_quick_and_small() -> None:
    """24 h, 50 nodes, 21,000 results and 14,000 samples are a page in less than 10 s of computing and 5 MB."""
    report = soak_report(49, seconds=86_400, case_seconds=600, interval_seconds=300)
    assert (len(report.results) > 21_000, len(report.samples) > 14_000) == (True, True)
    began = time.process_time()
    page = report.html()
    assert time.process_time() - began < 10
    assert len(page) < 5_000_000
    assert len(report.markdown()) < 100_000


def test_the_page_is_divided_as_the_specification_wants() -> None:
    """The verdict is first, microservers and GPU servers are apart, and each has its five quantities."""
    page = soak_page()
    order = ["did not pass", "Bottleneck", 'id="microserver"', 'id="gpuserver"', 'id="results"', 'id="balance"']
    places = [page.index(text) for text in [*order, 'id="stability"', 'id="energy"', 'id="conditions"']]
    assert places == sorted(places)
    for title in ("GPU utilisation", "Memory usage", "CPU usage", "Task completion rate", "System uptime"):
        assert page.count(f"<dt>{title}</dt>") == 2
    assert page.count("At regular intervals of 5 min") == 2


def test_the_page_forbids_itself_to_fetch() -> None:
    """Its own policy allows styles that are inside and nothing else."""
    page = soak_page()
    assert "default-src &#39;none&#39;" in page or "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not re.search(r"<(script|link|img|iframe|object|embed|image)\b", page)
    assert not re.search(r'(src|href)="(?!#)', page)
    assert not re.search(r"url\((?!#)", page)


def hostile_report() -> Report:
    """Return a report in which every text that a node, a notebook or a user can write looks like HTML."""
    node = run_node("n1")
    about = {"facts": dict.fromkeys(node.about["facts"], HOSTILE), "gpus": [{"name": HOSTILE, "simulated": True}]}
    nodes = [dataclasses.replace(node, name=HOSTILE, about=about), run_node("n2", skipped=HOSTILE)]
    phase = Phase(HOSTILE, (HOSTILE,))
    run = run_record(
        nodes,
        [HOSTILE],
        100,
        suite=HOSTILE,
        detail=HOSTILE,
        requested_by=HOSTILE,
        parameters={HOSTILE: HOSTILE},
        labels={HOSTILE: HOSTILE},
        provenance={HOSTILE: {HOSTILE: HOSTILE}},
        limits=(LimitOutcome(HOSTILE, 1, 2, False),),
        definition={"sha256": HOSTILE, "phases": [phase_json(phase)]},
    )
    done = success(HOSTILE, HOSTILE, 0, 40, figures={HOSTILE: 5}, primary=HOSTILE, device=HOSTILE, phase=HOSTILE)
    failed = dataclasses.replace(done, outcome="failed", reason=HOSTILE, error=CaseError(HOSTILE, 1, HOSTILE))
    events = [RunEvent(run.created_at, kind, HOSTILE, HOSTILE) for kind in ("node_lost", "phase_started", "cancelled")]
    samples = [sample(HOSTILE, at, cpu_utilization_ratio=0.5, gpu_power_watts=50) for at in range(0, 100, 10)]
    baseline = Report(dataclasses.replace(run, id=HOSTILE, suite="other"), [done, done])
    return Report(run, [done, done, failed], samples, events, baseline)


def test_hostile_texts_are_texts_everywhere() -> None:
    """Nothing that looks like a tag, an attribute, a template or Markdown becomes one."""
    report = hostile_report()
    page = report.html()
    assert "<img" not in page
    assert "&lt;img src=http" in page
    assert "{{7*7}}" in page.replace("&#39;", "'")
    assert "<img" not in report.markdown()
    rows = list(csv.DictReader(io.StringIO(report.csv())))
    assert rows[0]["node"] == HOSTILE


def test_csv_holds_no_formulas() -> None:
    """What a spreadsheet would compute, and could fetch with, is a text; numbers stay numbers."""
    result = CaseResult(
        "=cmd|' /C calc'!A0", "@SUM(1)", "failed", '=WEBSERVICE("http://x")', figures={"loss_change": -0.5}
    )
    (row,) = csv.DictReader(io.StringIO(Report(run_record([], [], 1), [result]).csv()))
    assert row["node"] == "'=cmd|' /C calc'!A0"
    assert row["reason"].startswith("'=")
    assert row["case"] == "'@SUM(1)"
    assert row["loss_change"] == "-0.5"


async def test_files_of_a_report(tmp_path: Path) -> None:
    """Every text format lies in a private folder, each file whole."""
    report = KINDS["one node"]
    await write_report(report, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"report.html", "report.json", "report.md", "results.csv", "samples.csv", "samples.json"}
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert json.loads((tmp_path / "run" / "report.json").read_text())["cases"][0]["succeeded"] == 1


async def test_rendering_in_every_text_format() -> None:
    """The renderer gives bytes, and asks no Prometheus where none is configured."""
    renderer = ReportRenderer(PrometheusCheck())
    report = await renderer.checked(KINDS["one node"])
    assert report.crosscheck is None
    rendered = await asyncio.gather(*(renderer.render(report, form) for form in TEXTS))
    assert rendered[TEXTS.index("html")].startswith(b"<!doctype html>")
    assert json.loads(rendered[TEXTS.index("json")])


async def test_no_chromium_no_pdf() -> None:
    """Without a Chromium a PDF is refused, and the sentence says what to do."""
    renderer = ReportRenderer(PrometheusCheck(), chromium="/nowhere/chromium")
    with pytest.raises(ConflictError, match="no PDF: /nowhere/chromium could not be started"):
        await renderer.render(KINDS["one node"], "pdf")
