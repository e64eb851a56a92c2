"""``agentfarm nodes``: which nodes there are and how they are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..metrics import NODE_REFUSALS
from ..terminal.parsing import Parsed
from ..terminal.quantities import UNKNOWN, age, duration, number, share, size
from .command import Command
from .isolation_checks import isolation_line
from .warm_checks import warm_line

_CLI = "jupyterhub_agentfarm.cli"
_COLUMNS = ("NAME", "STATUS", "ROLE", "ADDRESS", "CPU", "LOAD", "MEMORY FREE", "GPUS LEASED", "SINCE", "DETAIL")
_GPU_COLUMNS = ("GPU", "NAME", "USED", "MEMORY", "POWER", "TEMPERATURE", "LEASED TO", "")


class Nodes(Parsed):
    """The nodes of the farm."""

    command = "agentfarm nodes"
    description = "The nodes of the farm."
    subcommands = {
        "list": (f"{_CLI}.nodes.ListNodes", "List the nodes"),
        "show": (f"{_CLI}.nodes.ShowNode", "Show one node and its GPUs"),
        "add": (f"{_CLI}.enrol.AddNode", "Bring a node into use, without a restart"),
        "remove": (f"{_CLI}.marks.RemoveNode", "Forget a node that was added"),
        "cordon": (f"{_CLI}.marks.Cordon", "Place no new servers on a node"),
        "uncordon": (f"{_CLI}.marks.Uncordon", "Take back a cordon or a drain"),
        "drain": (f"{_CLI}.marks.Drain", "Cordon a node and empty it"),
        "restart-noded": (f"{_CLI}.marks.RestartNoded", "Start a node's noded anew, as after an upgrade"),
    }


class ListNodes(Command):
    """List the nodes."""

    command = "agentfarm nodes list"
    description = "List the nodes with their load and how many of their GPUs are leased."

    async def run(self) -> None:
        """Ask the controller and write the list."""
        async with self.farm() as farm:
            nodes = await farm.nodes()
        if self.json:
            self.output.json({"nodes": nodes})
            return
        now = time.time()
        rows = [node_row(node, now) for node in nodes]
        self.output.table(_COLUMNS, rows, "There are no nodes yet: add one with `agentfarm nodes add`.")


class ShowNode(Command):
    """Show one node."""

    command = "agentfarm nodes show"
    description = "Show one node and its GPUs."
    positionals = ("NAME",)

    async def run(self) -> None:
        """Ask the controller and write what it knows."""
        async with self.farm() as farm:
            node = await farm.node(self.extra_args[0])
        if self.json:
            self.output.json(node)
            return
        self.output.fields(node_fields(node, time.time()))
        gpus = (node["telemetry"] or {}).get("gpus", ())
        if gpus:
            self.output.line("")
            self.output.table(_GPU_COLUMNS, [_gpu_row(gpu) for gpu in gpus], "")


def node_row(node: Mapping[str, Any], now: float) -> tuple[object, ...]:
    """Return one line of the list of nodes."""
    spec, telemetry = node["spec"], node["telemetry"] or {}
    return (
        node["name"],
        node["status"],
        spec["role"],
        _address(spec),
        share(telemetry.get("cpu_utilization_ratio")),
        number(telemetry.get("load1")),
        _free_of(telemetry.get("memory_available_bytes"), telemetry.get("memory_total_bytes")),
        leased(telemetry.get("gpus")),
        age(node["since_at"], now),
        _why(node),
    )


def leased(gpus: list[dict[str, Any]] | None) -> str:
    """Return how many GPUs are leased, as in ``1/2``; simulated ones are marked."""
    if gpus is None:
        return UNKNOWN
    marked = " simulated" if any(gpu["simulated"] for gpu in gpus) else ""
    return f"{sum(bool(gpu.get('leased')) for gpu in gpus)}/{len(gpus)}{marked}"


def node_fields(node: Mapping[str, Any], now: float) -> dict[str, object]:
    """Return what is shown of one node, by name."""
    spec, facts, telemetry = node["spec"], node["facts"] or {}, node["telemetry"] or {}
    skew = node["clock_skew_seconds"]
    return {
        "name": node["name"],
        "status": f"{node['status']} for {age(node['since_at'], now)}",
        "detail": _why(node) or UNKNOWN,
        "role": spec["role"],
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(spec["labels"].items())) or UNKNOWN,
        "address": _address(spec),
        "host key": spec["host_key"] or "not pinned here",
        "from": "the configuration" if node["origin"] == "config" else "agentfarm nodes add",
        "noded": facts.get("version", UNKNOWN),
        "python": facts.get("python", UNKNOWN),
        "system": " ".join(str(facts.get(key, UNKNOWN)) for key in ("os", "arch")),
        "isolation": isolation_line(node),
        "starts": warm_line(node),
        "uptime": duration(telemetry["uptime_seconds"]) if telemetry else UNKNOWN,
        "clock": UNKNOWN if skew is None else f"{-skew:+.2f}s against the controller",
        "cpus": telemetry.get("cpus", UNKNOWN),
        "load": " ".join(number(telemetry.get(key)) for key in ("load1", "load5", "load15")),
        "memory free": _free_of(telemetry.get("memory_available_bytes"), telemetry.get("memory_total_bytes")),
        "disk free": _disks(telemetry.get("filesystems", ())),
        "gpu health": _health(telemetry),
        "kernels": _kernels(node),
    }


def _kernels(node: Mapping[str, Any]) -> str:
    """Return what a node's servers have, as in ``ir (R), python3 (python)``; what is not known says why."""
    error = node.get("kernels_error")
    why = f" (it could not be asked lately: {error})" if error else ""
    known = node.get("kernels")
    if known is None:
        return f"{UNKNOWN}{why}"
    each = (f"{one['name']} ({one['language']})" if one["language"] else one["name"] for one in known)
    return (", ".join(each) or "none") + why


