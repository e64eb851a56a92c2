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
from ..metrics import METRICS, head_lines, sample_line
from .counters import BenchmarkCounters, block
from .node_series import Blocks, NodeSeries

SETS = metrics.SETS


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
        self._rejected: Counter[str] = Counter()
        #: Give further blocks of the set ``hub``.
        self.further: list[Callable[[], Blocks]] = []

    def update_node(self, view: Mapping[str, Any]) -> None:
        """Take a node's newest state."""
        node, before = self._nodes.get(view["name"]), None
        if node is None:
            node = NodeSeries(view)
            self._nodes = dict(sorted((self._nodes | {node.name: node}).items()))
        else:
            before = node.reported_at
            node.update(view, self.stale_after_seconds)
        self._rejected["cardinality"] += node.cut and node.reported_at != before

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
        families: dict[str, list[str]] = {name: [] for name in METRICS}
        if which in ("hub", "all"):
            _join(families, self._hub_blocks(now))
        for series in self._nodes.values():
            if which in (series.role, "all"):
                self._join_node(families, series, now)
        parts: list[str] = []
        for name, blocks in families.items():
            if any(blocks):
                parts.append(head_lines(METRICS[name]))
                parts += blocks
        return "".join(parts)

    def _join_node(self, families: dict[str, list[str]], series: NodeSeries, now: float) -> None:
        fresh = series.fresh(now, self.stale_after_seconds)
        families["agentfarm_node_up"].append(series.up_blocks[fresh])
        families["agentfarm_node_up_seconds_total"].append(series.up_block(now, self.stale_after_seconds))
        _join(families, series.lasting)
        if fresh:
            _join(families, series.gauges)
        _join(families, self.counters.node_blocks(series.name))

    def _hub_blocks(self, now: float) -> Blocks:
        live = {name: node for name, node in self._nodes.items() if node.fresh(now, self.stale_after_seconds)}
        states = Counter(
            (node.role, node.status if name in live or not node.connected else "unreachable")
            for name, node in self._nodes.items()
        )
        blocks = {
            "agentfarm_build_info": _line("agentfarm_build_info", 1, version=self.version),
            "agentfarm_nodes": "".join(
                _line("agentfarm_nodes", states[role, state], role=role, state=state)
                for role in metrics.NODE_ROLES
                for state in metrics.NODE_STATUSES
            ),
            "agentfarm_leases": _counted("agentfarm_leases", "state", metrics.LEASE_STATES, self._leases.values()),
            "agentfarm_reports_rejected_total": "".join(
                _line("agentfarm_reports_rejected_total", self._rejected[reason], reason=reason)
                for reason in metrics.REPORT_REJECTIONS
            ),
            **_farm_blocks([node.telemetry for node in live.values() if node.telemetry]),
            **_farm_gpu_blocks([gpu for node in live.values() for gpu in node.live_gpus]),
            **self.counters.hub_blocks(self._suites()),
        }
        for further in self.further:
            blocks |= further()
        return blocks


def _line(name: str, value: float, **labels: str) -> str:
    return sample_line(name, labels, value) + "\n"


def _counted(name: str, label: str, values: Iterable[str], seen: Iterable[str]) -> str:
    counts = Counter(seen)
    return block(sample_line(name, {label: value}, counts[value]) for value in values)


def _farm_blocks(reports: list[Mapping[str, Any]]) -> Blocks:
    """Return processors and memory over live nodes; without any, there are none."""
    if not reports:
        return {}
    total = sum(report["memory_total_bytes"] for report in reports)
    used = total - sum(report["memory_available_bytes"] for report in reports)
    sums = {"agentfarm_farm_memory_used_bytes": used, "agentfarm_farm_memory_total_bytes": total}
    known = [report for report in reports if report["cpu_utilization_ratio"] is not None]
    if cpus := sum(report["cpus"] for report in known):
        busy = sum(report["cpus"] * report["cpu_utilization_ratio"] for report in known)
        sums["agentfarm_farm_cpu_utilization_ratio"] = busy / cpus
    return {name: _line(name, value) for name, value in sums.items()}


def _farm_gpu_blocks(gpus: list[Mapping[str, Any]]) -> Blocks:
    """Return the farm's sums over live GPUs; a quantity that no GPU tells is left out."""
    blocks: Blocks = {}
    used = [gpu["utilization_ratio"] for gpu in gpus if gpu["utilization_ratio"] is not None]
    if used:
        name = "agentfarm_farm_gpu_utilization_ratio"
        blocks[name] = _line(name, sum(used) / len(used))
    for key in ("memory_used_bytes", "memory_total_bytes"):
        known = [gpu[key] for gpu in gpus if gpu[key] is not None]
        if known:
            name = f"agentfarm_farm_gpu_{key}"
            blocks[name] = _line(name, sum(known))
    return blocks


def _join(families: dict[str, list[str]], blocks: Blocks) -> None:
    for name, added in blocks.items():
        families[name].append(added)
