"""The metrics page: what is on it, when it vanishes, and that Prometheus takes it."""

from __future__ import annotations

import re
import subprocess
import time
from typing import Any

import pytest
from benchmark_world import make_view
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.counters import BenchmarkCounters
from jupyterhub_agentfarm.benchmark.exposition import Exposition
from jupyterhub_agentfarm.benchmark.models import BenchmarkRun, CaseResult
from jupyterhub_agentfarm.metrics import METRICS

RUN = BenchmarkRun("r1", "smoke", "completed", "", "ada", 0.0)


def exposition(*views: dict[str, Any], clock: Any = time.time) -> Exposition:
    """Return an exposition that knows `views` and two results."""
    counters = BenchmarkCounters()
    counters.count_case(RUN, CaseResult("n1", "gemm", "succeeded", duration_seconds=3.2))
    counters.count_case(RUN, CaseResult("n1", "torch", "skipped"))
    counters.count_run(RUN)
    made = Exposition("1.2.3", counters, stale_after_seconds=15, suites=lambda: ["smoke"], clock=clock)
    made.reset(views, [{"id": "a", "state": "running"}, {"id": "b", "state": "waiting"}])
    return made


def lines_of(text: str, node: str) -> set[str]:
    """Return the names of the series of a node."""
    return {line.split("{")[0] for line in text.splitlines() if f'node="{node}"' in line}


def value(text: str, series: str) -> float:
    """Return the value of one series."""
    (line,) = [line for line in text.splitlines() if line.startswith(series + " ")]
    return float(line.rpartition(" ")[2])


LASTING = {
    "agentfarm_node_info",
    "agentfarm_node_up",
    "agentfarm_node_up_seconds_total",
    "agentfarm_node_last_report_timestamp_seconds",
    "agentfarm_gpu_info",
    "agentfarm_tasks_finished_total",
    "agentfarm_benchmark_cases_total",
}


def test_a_live_node_tells_everything() -> None:
    """Each quantity of a report is there, and what a device does not support is not."""
    view = make_view("n1")
    view["telemetry"]["gpus"][0]["power_watts"] = None
    text = exposition(view).text("microserver")
    assert value(text, 'agentfarm_node_up{node="n1"}') == 1
    assert value(text, 'agentfarm_node_cpu_utilization_ratio{node="n1"}') == 0.25
    assert value(text, 'agentfarm_gpu_memory_used_bytes{node="n1",gpu="0"}') == 8 * 2**30
    assert value(text, 'agentfarm_node_filesystem_avail_bytes{node="n1",mountpoint="/"}') == 40 * 2**30
    assert 'simulated="true"' in text
    assert "agentfarm_gpu_power_watts" not in text
    assert "agentfarm_gpu_power_limit_watts" in text


def test_freshness_of_a_silent_node() -> None:
    """Scrape, let the node fall silent, scrape again: its gauges are gone, info and counters stay, up is 0."""
    now = [time.time()]
    page = exposition(make_view("n1"), make_view("n2"), clock=lambda: now[0])
    assert value(page.text("microserver"), 'agentfarm_node_up{node="n1"}') == 1
    now[0] += 20
    page.update_node(make_view("n2", reported_at=now[0]))
    text = page.text("microserver")
    assert lines_of(text, "n1") == LASTING
    assert value(text, 'agentfarm_node_up{node="n1"}') == 0
    assert value(text, 'agentfarm_node_up{node="n2"}') == 1
    assert value(page.text("hub"), 'agentfarm_nodes{role="microserver",state="unreachable"}') == 1


@pytest.mark.parametrize("state", ["down", "unreachable"])
def test_freshness_of_a_node_that_is_known_to_be_gone(state: str) -> None:
    """A node that the controller reports as gone loses its gauges at once, though its last report is new."""
    page = exposition(make_view("n1"))
    page.update_node(make_view("n1", state=state))
    assert lines_of(page.text("all"), "n1") == LASTING


