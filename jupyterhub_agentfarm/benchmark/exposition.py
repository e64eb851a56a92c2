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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .. import metrics
from ..metrics import METRICS, head_lines, sample_line
from .counters import BenchmarkCounters, block
from .node_series import Blocks, NodeSeries, Totals
from .node_table import NodeTable

SETS = metrics.SETS
_HEADS = {name: head_lines(metric) for name, metric in METRICS.items()}


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
    settled
        Called when the whole state of the farm was taken.
    """

    def __init__(
        self,
        version: str,
        counters: BenchmarkCounters,
        stale_after_seconds: float = 15,
        suites: Callable[[], Iterable[str]] = tuple,
        clock: Callable[[], float] = time.time,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._settled = settled
        self.version = version
        self.counters = counters
        self.stale_after_seconds = stale_after_seconds
        self._suites = suites
        self._clock = clock
        self._nodes: dict[str, NodeSeries] = {}
        self._tables = {role: NodeTable(counters.node_blocks, stale_after_seconds) for role in metrics.NODE_ROLES}
        self._leases: dict[str, str] = {}
        self._rejected: Counter[str] = Counter()
        #: Give further blocks of the set ``hub``.
        self.further: list[Callable[[], Blocks]] = []

    def update_node(self, view: Mapping[str, Any]) -> None:
        """Take a node's newest state."""
        node, before, role = self._nodes.get(view["name"]), None, ""
        if node is None:
            node = self._nodes[view["name"]] = NodeSeries(view)
        else:
            before, role = node.reported_at, node.role
            node.update(view, self.stale_after_seconds)
        if role not in ("", node.role):
            self._tables[role].remove(node.name)
        self._tables[node.role].put(node, self._clock())
        self._rejected["cardinality"] += node.cut and node.reported_at != before

    def remove_node(self, name: str) -> None:
        """Forget a node that was taken out of the farm."""
        self._nodes.pop(name, None)
        for table in self._tables.values():
            table.remove(name)

    def update_lease(self, lease: Mapping[str, Any]) -> None:
        """Take a lease's newest state."""
        if lease["state"] in metrics.LEASE_STATES:
            self._leases[lease["id"]] = lease["state"]
        else:
            self._leases.pop(lease["id"], None)

    def reset(self, nodes: Iterable[Mapping[str, Any]], leases: Iterable[Mapping[str, Any]]) -> None:
        """Take the whole state of the farm; what is not in it is forgotten."""
        views = {view["name"]: view for view in nodes}
        for name in self._nodes.keys() - views.keys():
            self.remove_node(name)
        for view in views.values():
            self.update_node(view)
        self._leases = {}
        for lease in leases:
            self.update_lease(lease)
        self._settled()

    def text(self, which: str) -> str:
        """Return the text of a set, one of :data:`SETS`."""
        return "".join(self.chunks(which))

    def chunks(self, which: str) -> Iterator[str]:
        """Give the text in pieces, each made in a moment: between two of them others may have their turn."""
        now = self._clock()
        self._refill(now)
        hub = self._hub_blocks(now) if which in ("hub", "all") else {}
        yield ""
        columns = [table.columns(now) for role, table in self._tables.items() if which in (role, "all")]
        for name, head in _HEADS.items():
            text = hub.get(name, "") + "".join("".join(column.get(name, ())) for column in columns)
            if text:
                yield head + text

    def _refill(self, now: float) -> None:
        """Take what was counted since the last scrape."""
        for name in self.counters.changed:
            for table in self._tables.values():
                table.refill(name, now)
        self.counters.changed.clear()

    def _hub_blocks(self, now: float) -> Blocks:
        live = [node for table in self._tables.values() for node in table.live(now)]
        fresh = {node.name for node in live}
        states = Counter(
            (node.role, node.status if name in fresh or not node.connected else "unreachable")
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
            **_farm_blocks(live),
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


def _farm_blocks(live: list[NodeSeries]) -> Blocks:
    """Return the farm's sums over live nodes; a quantity that none of them tells is left out."""
    if not live:
        return {}
    sums = Totals(*map(sum, zip(*(node.totals for node in live), strict=True)))
    told = {"memory_used_bytes": sums.memory_used_bytes, "memory_total_bytes": sums.memory_total_bytes}
    if sums.cpus:
        told["cpu_utilization_ratio"] = sums.busy_cpus / sums.cpus
    if sums.gpus_with_utilization:
        told["gpu_utilization_ratio"] = sums.gpu_utilization / sums.gpus_with_utilization
    if sums.gpus_with_memory_used:
        told["gpu_memory_used_bytes"] = sums.gpu_memory_used_bytes
    if sums.gpus_with_memory_total:
        told["gpu_memory_total_bytes"] = sums.gpu_memory_total_bytes
    return {f"agentfarm_farm_{name}": _line(f"agentfarm_farm_{name}", value) for name, value in told.items()}
