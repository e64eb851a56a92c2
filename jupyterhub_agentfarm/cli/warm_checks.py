"""The doctor's check of how a node starts servers, and the words for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..terminal.quantities import UNKNOWN
from .findings import Finding, ok, warn


def warm_line(node: Mapping[str, Any]) -> str:
    """Return how a node starts servers: "warm; 12 warm, 1 cold (no_zygote)"."""
    starts = _starts(node)
    if starts is None:
        return UNKNOWN
    return "; ".join(filter(None, (_state(starts), _counts(starts))))


def check_warm_starts(node: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the finding about a node, as `GET nodes/{name}` describes it; none for a noded that says nothing."""
    starts, check = _starts(node), f"node {node['name']}: warm starts"
    if starts is None:
        return
    if starts["state"] in {"warm", "warming", "off"} or not starts["cold"]:
        yield ok(check, warm_line(node))
        return
    mend = "servers start all the same, in seconds; see `agentfarm nodes show` for how many, and noded's log for more"
    yield warn(check, warm_line(node), mend)


def _starts(node: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (node["telemetry"] or {}).get("warm_starts")
    return found


def _state(starts: Mapping[str, Any]) -> str:
    return f"{starts['state']}: {starts['why']}" if starts["why"] else str(starts["state"])


def _counts(starts: Mapping[str, Any]) -> str:
    cold = ", ".join(f"{count} {reason}" for reason, count in sorted(starts["cold"].items()) if count)
    warm = f"{starts['warm']} started warm" if starts["warm"] else ""
    return ", ".join(filter(None, (warm, f"started cold: {cold}" if cold else "")))
