"""Samples of the nodes and of the farm, made from the controller's newest reports.

Each round gives a sample per node, one per role (microservers and GPU servers are looked at apart) and one of the
farm. A quantity that nobody tells is left out, never 0. A node that is not connected gives ``up = 0`` and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .models import Sample

#: Quantities that are added up over nodes; the others are averaged.
_SUMMED = (
    "gpu_memory_used_bytes",
    "gpu_memory_total_bytes",
    "gpu_power_watts",
    "memory_used_bytes",
    "memory_total_bytes",
    "disk_used_bytes",
    "disk_total_bytes",
    "servers",
    "cases_succeeded",
    "cpus",
    "gpus",
    "up",
)
_AVERAGED = ("cpu_utilization_ratio", "load1", "gpu_utilization_ratio", "uptime_seconds")

#: Every quantity that a sample may have, in the order of the CSV's columns.
QUANTITIES = ("nodes", *_SUMMED, *_AVERAGED, "boot_at", "clock_skew_seconds")


def node_values(view: Mapping[str, Any] | None, cases_succeeded: int, servers: int = 0) -> dict[str, float]:
    """Return one node's quantities, made from the controller's view of it."""
    values: dict[str, float] = {"up": 0, "cases_succeeded": cases_succeeded}
    telemetry = view["telemetry"] if view and view["state"] == "ready" else None
    if not telemetry:
        return values
    values |= {"up": 1, "cpus": telemetry["cpus"], "gpus": len(telemetry["gpus"]), "servers": servers}
    values |= {key: telemetry[key] for key in ("load1", "uptime_seconds", "boot_at", "memory_total_bytes")}
    if view is not None and view["clock_skew_seconds"] is not None:
        values["clock_skew_seconds"] = view["clock_skew_seconds"]
    values["memory_used_bytes"] = telemetry["memory_total_bytes"] - telemetry["memory_available_bytes"]
    if telemetry["cpu_utilization_ratio"] is not None:
        values["cpu_utilization_ratio"] = telemetry["cpu_utilization_ratio"]
    return values | _disk_values(telemetry) | _gpu_values(telemetry)


def _disk_values(telemetry: Mapping[str, Any]) -> dict[str, float]:
    """Return the use of the root filesystem, or of the first that the node tells."""
    disks = sorted(telemetry["filesystems"], key=lambda disk: bool(disk["mountpoint"] != "/"))
    if not disks:
        return {}
    size, avail = disks[0]["size_bytes"], disks[0]["avail_bytes"]
    return {"disk_used_bytes": size - avail, "disk_total_bytes": size}


def _gpu_values(telemetry: Mapping[str, Any]) -> dict[str, float]:
    if telemetry["gpu_health"] in ("hanging", "failed"):
        return {}
    gpus, values = telemetry["gpus"], {}
    for key, source in (
        ("gpu_memory_used_bytes", "memory_used_bytes"),
        ("gpu_memory_total_bytes", "memory_total_bytes"),
        ("gpu_power_watts", "power_watts"),
    ):
        known = [gpu[source] for gpu in gpus if gpu[source] is not None]
        if known:
            values[key] = sum(known)
    busy = [gpu["utilization_ratio"] for gpu in gpus if gpu["utilization_ratio"] is not None]
    if busy:
        values["gpu_utilization_ratio"] = sum(busy) / len(busy)
    return values


def together(each: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return several nodes' quantities as one: sums and means over those that tell them."""
    nodes = list(each)
    values: dict[str, float] = {"nodes": len(nodes)}
    for key in (*_SUMMED, *_AVERAGED):
        known = [node[key] for node in nodes if key in node]
        if known:
            values[key] = sum(known) / (len(known) if key in _AVERAGED else 1)
    return values


def take_samples(
    at: float,
    views: Mapping[str, Mapping[str, Any]],
    roles: Mapping[str, str],
    succeeded: Mapping[str, int],
    leases: Iterable[Mapping[str, Any]] = (),
) -> list[Sample]:
    """Return one round of samples.

    Parameters
    ----------
    at
        Now, seconds since the epoch.
    views
        The controller's nodes by name.
    roles
        The role of each node that takes part.
    succeeded
        Cases that have succeeded on each node.
    leases
        The farm's leases: those that run are its servers.
    """
    servers = Counter(lease["node"] for lease in leases if lease["state"] == "running")
    each = {name: node_values(views.get(name), succeeded.get(name, 0), servers[name]) for name in roles}
    samples = [Sample(at, "node", name, values) for name, values in each.items()]
    for role in sorted(set(roles.values())):
        of_role = [values for name, values in each.items() if roles[name] == role]
        samples.append(Sample(at, "role", role, together(of_role)))
    return [*samples, Sample(at, "farm", "farm", together(each.values()))]