def test_a_node_that_never_reported() -> None:
    """A registered node that was never reached is there with up 0 and no time of a report."""
    view = make_view("n1", state="unreachable", facts=None, reported_at=None, clock_skew_seconds=None)
    view["telemetry"] = None
    names = lines_of(exposition(view).text("all"), "n1")
    assert "agentfarm_node_up" in names
    assert "agentfarm_node_last_report_timestamp_seconds" not in names


def test_a_hanging_driver() -> None:
    """While the driver hangs, GPU gauges vanish and the GPU stays known; the node's own gauges stay."""
    page = exposition(make_view("n1"))
    report = {"gpus": (), "gpu_health": "hanging", "gpu_error": "NVML did not answer"}
    page.update_node(make_view("n1", telemetry_changes=report))
    text = page.text("all")
    assert value(text, 'agentfarm_gpu_collect_success{node="n1"}') == 0
    assert {name for name in lines_of(text, "n1") if "gpu" in name} == {
        "agentfarm_gpu_info",
        "agentfarm_gpu_collect_success",
    }
    assert "agentfarm_node_load1" in lines_of(text, "n1")


def test_a_removed_node_is_gone() -> None:
    """A node that was taken out of the farm has no series left."""
    page = exposition(make_view("n1"), make_view("n2"))
    page.remove_node("n1")
    assert lines_of(page.text("all"), "n1") == set()
    page.reset([], [])
    assert lines_of(page.text("all"), "n2") == set()


def test_sets_are_disjoint_and_complete() -> None:
    """Each series is in exactly one of the three sets, and all of them are in the fourth."""
    now = time.time()
    page = exposition(make_view("n1"), make_view("big", role="gpuserver", gpus=2), clock=lambda: now)
    parts = [
        {line for line in page.text(which).splitlines() if line[0] != "#"}
        for which in ("hub", "microserver", "gpuserver")
    ]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert set.union(*parts) == {line for line in page.text("all").splitlines() if line[0] != "#"}


def test_closed_sets_start_at_zero() -> None:
    """Every state and outcome of a closed set is there before it first comes about."""
    text = exposition(make_view("n1")).text("all")
    assert value(text, 'agentfarm_leases{state="granted"}') == 0
    assert value(text, 'agentfarm_leases{state="running"}') == 1
    assert value(text, 'agentfarm_nodes{role="gpuserver",state="ready"}') == 0
    assert value(text, 'agentfarm_tasks_finished_total{node="n1",kind="case",outcome="lost"}') == 0
    assert value(text, 'agentfarm_tasks_finished_total{node="n1",kind="case",outcome="succeeded"}') == 1
    assert value(text, 'agentfarm_benchmark_runs_total{suite="smoke",outcome="cancelled"}') == 0
    assert value(text, 'agentfarm_benchmark_cases_total{node="n1",suite="smoke",case="torch",outcome="skipped"}') == 1


def test_the_histogram_adds_up() -> None:
    """Buckets are cumulative, the last one is the count, and what only warms a node up is no duration of a case."""
    page = exposition()
    page.counters.count_case(RUN, CaseResult("n1", "gemm", "succeeded", duration_seconds=9.0, warm_up=True))
    text = page.text("hub")
    name = 'agentfarm_benchmark_case_duration_seconds_bucket{suite="smoke",case="gemm",le='
    assert [value(text, f'{name}"{bound}"}}') for bound in ("2.5", "5", "+Inf")] == [0, 1, 1]
    assert value(text, 'agentfarm_benchmark_case_duration_seconds_sum{suite="smoke",case="gemm"}') == 3.2


def test_the_number_of_series_is_bounded() -> None:
    """A node's further GPUs and mountpoints are left out."""
    disks = tuple({"mountpoint": f"/m{n}", "size_bytes": 1, "avail_bytes": 1} for n in range(9))
    text = exposition(make_view("n1", gpus=20, telemetry_changes={"filesystems": disks})).text("all")
    assert text.count("agentfarm_gpu_info{") == 16
    assert text.count("agentfarm_node_filesystem_size_bytes{") == 4


