"""Notices: a server is told before it is stopped by a drain.

What a server should show follows from its node alone: a drain with a deadline is a notice, anything else is none. Each
pass of the reconciler compares that with what the server was last told, and tells it when it differs. What was told to
the servers of a node is forgotten when the node is reached again, so that a notice outlives no controller and no cut
connection; telling the same twice changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import AgentFarmError, NotFoundError
from ..logs import LogLine, about
from ..models import Lease, Node
from ..protocol import Notice

if TYPE_CHECKING:
    from .farm import Farm

log = logging.getLogger(__name__)

#: Time after which a server that could not be told is told again, in seconds.
RETRY_SECONDS = 10.0
_MAX_REASON_CHARACTERS = 60


def notice_of(node: Node) -> Notice | None:
    """Return what the servers of a node should show."""
    drain = node.drain
    if drain is None or drain.deadline_at is None:
        return None
    reason = drain.reason
    if len(reason) > _MAX_REASON_CHARACTERS:
        reason = reason[: _MAX_REASON_CHARACTERS - 1] + "…"
    why = f" ({reason})" if reason else ""
    return Notice(f"{node.name} is drained{why}", drain.at, drain.deadline_at)


def _notice_for(lease: Lease, node: Node) -> Notice | None:
    """Return what a server should show: a node that is kept for its owner is not drained of it."""
    return None if node.kept_for(lease.owner) else notice_of(node)


class Notices:
    """What each server was told.

    Parameters
    ----------
    farm
        Whose inventory it works on.
    """

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._told: dict[str, Notice | None] = {}
        self._retry_at: dict[str, float] = {}

    def forget(self, leases: Iterable[Lease]) -> None:
        """Take these servers for untold: their node was out of reach."""
        for lease in leases:
            self._told.pop(lease.id, None)
            self._retry_at.pop(lease.id, None)

    def keep(self, leases: Iterable[Lease]) -> None:
        """Forget all servers but these."""
        alive = {lease.id for lease in leases}
        self._told = {lease: told for lease, told in self._told.items() if lease in alive}
        self._retry_at = {lease: at for lease, at in self._retry_at.items() if lease in alive}

    def due(self, lease: Lease) -> bool:
        """Whether a server should be told something now."""
        node = self._node(lease)
        if node is None or self._retry_at.get(lease.id, 0) > time.monotonic():
            return False
        return lease.id not in self._told or self._told[lease.id] != _notice_for(lease, node)

    async def tell(self, lease: Lease) -> None:
        """Tell a server what it should show; a failure is tried again."""
        node = self._node(lease)
        if node is None:
            return
        notice = _notice_for(lease, node)
        try:
            await self._farm.inventory.link(node.name).client.notify(lease.id, notice)
        except AgentFarmError as exc:
            self._retry_at[lease.id] = time.monotonic() + RETRY_SECONDS
            level = logging.DEBUG if notice is None else logging.WARNING
            log.log(level, LogLine("not told", **about(lease), detail=exc.message))
            return
        self._told[lease.id] = notice
        if notice is not None:
            log.info(LogLine("told", **about(lease), notice=notice.message, deadline_at=notice.deadline_at))

    def _node(self, lease: Lease) -> Node | None:
        """Return the node of a running server, if it can be asked."""
        if lease.state != "running" or lease.node is None:
            return None
        try:
            node = self._farm.inventory.node(lease.node)
        except NotFoundError:
            return None
        return node if node.state == "ready" else None
