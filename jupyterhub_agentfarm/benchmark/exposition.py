"""The metrics page: nodes, GPUs, leases and benchmark counters in Prometheus' text format 0.0.4.

Lines are made when a node reports and joined when somebody scrapes, so a scrape of a thousand nodes costs about as
much as copying its text. A node that is down, or whose last report is older than `stale_after_seconds`, keeps only
its ``up 0``, the time of its last report, its info and its counters; all its gauges vanish, and never is a line given
a timestamp. So Prometheus sees the end of the series at the next scrape, not a value that is frozen for ever.
The same holds for the GPUs of a node whose driver hangs.

Sets: ``hub`` is about the farm as a whole, ``microserver`` and ``gpuserver`` about the nodes of that role, ``all``
is everything. A series is in exactly one of the first three, so that scraping them all counts nothing twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import metrics
from ..metrics import METRICS, Histogram, head_lines, sample_line
from .models import BenchmarkRun, CaseResult

SETS = ("hub", *metrics.NODE_ROLES, "all")

Lines = dict[str, list[str]]


class NodeSeries:
    """The lines of one node.

    Parameters
    ----------
    view
        The node as the controller's API tells it.
    """

    def __init__(self, view: Mapping[str, Any]) -> None:
        self.name: str = view["name"]
        #: The line for "not up" and the one for "up".
        self.up_lines = tuple(sample_line("agentfarm_node_up", {"node": self.name}, up) for up in (0, 1))
        self._numbers: dict[str, int] = {}
        self._gpus: list[Mapping[str, Any]] = []
        self._facts: Mapping[str, Any] | None = None
        self.update(view)

    def update(self, view: Mapping[str, Any]) -> None:
        """Make the lines anew from the node's newest state."""
        self.role: str = view["spec"]["role"]
        self.status: str = view["status"]
        self.connected: bool = view["state"] == "ready"
        self.reported_at: float | None = view["reported_at"]
        self._facts = view["facts"] or self._facts
        telemetry = view["telemetry"] if self.connected else None
        self._remember_gpus(telemetry)
        self.lasting = self._lasting_lines()
        self.gauges: Lines = self._gauge_lines(view, telemetry) if telemetry else {}
        self.live_gpus: list[Mapping[str, Any]] = self._gpus if _gpus_readable(telemetry) else []

    def fresh(self, now: float, stale_after_seconds: float) -> bool:
        """Whether the node is connected and its last report is not too old."""
        return self.connected and self.reported_at is not None and now - self.reported_at <= stale_after_seconds

    def _remember_gpus(self, telemetry: Mapping[str, Any] | None) -> None:
        """Keep the known GPUs while the driver hangs; number them once, so that a lost one renames no other."""
        if not telemetry or telemetry["gpu_health"] in ("hanging", "failed"):
            return
        self._gpus = []
        for gpu in telemetry["gpus"]:
            if len(self._numbers) < metrics.MAX_GPUS_PER_NODE:
                self._numbers.setdefault(gpu["uuid"], len(self._numbers))
            if gpu["uuid"] in self._numbers:
                self._gpus.append(gpu)

    def _line(self, lines: Lines, metric: str, value: float | None, /, **labels: str) -> None:
        if value is not None:
            lines.setdefault(metric, []).append(sample_line(metric, {"node": self.name, **labels}, value))

    def _lasting_lines(self) -> Lines:
        lines: Lines = {}
        facts = self._facts or {}
        about = {key: str(facts.get(key) or "") for key in ("version", "os", "arch")}
        self._line(lines, "agentfarm_node_info", 1, role=self.role, **about)
        self._line(lines, "agentfarm_node_last_report_timestamp_seconds", self.reported_at)
        for gpu in self._gpus:
            self._line(
                lines,
                "agentfarm_gpu_info",
                1,
                gpu=str(self._numbers[gpu["uuid"]]),
                uuid=gpu["uuid"],
                name=gpu["name"],
                driver_version=str(facts.get("driver_version") or ""),
                simulated="true" if gpu["simulated"] else "false",
            )
        return lines

    def _gauge_lines(self, view: Mapping[str, Any], telemetry: Mapping[str, Any]) -> Lines:
        lines: Lines = {}
        self._line(lines, "agentfarm_node_clock_skew_seconds", view["clock_skew_seconds"])
        self._line(lines, "agentfarm_node_boot_time_seconds", telemetry["boot_at"])
        for key in (
            "cpus",
            "cpu_utilization_ratio",
            "load1",
            "load5",
            "load15",
            "memory_total_bytes",
            "memory_available_bytes",
        ):
            self._line(lines, f"agentfarm_node_{key}", telemetry[key])
        for disk in telemetry["filesystems"][: metrics.MAX_MOUNTPOINTS_PER_NODE]:
            for key in ("size_bytes", "avail_bytes"):
                self._line(lines, f"agentfarm_node_filesystem_{key}", disk[key], mountpoint=disk["mountpoint"])
        if telemetry["gpu_health"] != "absent":
            self._line(lines, "agentfarm_gpu_collect_success", float(telemetry["gpu_health"] == "ok"))
        if _gpus_readable(telemetry):
            self._gpu_gauges(lines)
        return lines

    def _gpu_gauges(self, lines: Lines) -> None:
        names = ("utilization_ratio", "memory_used_bytes", "memory_total_bytes", "power_watts", "power_limit_watts")
        for gpu in self._gpus:
            number = str(self._numbers[gpu["uuid"]])
            for key in (*names, "temperature_celsius"):
                self._line(lines, f"agentfarm_gpu_{key}", gpu[key], gpu=number)
            self._line(lines, "agentfarm_gpu_leased", float(bool(gpu.get("leased"))), gpu=number)