def test_a_lost_gpu_renames_no_other() -> None:
    """The number of a GPU stays its own when another one vanishes."""
    view = make_view("n1", gpus=2)
    page = exposition(view)
    view["telemetry"]["gpus"] = view["telemetry"]["gpus"][1:]
    page.update_node(view)
    assert re.search(r'agentfarm_gpu_info{node="n1",gpu="1",uuid="GPU-n1-1"', page.text("all"))
    assert 'gpu="0"' not in page.text("all")


@given(st.text())
def test_no_text_of_a_node_breaks_the_page(text: str) -> None:
    """Whatever a device is called, it stays one line with one label value that reads back as it was."""
    view = make_view("n1")
    view["telemetry"]["gpus"][0]["name"] = text
    lines = [line for line in exposition(view).text("all").split("\n") if line.startswith("agentfarm_gpu_info{")]
    assert len(lines) == 1
    found = re.search(r',name="((?:[^"\\]|\\.)*)",driver', lines[0], re.DOTALL)
    assert found is not None
    unescaped = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), found[1], flags=re.DOTALL)
    assert unescaped == text


def test_no_line_has_a_timestamp_and_each_family_stands_together() -> None:
    """A line is a name, labels and one number; a family's lines follow its one head."""
    text = exposition(make_view("n1"), make_view("big", role="gpuserver")).text("all")
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9_]+(\{.*\})? [-+0-9.eE]+|.* inf", line), line
    heads = re.findall(r"# TYPE (\S+)", text)
    assert len(heads) == len(set(heads))
    assert set(heads) <= set(METRICS)


