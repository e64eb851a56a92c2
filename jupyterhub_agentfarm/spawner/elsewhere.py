"""A start whose node is at fault goes on elsewhere.

A missing interpreter, a full disk or a daemon that fails is the node's fault, and the user can do nothing about it: the
lease is given back and another node is asked for, without those that failed, up to `max_tries` nodes in all. A server
that started and then ended is not tried again: that is as likely its own fault. Neither is one whose user asked for the
node by name.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..errors import AgentFarmError, LaunchFailed
from ..logs import LogLine, about
from ..models import Lease
from . import failure
from .starting import Start

if TYPE_CHECKING:
    from .spawner import AgentFarmSpawner


async def finished_somewhere(spawner: AgentFarmSpawner, lease: Lease) -> str:
    """Return the URL of the server once it answers, on the lease's node or on another.

    Raises
    ------
    AgentFarmError
        No node could start it; it is the first node's error.
    """
    first: LaunchFailed | None = None
    tried: list[str] = []
    while True:
        try:
            return await Start(spawner).finished(lease)
        except LaunchFailed as exc:
            first = first or exc
            tried.append(_node_of(spawner, lease))
            if len(tried) >= spawner.max_tries or lease.request.options.node is not None:
                raise first from None
            spawner.spawn_progress.add(8, f"{exc.message}. Trying another node", failure.log_of(exc))
            spawner.log.warning(LogLine("not started", **{**about(lease), "node": tried[-1]}, detail=exc.message))
        lease = await _another(spawner, lease, tuple(tried), first)


def _node_of(spawner: AgentFarmSpawner, lease: Lease) -> str:
    """Return the node that the lease was granted on; `lease` itself may be of before that."""
    return (spawner.watch.get(lease.id) or lease).node or ""


async def _another(spawner: AgentFarmSpawner, lease: Lease, tried: tuple[str, ...], first: LaunchFailed) -> Lease:
    """Give the lease back and return one of another node."""
    await asyncio.wait({spawner.watch.release(lease.id, 0)}, timeout=spawner.stop_wait)
    spawner.watch.detach(lease.id)
    try:
        return await spawner.placed(tried)
    except AgentFarmError:
        raise first from None