def _gpus_readable(telemetry: Mapping[str, Any] | None) -> bool:
    return telemetry is not None and telemetry["gpu_health"] not in ("hanging", "failed")


class BenchmarkCounters:
    """What runs have come to, since the first one ever: it starts from the store."""

    def __init__(self) -> None:
        self._cases: Counter[tuple[str, str, str, str]] = Counter()
        self._tasks: Counter[tuple[str, str]] = Counter()
        self._runs: Counter[tuple[str, str]] = Counter()
        self._made: dict[str, Lines] = {}
        self._durations: dict[tuple[str, str], Histogram] = {}

    def count_case(self, run: BenchmarkRun, result: CaseResult) -> None:
        """Count one result."""
        self._made.pop(result.node, None)
        self._cases[result.node, run.suite, result.case, result.outcome] += 1
        if result.outcome in metrics.TASK_OUTCOMES:
            self._tasks[result.node, result.outcome] += 1
        if result.outcome == "succeeded" and result.duration_seconds is not None:
            labels = {"suite": run.suite, "case": result.case}
            made = Histogram("agentfarm_benchmark_case_duration_seconds", labels)
            self._durations.setdefault((run.suite, result.case), made).add(result.duration_seconds)

    def count_run(self, run: BenchmarkRun) -> None:
        """Count one run that ended."""
        self._runs[run.suite, run.state] += 1

    def node_lines(self, node: str) -> Lines:
        """Return the counters of one node; outcomes that never came about are 0."""
        if node not in self._made:
            self._made[node] = self._make_node_lines(node)
        return self._made[node]

    def _make_node_lines(self, node: str) -> Lines:
        name = "agentfarm_tasks_finished_total"
        tasks = [
            sample_line(name, {"node": node, "outcome": outcome}, self._tasks[node, outcome])
            for outcome in metrics.TASK_OUTCOMES
        ]
        name = "agentfarm_benchmark_cases_total"
        cases = [
            sample_line(
                name,
                {"node": node, "suite": suite, "case": case, "outcome": outcome},
                self._cases[node, suite, case, outcome],
            )
            for suite, case in sorted({(suite, case) for at, suite, case, _ in self._cases if at == node})
            for outcome in metrics.CASE_OUTCOMES
        ]
        return {"agentfarm_tasks_finished_total": tasks, "agentfarm_benchmark_cases_total": cases}

    def hub_lines(self, suites: Iterable[str]) -> Lines:
        """Return the counters of runs, from 0 for the `suites` that exist, and the histogram of durations."""
        name = "agentfarm_benchmark_runs_total"
        known = sorted({*suites, *(suite for suite, _ in self._runs)})
        runs = [
            sample_line(name, {"suite": suite, "outcome": outcome}, self._runs[suite, outcome])
            for suite in known
            for outcome in metrics.RUN_OUTCOMES
        ]
        histogram = [line for key in sorted(self._durations) for line in self._durations[key].lines()]
        return {name: runs, "agentfarm_benchmark_case_duration_seconds": histogram}


