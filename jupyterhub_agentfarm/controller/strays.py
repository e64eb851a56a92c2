"""What runs on a node without a lease: servers that its noded knows, and processes that not even noded has a record of.

Servers are stopped by the controller as soon as it sees them: when the node is reached, and every `SWEEP_SECONDS`.
Processes are ended by noded, after its `--orphan-grace`, once the controller has said that it holds no such lease;
asking for them says so (:mod:`..noded.orphans`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import NodedError, NotFoundError
from ..models import ServerStatus
from ..placement import LeaseBook
from ..protocol import Orphan

if TYPE_CHECKING:
    from .farm import Farm

#: Mean time between two looks at a node that is reached, in seconds.
SWEEP_SECONDS = 30.0


@dataclass(frozen=True)
class Strays:
    """What runs on a node and belongs to nobody."""

    servers: tuple[ServerStatus, ...] = ()
    processes: tuple[Orphan, ...] = ()


def is_held(book: LeaseBook, node: str, server: ServerStatus) -> bool:
    """Return whether a lease stands for a server on a node: this one, of this epoch."""
    try:
        lease = book.get(server.lease)
    except NotFoundError:
        return False
    return lease.node == node and lease.epoch == server.epoch


async def orphans_of(farm: Farm, name: str) -> tuple[Orphan, ...]:
    """Return the processes on a node that its noded has no record of, and tell noded which leases are held there.

    Raises
    ------
    AgentFarmError
        The node does not answer. A noded of an older version lists none.
    """
    held = [lease.id for lease in farm.book.on_node(name)]
    try:
        return await farm.inventory.link(name).client.orphans(held)
    except NodedError as exc:
        if exc.reason == "unknown_method":
            return ()
        raise


async def strays_of(farm: Farm, name: str) -> Strays:
    """Return everything on a node that belongs to nobody.

    Raises
    ------
    NotFoundError
        There is no such node.
    AgentFarmError
        It does not answer.
    """
    servers = await farm.inventory.link(name).client.servers()
    lost = tuple(each for each in servers if each.state != "exited" and not is_held(farm.book, name, each))
    return Strays(lost, await orphans_of(farm, name))
