"""The doctor's check for what runs on a node and belongs to nobody."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..errors import AgentFarmError
from ..terminal.quantities import age
from .findings import Finding, ok, warn


def check_strays(name: str, strays: Mapping[str, Any] | AgentFarmError) -> list[Finding]:
    """Return the findings about a node's orphans, as ``GET nodes/{name}/strays`` lists them, or why it did not."""
    check, now = f"node {name}: orphans", time.time()
    if isinstance(strays, AgentFarmError):
        return [warn(check, f"not known: {strays.message}", "run the doctor again, as an admin of the farm")]
    findings = [_process(check, each, now) for each in strays["processes"]]
    findings += [_server(check, each, now) for each in strays["servers"]]
    return findings or [ok(check, "none")]


def _process(check: str, orphan: Mapping[str, Any], now: float) -> Finding:
    return warn(
        check,
        f"process {orphan['pid']} names the lease {orphan['lease']}, of which there is no record, "
        f"and has run for {age(orphan['started_at'], now)}",
        f"noded ends it after its --orphan-grace; `kill {orphan['pid']}` on the node ends it now",
    )


def _server(check: str, server: Mapping[str, Any], now: float) -> Finding:
    return warn(
        check,
        f"the server of lease {server['lease']} (process {server['pid']}) has run for "
        f"{age(server['started_at'], now)} and has no lease",
        "the controller stops it within a minute; a process that stays hangs in the kernel: restart the node",
    )
