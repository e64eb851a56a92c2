"""``agentfarm quota``: who uses and used how much, alone and as a group, beside what they may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..terminal.quantities import UNKNOWN, duration
from .command import Command

_HOUR_SECONDS = 3600


class Quota(Command):
    """List what owners use."""

    command = "agentfarm quota"
    description = (
        "List servers, GPUs and GPU-hours of each owner beside the limits, and what the members of a group use "
        "together where that is limited: everybody and every group with the scope to read leases, otherwise yourself "
        "and your groups. Limits are options of PlacementPolicy, and those of single owners, as agents have them; the "
        "smaller counts. A running server is never stopped for one."
    )

    async def run(self) -> None:
        """Ask the controller and write the list."""
        async with self.farm() as farm:
            answer = await farm.usage()
        if self.json:
            self.output.json(answer)
            return
        columns = ("SERVERS", "GPUS", f"GPU-HOURS IN {duration(answer['window_seconds'])}")
        owners = [(*_row(entry["owner"], entry), _only(entry)) for entry in answer["usage"]]
        restricted = any(row[-1] for row in owners)  # labels and kernels: few owners are limited to some
        header, end = (("OWNER", *columns, "ONLY"), None) if restricted else (("OWNER", *columns), -1)
        self.output.table(header, [row[:end] for row in owners], "Nobody used anything.")
        pools = [_row(entry["group"], entry) for entry in answer.get("pools", ())]
        if pools:
            self.output.line("")
            self.output.table(("GROUP", *columns), pools, "")


def _row(name: str, entry: Mapping[str, Any]) -> tuple[str, ...]:
    hours, most = entry["gpu_seconds"] / _HOUR_SECONDS, entry["max_gpu_seconds"]
    return (
        name or UNKNOWN,
        _of(f"{entry['servers']}", entry["max_servers"]),
        _of(f"{entry['gpus']}", entry["max_gpus"]),
        _of(f"{hours:.1f}", None if most is None else most / _HOUR_SECONDS),
    )


def _only(entry: Mapping[str, Any]) -> str:
    """Return which labels and kernels the owner is limited to."""
    own = entry.get("own_limits") or {}
    labels = [f"{key}={value}" for key, value in sorted((own.get("labels") or {}).items())]
    kernels = [f"kernels {', '.join(own['kernels'])}"] if own.get("kernels") else []
    return "; ".join([*labels, *kernels])


def _of(used: str, most: float | None) -> str:
    return used if most is None else f"{used} of {most:g}"
