"""When an agent that has used up its quota may have something again, as the controller tells."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from ...errors import AgentFarmError

#: Gives the controller's report of use.
Usage = Callable[[], Awaitable[Mapping[str, Any]]]


async def gpu_hours_free_at(usage: Usage, agent: str) -> float | None:
    """Return when an agent may start a server with a GPU again; None where that is not known."""
    try:
        report = await usage()
    except AgentFarmError:
        return None
    mine: Iterator[Mapping[str, Any]] = (entry for entry in report["usage"] if entry["owner"] == agent)
    entry = next(mine, None)
    return None if entry is None else entry.get("gpu_hours_free_at")
