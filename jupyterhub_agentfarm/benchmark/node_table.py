"""The blocks of all nodes of a role, family by family, so that a scrape only joins them.

A column holds one family's block of every node, in the order of their names. A report puts its node's blocks into the
columns and joins them with those of the few nodes beside it; a scrape looks whether a node has fallen silent since, and
joins what is left to join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..metrics import METRICS
from .node_series import Blocks, NodeSeries

#: Nodes whose blocks are joined when one of them reports: fewer make a scrape dearer, more make a report dearer.
_BESIDE = 32
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
        self._columns: dict[str, list[str]] = {}
        #: The same, joined for each :data:`_BESIDE` nodes.
        self._joined: dict[str, list[str]] = {}
        #: Where each node is in the columns; empty: they have to be laid out anew.
        self._places: dict[str, int] = {}
        self._fresh: set[str] = set()
        #: Until then no node can have fallen silent: the oldest report ages no faster than time.
        self._nobody_silent_until = 0.0

    def put(self, node: NodeSeries, now: float) -> None:
        """Take a node, or its newest blocks."""
        if node.name not in self.nodes:
            self.nodes[node.name] = node
            self._places = {}
        if self._places:
            self._fill(node, now)
            self._join([node.name])

    def remove(self, name: str) -> None:
        """Forget a node; one that is not here is not missed."""
        if self.nodes.pop(name, None) is not None:
            self._places = {}

    def refill(self, name: str, now: float) -> None:
        """Take a node's counters anew; one that is not here is not missed."""
        if self._places and name in self.nodes:
            self._fill(self.nodes[name], now)
            self._join([name])

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
        if not self._places:
            self._lay_out(now)
        if now <= self._nobody_silent_until:
            return
        silent = [name for name in self._fresh if not self.nodes[name].fresh(now, self._stale_after)]
        for name in silent:
            self._fill(self.nodes[name], now)
        self._join(silent)
        oldest = min((self.nodes[name].reported_at or 0.0 for name in self._fresh), default=0.0)
        self._nobody_silent_until = oldest + self._stale_after

    def _lay_out(self, now: float) -> None:
        names = sorted(self.nodes)
        self._places = {name: place for place, name in enumerate(names)}
        self._columns = {family: [""] * len(names) for family in _FAMILIES}
        self._fresh = set()
        for name in names:
            self._fill(self.nodes[name], now)
        self._joined = {family: [""] * -(-len(names) // _BESIDE) for family in _FAMILIES}
        self._join(names)

    def _join(self, names: Iterable[str]) -> None:
        """Join the blocks of nodes, and of those beside them."""
        for part in {self._places[name] // _BESIDE for name in names}:
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
