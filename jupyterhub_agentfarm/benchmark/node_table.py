"""The blocks of all nodes of a role, family by family, so that a scrape only joins them.

A column holds one family's block of every node, each node at its place; the place of one that has gone is the next new
one's. A report puts its node's blocks into the columns and joins them with those of the few nodes beside it; a scrape
looks whether a node has fallen silent since, and joins what is left to join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..metrics import METRICS
from .node_series import Blocks, NodeSeries

#: Nodes whose blocks are joined when one of them reports: fewer make a scrape dearer, more make a report dearer.
_BESIDE = 16
_FAMILIES = tuple(name for name, metric in METRICS.items() if metric.scope == "node")


class NodeTable:
    """The nodes of one role.

    Parameters
    ----------
    counters
        Gives the blocks of a node's counters.
    stale_after_seconds
        Age of a node's last report from which on its gauges are left out.
    """

    def __init__(self, counters: Callable[[str], Blocks], stale_after_seconds: float) -> None:
        self._counters, self._stale_after = counters, stale_after_seconds
        self.nodes: dict[str, NodeSeries] = {}
        self._columns: dict[str, list[str]] = {family: [] for family in _FAMILIES}
        #: The same, joined for each :data:`_BESIDE` nodes.
        self._joined: dict[str, list[str]] = {family: [] for family in _FAMILIES}
        #: Where each node is in the columns, and the places in them that are nobody's.
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._fresh: set[str] = set()
        #: Until then no node can have fallen silent: the oldest report ages no faster than time.
        self._nobody_silent_until = 0.0

    def put(self, node: NodeSeries, now: float) -> None:
        """Take a node, or its newest blocks."""
        if node.name not in self.nodes:
            self.nodes[node.name] = node
            self._places[node.name] = self._free.pop() if self._free else self._new_place()
        self._fill(node, now)
        self._join([self._places[node.name]])

    def _new_place(self) -> int:
        place = len(self._places) + len(self._free)
        for column in self._columns.values():
            column.append("")
        if place % _BESIDE == 0:
            for parts in self._joined.values():
                parts.append("")
        return place

    def remove(self, name: str) -> None:
        """Forget a node; one that is not here is not missed."""
        if self.nodes.pop(name, None) is None:
            return
        self._fresh.discard(name)
        place = self._places.pop(name)
        for column in self._columns.values():
            column[place] = ""
        self._join([place])
        self._free.append(place)

    def refill(self, name: str, now: float) -> None:
        """Take a node's counters anew; one that is not here is not missed."""
        if name in self.nodes:
            self._fill(self.nodes[name], now)
            self._join([self._places[name]])

    def columns(self, now: float) -> dict[str, list[str]]:
        """Return the blocks of each family, those of silent nodes without gauges."""
        self._look(now)
        return self._joined

    def live(self, now: float) -> list[NodeSeries]:
        """Return the nodes that are up."""
        self._look(now)
        return [self.nodes[name] for name in self._fresh]

    def _look(self, now: float) -> None:
        """Find the nodes that fell silent since their last report."""
        if now <= self._nobody_silent_until:
            return
        silent = [name for name in self._fresh if not self.nodes[name].fresh(now, self._stale_after)]
        for name in silent:
            self._fill(self.nodes[name], now)
        self._join(self._places[name] for name in silent)
        oldest = min((self.nodes[name].reported_at or 0.0 for name in self._fresh), default=0.0)
        self._nobody_silent_until = oldest + self._stale_after

    def _join(self, places: Iterable[int]) -> None:
        """Join the blocks at some places, and those beside them."""
        for part in {place // _BESIDE for place in places}:
            beside = slice(part * _BESIDE, (part + 1) * _BESIDE)
            for family, column in self._columns.items():
                self._joined[family][part] = "".join(column[beside])

    def _fill(self, node: NodeSeries, now: float) -> None:
        fresh, place = node.fresh(now, self._stale_after), self._places[node.name]
        if fresh and node.name not in self._fresh:
            self._nobody_silent_until = min(self._nobody_silent_until, (node.reported_at or 0.0) + self._stale_after)
        (self._fresh.add if fresh else self._fresh.discard)(node.name)
        blocks = node.blocks(fresh, now, self._stale_after) | self._counters(node.name)
        for family, column in self._columns.items():
            column[place] = blocks.get(family, "")
