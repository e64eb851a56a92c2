"""The lines of one node on the metrics page, made when it reports and joined when somebody scrapes.

A node reports every few seconds, so its lines keep what does not change, name and labels, and only numbers are
written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .. import metrics
from ..metrics import format_value, series

#: Lines of each family, each with its line feed.
Blocks = dict[str, str]

_NODE_GAUGES = (
    "cpus",
    "cpu_utilization_ratio",
    "load1",
    "load5",
    "load15",
    "memory_total_bytes",
    "memory_available_bytes",
)
_GPU_GAUGES = (
    "utilization_ratio",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_watts",
    "power_limit_watts",
    "temperature_celsius",
)
#: More than a node has in use; beyond that, old ones are forgotten.
_KEPT_HEADS = 1000


class Totals(NamedTuple):
    """What a node adds to the farm's sums; a quantity that a device does not tell is in neither sum nor count."""

    memory_total_bytes: float = 0
    memory_used_bytes: float = 0
    #: Processors of nodes that tell their use, and how many of them are busy.
    cpus: float = 0
    busy_cpus: float = 0
    gpu_utilization: float = 0
    gpus_with_utilization: float = 0
    gpu_memory_used_bytes: float = 0
    gpus_with_memory_used: float = 0
    gpu_memory_total_bytes: float = 0
    gpus_with_memory_total: float = 0