class Exposition:
    """The text of each set.

    Parameters
    ----------
    version
        The version that ``agentfarm_build_info`` tells.
    counters
        What benchmark runs have come to.
    stale_after_seconds
        Age of a node's last report from which on its gauges are left out.
    suites
        Gives the names of the suites that exist.
    clock
        Gives seconds since the epoch.
    """

    def __init__(
        self,
        version: str,
        counters: BenchmarkCounters,
        stale_after_seconds: float = 15,
        suites: Callable[[], Iterable[str]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.version = version
        self.counters = counters
        self.stale_after_seconds = stale_after_seconds
        self._suites = suites
        self._clock = clock
        self._nodes: dict[str, NodeSeries] = {}
        self._leases: dict[str, str] = {}

    def update_node(self, view: Mapping[str, Any]) -> None:
        """Take a node's newest state."""
        if (series := self._nodes.get(view["name"])) is not None:
            series.update(view)
        else:
            self._nodes[view["name"]] = NodeSeries(view)

    def remove_node(self, name: str) -> None:
        """Forget a node that was taken out of the farm."""
        self._nodes.pop(name, None)

    def update_lease(self, lease: Mapping[str, Any]) -> None:
        """Take a lease's newest state."""
        if lease["state"] in metrics.LEASE_STATES:
            self._leases[lease["id"]] = lease["state"]
        else:
            self._leases.pop(lease["id"], None)

    def reset(self, nodes: Iterable[Mapping[str, Any]], leases: Iterable[Mapping[str, Any]]) -> None:
        """Take the whole state of the farm; what is not in it is forgotten."""
        views = {view["name"]: view for view in nodes}
        self._nodes = {name: series for name, series in self._nodes.items() if name in views}
        for view in views.values():
            self.update_node(view)
        self._leases = {}
        for lease in leases:
            self.update_lease(lease)

    def text(self, which: str) -> str:
        """Return the text of a set, one of :data:`SETS`."""
        now = self._clock()
        families: Lines = {name: [] for name in METRICS}
        if which in ("hub", "all"):
            _join(families, self._hub_lines(now))
        for name in sorted(self._nodes):
            series = self._nodes[name]
            if which in (series.role, "all"):
                self._join_node(families, series, now)
        parts = [head_lines(METRICS[name]) + "\n".join(lines) + "\n" for name, lines in families.items() if lines]
        return "".join(parts)

    def _join_node(self, families: Lines, series: NodeSeries, now: float) -> None:
        fresh = series.fresh(now, self.stale_after_seconds)
        families["agentfarm_node_up"].append(series.up_lines[fresh])
        _join(families, series.lasting)
        if fresh:
            _join(families, series.gauges)
        _join(families, self.counters.node_lines(series.name))

    def _hub_lines(self, now: float) -> Lines:
        live = {name: node for name, node in self._nodes.items() if node.fresh(now, self.stale_after_seconds)}
        states = Counter(
            (node.role, node.status if name in live or not node.connected else "unreachable")
            for name, node in self._nodes.items()
        )
        leases = Counter(self._leases.values())
        return {
            "agentfarm_build_info": [sample_line("agentfarm_build_info", {"version": self.version}, 1)],
            "agentfarm_nodes": [
                sample_line("agentfarm_nodes", {"role": role, "state": state}, states[role, state])
                for role in metrics.NODE_ROLES
                for state in metrics.NODE_STATUSES
            ],
            "agentfarm_leases": [
                sample_line("agentfarm_leases", {"state": state}, leases[state]) for state in metrics.LEASE_STATES
            ],
            **_farm_gpu_lines([gpu for node in live.values() for gpu in node.live_gpus]),
            **self.counters.hub_lines(self._suites()),
        }


def _farm_gpu_lines(gpus: list[Mapping[str, Any]]) -> Lines:
    """Return the farm's sums over live GPUs; a quantity that no GPU tells is left out."""
    lines: Lines = {}
    used = [gpu["utilization_ratio"] for gpu in gpus if gpu["utilization_ratio"] is not None]
    if used:
        name = "agentfarm_farm_gpu_utilization_ratio"
        lines[name] = [sample_line(name, {}, sum(used) / len(used))]
    for key in ("memory_used_bytes", "memory_total_bytes"):
        known = [gpu[key] for gpu in gpus if gpu[key] is not None]
        if known:
            name = f"agentfarm_farm_gpu_{key}"
            lines[name] = [sample_line(name, {}, sum(known))]
    return lines


def _join(families: Lines, lines: Lines) -> None:
    for name, added in lines.items():
        families[name].extend(added)
