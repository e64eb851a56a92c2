"""FarmObservers: several who are told of every change of the farm, as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...controller.farm_watch import FarmObserver, NodeView


class FarmObservers:
    """Passes on what happens in the farm; others may be added at any time."""

    def __init__(self) -> None:
        self.all: list[FarmObserver] = []

    def reset(self, nodes: list[NodeView], leases: list[Mapping[str, Any]]) -> None:
        """Take everything anew."""
        for observer in self.all:
            observer.reset(nodes, leases)

    def update_node(self, node: NodeView) -> None:
        """Take a node's newest state."""
        for observer in self.all:
            observer.update_node(node)

    def remove_node(self, name: str) -> None:
        """Forget a node."""
        for observer in self.all:
            observer.remove_node(name)

    def update_lease(self, lease: Mapping[str, Any]) -> None:
        """Take a lease's newest state."""
        for observer in self.all:
            observer.update_lease(lease)
