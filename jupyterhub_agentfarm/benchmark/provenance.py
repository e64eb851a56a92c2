"""Under which conditions a run was made: which nodes, which versions, which text of the suite."""

from __future__ import annotations

import asyncio
import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConflictError
from ..records import to_json
from .models import RunNode
from .suites import Suite

_PACKAGES = ("jupyterhub", "matplotlib", "sqlalchemy", "tornado", "aiohttp", "prometheus-client")
_ABOUT_NODE = ("facts", "clock_skew_seconds")


def parts_of(views: Mapping[str, Mapping[str, Any]], names: Sequence[str], suite: Suite) -> tuple[RunNode, ...]:
    """Return each node's part in a run, the ineligible ones as skipped with the reason.

    Raises
    ------
    ConflictError
        No node can take part.
    """
    nodes = tuple(_part_of(views[name], suite) for name in names)
    if all(node.skipped for node in nodes):
        why = "; ".join(f"{node.name}: {node.skipped}" for node in nodes) or "it has none"
        raise ConflictError(f"no node of the farm can take part ({why})")
    return nodes


def _part_of(view: Mapping[str, Any], suite: Suite) -> RunNode:
    telemetry = view["telemetry"] or {}
    gpus = telemetry.get("gpus", ())
    free = sum(not gpu.get("leased") and not gpu["foreign_pids"] for gpu in gpus)
    wanted = suite.gpus_for(free)
    skipped = ""
    if not view["eligible"]:
        mark = view["drain"] or view["cordon"] or {}
        detail = mark.get("reason") or view["detail"]
        skipped = f"{view['status']}: {detail}" if detail else view["status"]
    elif wanted > len(gpus):
        skipped = f"the suite needs {wanted} GPUs, the node has {len(gpus)}"
    about = {key: view[key] for key in _ABOUT_NODE}
    about |= {"labels": view["spec"]["labels"], "cpus": telemetry.get("cpus")}
    about |= {"memory_total_bytes": telemetry.get("memory_total_bytes"), "gpus": [_gpu(gpu) for gpu in gpus]}
    return RunNode(view["name"], view["spec"]["role"], skipped, wanted, about)


def _gpu(gpu: Mapping[str, Any]) -> dict[str, Any]:
    return {key: gpu[key] for key in ("uuid", "name", "memory_total_bytes", "simulated")}


async def describe(suite: Suite, notebooks: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the suite's definition with its notebooks' hashes, and the conditions on this machine, ready for JSON."""
    definition = {key: value for key, value in to_json(suite).items() if key != "folder"}
    definition["notebooks"] = {case: hashlib.sha256(content).hexdigest() for case, content in notebooks.items()}
    conditions = {
        "agentfarm": __version__,
        "commit": await _commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }
    return definition, conditions


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


async def _commit() -> str | None:
    """Return the commit of the checkout that runs, with ``-dirty`` when it was changed; None for a wheel."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40")
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return None
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 10)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    return output.decode().strip() or None
