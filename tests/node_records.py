"""Nodes, GPUs and requests for tests of placement: complete records with one thing changed at a time."""

from __future__ import annotations

import time
from typing import Any

from jupyterhub_agentfarm.models import Filesystem, Gpu, Node, NodeSpec, PlacementRequest, Telemetry, UserOptions
from jupyterhub_agentfarm.placement.view import NodeView

GIB = 2**30


def gpu(uuid: str, name: str = "NVIDIA A100", memory_gib: float = 40, **changes: Any) -> Gpu:
    """Return a GPU."""
    return Gpu(uuid=uuid, name=name, memory_total_bytes=int(memory_gib * GIB), utilization_ratio=0.0, **changes)


def telemetry(*gpus: Gpu, **changes: Any) -> Telemetry:
    """Return a report of an idle node with 8 cores and 32 GiB."""
    values: dict[str, Any] = {
        "time": time.time(),
        "cpus": 8,
        "cpu_utilization_ratio": 0.0,
        "load1": 0.0,
        "load5": 0.0,
        "load15": 0.0,
        "memory_total_bytes": 32 * GIB,
        "memory_available_bytes": 30 * GIB,
        "boot_at": 0.0,
        "uptime_seconds": 100.0,
        "filesystems": (Filesystem("/", 100 * GIB, 50 * GIB),),
        "gpus": gpus,
        "gpu_health": "ok" if gpus else "absent",
    }
    return Telemetry(**values | changes)


def node(name: str, *gpus: Gpu, report: Telemetry | None = None, labels: Any = (), **changes: Any) -> Node:
    """Return a node that is ready and has just reported."""
    values: dict[str, Any] = {
        "spec": NodeSpec(name=name, host="127.0.0.1", labels=dict(labels)),
        "state": "ready",
        "detail": "connected",
        "since_at": 0.0,
        "telemetry": report or telemetry(*gpus),
        "reported_at": time.time(),
    }
    return Node(**values | changes)


def view(name: str = "n1", *gpus: Gpu, **changes: Any) -> NodeView:
    """Return the view of an idle node; changes named like fields of NodeView are the view's."""
    own = {key: changes.pop(key) for key in ("reconciled", "fresh", "promised", "held") if key in changes}
    return NodeView(node(name, *gpus, **changes), **own)


def request(owner: str = "ada", server_name: str = "", cpus: float = 0, memory_gib: float = 0, **options: Any) -> Any:
    """Return a request."""
    return PlacementRequest(owner, server_name, UserOptions(**options), cpus, int(memory_gib * GIB))
