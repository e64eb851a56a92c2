"""The limits of a server, from the Hub's options for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..isolation import ResourceLimits

if TYPE_CHECKING:
    from .spawner import AgentFarmSpawner


def resource_limits(spawner: AgentFarmSpawner) -> ResourceLimits:
    """Return what `mem_limit`, `cpu_limit` and `process_limit` say; 0 is no limit, as None is.

    Raises
    ------
    InvalidField
        Nothing can run within a limit.
    """
    return ResourceLimits(
        memory_bytes=int(spawner.mem_limit) if spawner.mem_limit else None,
        cpus=float(spawner.cpu_limit) if spawner.cpu_limit else None,
        processes=spawner.process_limit or None,
    )
