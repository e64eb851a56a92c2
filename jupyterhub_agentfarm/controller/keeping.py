"""Nodes that are kept for one owner: drained for all others, and given back without touching any other mark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..errors import InvalidField
from ..logs import LogLine
from .farm_handler import NODES_KEEP, FarmHandler


@dataclass(frozen=True)
class KeepOrder:
    """A drain for the servers of one owner."""

    owner: str
    reason: str = ""
    #: After this many seconds the servers of all others there are stopped.
    deadline_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse a moment that is over, and nobody."""
        if not self.owner:
            raise InvalidField("owner", "the name of the Hub user that the node is kept for", self.owner)
        if self.deadline_seconds is not None and self.deadline_seconds < 0:
            raise InvalidField("deadline_seconds", "a number of seconds of at least 0, or null", self.deadline_seconds)


@dataclass(frozen=True)
class GiveBackOrder:
    """The end of a drain for the servers of one owner."""

    owner: str


class KeepHandler(FarmHandler):
    """``nodes/{name}/keep``."""

    scopes: ClassVar[dict[str, str]] = {"POST": NODES_KEEP}

    async def post(self, name: str) -> None:
        """Drain a node for the servers of one owner."""
        order, by = self.body(KeepOrder), self.principal.name
        node = await self.farm.keep_node(name, order.owner, order.reason, by, order.deadline_seconds)
        self.farm.log.info(LogLine("drain", node=name, by=by, reason=order.reason or None, kept_for=order.owner))
        self.answer(self.node_view(node))


class GiveBackHandler(FarmHandler):
    """``nodes/{name}/give-back``."""

    scopes: ClassVar[dict[str, str]] = {"POST": NODES_KEEP}

    async def post(self, name: str) -> None:
        """End a drain for the servers of one owner, and no other mark."""
        order = self.body(GiveBackOrder)
        node = await self.farm.inventory.give_back(name, order.owner)
        self.farm.log.info(LogLine("given back", node=name, by=self.principal.name, kept_for=order.owner))
        self.answer(self.node_view(node))
