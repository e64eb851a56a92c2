"""``agentfarm quota``: who uses and used how much, beside what they may."""

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
        "List servers, GPUs and GPU-hours of each owner beside the limits: everybody with the scope to read leases, "
        "otherwise yourself. Limits are options of PlacementPolicy; a running server is never stopped for one."
    )

    async def run(self) -> None:
        """Ask the controller and write the list."""
        async with self.farm() as farm:
            answer = await farm.usage()
        if self.json:
            self.output.json(answer)
            return
        columns = ("OWNER", "SERVERS", "GPUS", f"GPU-HOURS IN {duration(answer['window_seconds'])}")
        self.output.table(columns, [_row(entry) for entry in answer["usage"]], "Nobody used anything.")


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    hours, most = entry["gpu_seconds"] / _HOUR_SECONDS, entry["max_gpu_seconds"]
    return (
        entry["owner"] or UNKNOWN,
        _of(f"{entry['servers']}", entry["max_servers"]),
        _of(f"{entry['gpus']}", entry["max_gpus"]),
        _of(f"{hours:.1f}", None if most is None else most / _HOUR_SECONDS),
    )


def _of(used: str, most: float | None) -> str:
    return used if most is None else f"{used} of {most:g}"