class NodeSeries:
    """The lines of one node.

    Parameters
    ----------
    view
        The node as the controller's API tells it.
    """

    def __init__(self, view: Mapping[str, Any]) -> None:
        self.name: str = view["name"]
        self._heads: dict[tuple[str, ...], str] = {}
        #: The block for "not up" and the one for "up".
        self.up_blocks = tuple(self._line("agentfarm_node_up", up) for up in (0, 1))
        self._numbers: dict[str, int] = {}
        self._gpus: list[Mapping[str, Any]] = []
        self._facts: Mapping[str, Any] | None = None
        self._up_seconds = 0.0
        self.connected = False
        self.reported_at: float | None = None
        self._since_at = 0.0
        self.update(view, 0.0)

    def update(self, view: Mapping[str, Any], stale_after_seconds: float) -> None:
        """Make the lines anew from the node's newest state."""
        self._count_up(view, stale_after_seconds)
        self.role: str = view["spec"]["role"]
        self.status: str = view["status"]
        self.connected = view["state"] == "ready"
        self.reported_at = view["reported_at"]
        self._since_at = view["since_at"]
        self._facts = view["facts"] or self._facts
        #: The newest report of a node that is connected.
        telemetry: Mapping[str, Any] | None = view["telemetry"] if self.connected else None
        #: Whether a part of the report was left out.
        self.cut: bool = self._remember_gpus(telemetry) or _has_more_disks(telemetry)
        self.lasting = self._lasting_blocks()
        self.gauges: Blocks = self._gauge_blocks(view, telemetry) if telemetry else {}
        self.totals = _totals(telemetry, self._gpus if _gpus_readable(telemetry) else []) if telemetry else Totals()

    def fresh(self, now: float, stale_after_seconds: float) -> bool:
        """Whether the node is connected and its last report is not too old."""
        return self.connected and self.reported_at is not None and now - self.reported_at <= stale_after_seconds

    # ---- availability ----

    def up_seconds(self, now: float, stale_after_seconds: float) -> float:
        """Return for how long the node was up, since it was first seen here."""
        return self._up_seconds + self._since_report(now, stale_after_seconds)

    def _since_report(self, now: float, stale_after_seconds: float) -> float:
        if not self.connected or self.reported_at is None or self.reported_at < self._since_at:
            return 0.0  # what it reported before it was lost says nothing of the time since
        return min(max(0.0, now - self.reported_at), stale_after_seconds)

    def _count_up(self, view: Mapping[str, Any], stale_after_seconds: float) -> None:
        """Count the time up to this report, or up to the loss of the connection."""
        until = view["reported_at"] if view["state"] == "ready" else view["since_at"]
        if until is not None and until != self.reported_at:
            self._up_seconds += self._since_report(until, stale_after_seconds)

    # ---- lines ----

    def blocks(self, fresh: bool, now: float, stale_after_seconds: float) -> Blocks:
        """Return all lines that there are of the node now."""
        up_seconds = round(self.up_seconds(now, stale_after_seconds), 3)
        return {
            **self.lasting,
            **(self.gauges if fresh else {}),
            "agentfarm_node_up": self.up_blocks[fresh],
            "agentfarm_node_up_seconds_total": self._line("agentfarm_node_up_seconds_total", up_seconds),
        }

    def _line(self, metric: str, value: float, *labels: str) -> str:
        head = self._heads.get((metric, *labels))
        if head is None:
            if len(self._heads) >= _KEPT_HEADS:  # a node that reports ever new mountpoints
                self._heads.clear()
            names = metrics.METRICS[metric].labels
            head = series(metric, dict(zip(names, (self.name, *labels), strict=True)))
            self._heads[metric, *labels] = head
        return f"{head} {format_value(value)}\n"

    def _add(self, blocks: Blocks, metric: str, value: float | None, *labels: str) -> None:
        if value is not None:
            blocks[metric] = blocks.get(metric, "") + self._line(metric, value, *labels)

    def _remember_gpus(self, telemetry: Mapping[str, Any] | None) -> bool:
        """Keep the known GPUs while the driver hangs; number them once, so that a lost one renames no other.

        Returns whether there are more than are shown.
        """
        if not telemetry or telemetry["gpu_health"] in ("hanging", "failed"):
            return False
        self._gpus = []
        for gpu in telemetry["gpus"]:
            if len(self._numbers) < metrics.MAX_GPUS_PER_NODE:
                self._numbers.setdefault(gpu["uuid"], len(self._numbers))
            if gpu["uuid"] in self._numbers:
                self._gpus.append(gpu)
        return len(self._gpus) < len(telemetry["gpus"])

    def _lasting_blocks(self) -> Blocks:
        blocks: Blocks = {}
        facts = self._facts or {}
        about = (str(facts.get(key) or "") for key in ("version", "os", "arch"))
        self._add(blocks, "agentfarm_node_info", 1, self.role, *about)
        self._add(blocks, "agentfarm_node_last_report_timestamp_seconds", self.reported_at)
        for gpu in self._gpus:
            number, simulated = str(self._numbers[gpu["uuid"]]), "true" if gpu["simulated"] else "false"
            driver = str(facts.get("driver_version") or "")
            self._add(blocks, "agentfarm_gpu_info", 1, number, gpu["uuid"], gpu["name"], driver, simulated)
        return blocks

    def _gauge_blocks(self, view: Mapping[str, Any], telemetry: Mapping[str, Any]) -> Blocks:
        blocks: Blocks = {}
        self._add(blocks, "agentfarm_node_clock_skew_seconds", view["clock_skew_seconds"])
        self._add(blocks, "agentfarm_node_boot_time_seconds", telemetry["boot_at"])
        for key in _NODE_GAUGES:
            self._add(blocks, f"agentfarm_node_{key}", telemetry[key])
        for disk in telemetry["filesystems"][: metrics.MAX_MOUNTPOINTS_PER_NODE]:
            for key in ("size_bytes", "avail_bytes"):
                self._add(blocks, f"agentfarm_node_filesystem_{key}", disk[key], disk["mountpoint"])
        if telemetry["gpu_health"] != "absent":
            self._add(blocks, "agentfarm_gpu_collect_success", float(telemetry["gpu_health"] == "ok"))
        if _gpus_readable(telemetry):
            self._gpu_gauges(blocks)
        return blocks

    def _gpu_gauges(self, blocks: Blocks) -> None:
        for gpu in self._gpus:
            number = str(self._numbers[gpu["uuid"]])
            for key in _GPU_GAUGES:
                self._add(blocks, f"agentfarm_gpu_{key}", gpu[key], number)
            self._add(blocks, "agentfarm_gpu_leased", float(bool(gpu.get("leased"))), number)


def _totals(telemetry: Mapping[str, Any], gpus: Iterable[Mapping[str, Any]]) -> Totals:
    total, cpus, ratio = telemetry["memory_total_bytes"], telemetry["cpus"], telemetry["cpu_utilization_ratio"]
    sums = []
    for key in _GPU_GAUGES[:3]:
        known = [gpu[key] for gpu in gpus if gpu[key] is not None]
        sums += [sum(known), len(known)]
    of_cpus = (0, 0) if ratio is None else (cpus, cpus * ratio)
    return Totals(total, total - telemetry["memory_available_bytes"], *of_cpus, *sums)


def _gpus_readable(telemetry: Mapping[str, Any] | None) -> bool:
    return telemetry is not None and telemetry["gpu_health"] not in ("hanging", "failed")


def _has_more_disks(telemetry: Mapping[str, Any] | None) -> bool:
    return telemetry is not None and len(telemetry["filesystems"]) > metrics.MAX_MOUNTPOINTS_PER_NODE