@pytest.mark.prometheus
@pytest.mark.parametrize("which", ["hub", "microserver", "gpuserver", "all"])
def test_promtool_is_content(which: str) -> None:
    """`promtool check metrics` has nothing to say about any set."""
    page = exposition(make_view("n1"), make_view("big", role="gpuserver", gpus=2), make_view("n2", state="down"))
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=page.text(which),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_scrape_makes_no_line_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second scrape of many nodes joins what is there; a report writes numbers anew, and no names and labels."""
    now = time.time()
    page = exposition(*(make_view(f"n{n}") for n in range(50)), clock=lambda: now)
    first = page.text("microserver")
    made: list[str] = []
    monkeypatch.setattr("jupyterhub_agentfarm.benchmark.node_series.series", lambda name, labels: made.append(name))
    monkeypatch.setattr("jupyterhub_agentfarm.benchmark.counters.sample_line", lambda name, *rest: made.append(name))
    assert page.text("microserver") == first
    page.update_node(make_view("n1", telemetry_changes={"load1": 7.25}))
    assert value(page.text("microserver"), 'agentfarm_node_load1{node="n1"}') == 7.25
    assert made == []


def test_what_is_left_out_of_a_report_is_counted() -> None:
    """Each report with more GPUs or mountpoints than are shown counts once, however often it is told."""
    disks = tuple({"mountpoint": f"/m{n}", "size_bytes": 1, "avail_bytes": 1} for n in range(9))
    view = make_view("n1", telemetry_changes={"filesystems": disks}, reported_at=100.0)
    page = exposition(view, make_view("n2"))
    page.update_node(view)
    rejected = 'agentfarm_reports_rejected_total{reason="cardinality"}'
    assert value(page.text("hub"), rejected) == 1
    page.update_node(make_view("n1", gpus=17, reported_at=102.0))
    assert value(page.text("hub"), rejected) == 2
    assert value(exposition(make_view("n2")).text("hub"), rejected) == 0


def test_the_farms_sums_are_of_live_nodes() -> None:
    """Processors weigh as many as they are; a node that is down, or tells no CPU use, does not count."""
    big = make_view("big", role="gpuserver", telemetry_changes={"cpus": 24, "cpu_utilization_ratio": 0.75})
    dumb = make_view("n2", telemetry_changes={"cpu_utilization_ratio": None})
    text = exposition(make_view("n1"), big, dumb, make_view("n3", state="down")).text("hub")
    assert value(text, "agentfarm_farm_cpu_utilization_ratio") == (8 * 0.25 + 24 * 0.75) / 32
    assert value(text, "agentfarm_farm_memory_total_bytes") == 3 * 32 * 2**30
    assert value(text, "agentfarm_farm_memory_used_bytes") == 3 * 8 * 2**30
    assert "agentfarm_farm_memory" not in exposition(make_view("n3", state="down")).text("hub")


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(0, 40), st.sampled_from(["ready", "unreachable", "silent"])), min_size=1, max_size=30)
)
def test_the_time_for_which_a_node_was_up(steps: list[tuple[float, str]]) -> None:
    """It never falls, and says after each report, loss and silence for how long the node was up until then."""
    now, up, shown = 1000.0, 0.0, 0.0
    page = exposition(make_view("n1", reported_at=now, since_at=now), clock=lambda: now)
    reported, connected = now, True
    for pause, what in steps:
        if not connected and what == "ready":  # connected, before the first report
            page.update_node(make_view("n1", reported_at=reported, since_at=now + pause / 2))
        up += min(pause, max(0.0, reported + 15 - now)) if connected else 0.0
        now += pause
        if what == "ready":
            reported = now
        if what != "silent":
            connected = what == "ready"
            page.update_node(make_view("n1", state=what, reported_at=reported, since_at=now))
        before, shown = shown, value(page.text("all"), 'agentfarm_node_up_seconds_total{node="n1"}')
        assert shown >= before
        if what != "silent" or now - reported > 15:
            assert shown == pytest.approx(up, abs=0.002)


def test_counters_follow_new_results() -> None:
    """A result that comes after a scrape is in the next one."""
    page = exposition(make_view("n1"))
    page.text("all")
    page.counters.count_case(RUN, CaseResult("n1", "gemm", "failed"))
    assert value(page.text("all"), 'agentfarm_tasks_finished_total{node="n1",kind="case",outcome="failed"}') == 1


_STEP = st.tuples(
    st.sampled_from(["n1", "n2", "n3"]),
    st.sampled_from(["report", "move", "down", "remove", "count", "wait", "hang", "scrape"]),
    st.floats(0, 20),
)


@settings(deadline=None, max_examples=30)
@given(st.lists(_STEP, max_size=25))
def test_what_is_kept_is_what_would_be_made_anew(steps: list[tuple[str, str, float]]) -> None:
    """After whatever happened, the page is that of an exposition which has only just heard of the farm."""
    now = 1000.0
    page = exposition(clock=lambda: now)
    views: dict[str, dict[str, Any]] = {}
    for name, what, number in steps:
        if what == "wait":
            now += number
        elif what == "count":
            page.counters.count_case(RUN, CaseResult(name, "gemm", "failed"))
        elif what == "remove":
            views.pop(name, None)
            page.remove_node(name)
        elif what == "scrape":
            page.text("all")
        else:
            hanging = {"gpus": (), "gpu_health": "hanging"} if what == "hang" else {}
            changes: dict[str, Any] = {"role": "gpuserver"} if what == "move" else {}
            changes |= {"state": "down"} if what == "down" else {}
            report = {"load1": number, "time": now, **hanging}
            views[name] = make_view(name, telemetry_changes=report, reported_at=now, since_at=now, **changes)
            page.update_node(views[name])
    anew = Exposition("1.2.3", page.counters, stale_after_seconds=15, suites=lambda: ["smoke"], clock=lambda: now)
    anew.reset(views.values(), [{"id": "a", "state": "running"}, {"id": "b", "state": "waiting"}])
    assert told(page) == told(anew)


def told(page: Exposition) -> list[str]:
    """Return the lines of a page, without what an exposition remembers of the past: uptime, GPUs of silent nodes."""
    past = ("agentfarm_node_up_seconds_total", "agentfarm_gpu_info")
    # A node's place among the lines of a family is that of who was there before.
    return sorted(line for line in page.text("all").splitlines() if not any(name in line for name in past))