def _address(spec: Mapping[str, Any]) -> str:
    user = f"{spec['user']}@" if spec["user"] else ""
    return f"{user}{spec['host']}" + ("" if spec["port"] == 22 else f":{spec['port']}")


def _why(node: Mapping[str, Any]) -> str:
    """Return the reason that explains the node's status."""
    mark = node["drain"] or node["cordon"]
    if node["state"] == "ready" and mark:
        return f"{mark['reason']} ({mark['by']})"
    reason = str(node.get("reason") or "")
    marked = f"{reason}: " if reason in NODE_REFUSALS else ""
    return "" if node["status"] == "ready" else f"{marked}{node['detail']}"


def _free_of(free: float | None, total: float | None) -> str:
    return UNKNOWN if free is None else f"{size(free)} of {size(total)}"


def _disks(filesystems: Any) -> str:
    each = (f"{disk['mountpoint']} {_free_of(disk['avail_bytes'], disk['size_bytes'])}" for disk in filesystems)
    return ", ".join(each) or UNKNOWN


def _health(telemetry: Mapping[str, Any]) -> str:
    health = str(telemetry.get("gpu_health", UNKNOWN))
    return f"{health}: {telemetry['gpu_error']}" if telemetry.get("gpu_error") else health


def _gpu_row(gpu: Mapping[str, Any]) -> tuple[object, ...]:
    holder = gpu.get("owner") or ("somebody" if gpu.get("leased") else UNKNOWN)
    notes = ["simulated"] if gpu["simulated"] else []
    notes += [f"foreign processes {', '.join(map(str, gpu['foreign_pids']))}"] if gpu["foreign_pids"] else []
    return (
        gpu["uuid"],
        gpu["name"],
        share(gpu["utilization_ratio"]),
        f"{size(gpu['memory_used_bytes'])} of {size(gpu['memory_total_bytes'])}",
        number(gpu["power_watts"], "W", 0),
        number(gpu["temperature_celsius"], "°C", 0),
        holder,
        "; ".join(notes),
    )
