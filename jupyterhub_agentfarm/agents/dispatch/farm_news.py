"""What happens on the farm, as far as tasks have to know it, remembered for a little longer than the farm does.

FarmWatch holds the newest state. Here is what it forgets: how a lease ended, and since when a node has been
unreachable.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...controller.farm_watch import NodeView

#: Ends that are remembered; a carrier asks for one within seconds.
_MOST_ENDS = 2000
#: Ends of leases that are the node's doing.
_NODE_ENDS = frozenset({"node_down", "node_restarted"})


@dataclass(frozen=True)
class ServerEnd:
    """How the lease of a server ended."""

    node: str | None
    end: str | None
    #: For people.
    detail: str

    @property
    def by_node(self) -> bool:
        """Whether the node failed, and not the server."""
        return self.end in _NODE_ENDS


class FarmNews:
    """Is told of every change of the farm; `changed` is set when one may matter to tasks.

    Parameters
    ----------
    clock
        A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.changed = asyncio.Event()
        self._clock = clock
        self._standing: dict[str, tuple[str, bool]] = {}
        self._away: dict[str, float] = {}
        self._ends: OrderedDict[tuple[str, str], ServerEnd] = OrderedDict()

    # ---- for those who ask ----

    def away_seconds(self, node: str) -> float:
        """Return for how long a node has been seen as unreachable or down without a break; 0: it is not."""
        since = self._away.get(node)
        return 0.0 if since is None else self._clock() - since

    def end_of(self, owner: str, server_name: str) -> ServerEnd | None:
        """Return how the newest lease of a server ended, if it did lately."""
        return self._ends.get((owner, server_name))

    # ---- FarmObserver ----

    def reset(self, nodes: list[NodeView], leases: list[Mapping[str, Any]]) -> None:
        """Take everything anew; what was before may have changed and changed back meanwhile."""
        self._standing.clear()
        self._away.clear()
        for node in nodes:
            self.update_node(node)
        for lease in leases:
            self.update_lease(lease)
        self.changed.set()

    def update_node(self, node: NodeView) -> None:
        """Take a node's newest state."""
        name, standing = node["name"], (node["state"], bool(node["eligible"]))
        if standing[0] == "ready":
            self._away.pop(name, None)
        else:
            self._away.setdefault(name, self._clock())
        if self._standing.get(name) != standing:
            self._standing[name] = standing
            self.changed.set()

    def remove_node(self, name: str) -> None:
        """Forget a node."""
        self._standing.pop(name, None)
        self._away.pop(name, None)
        self.changed.set()

    def update_lease(self, lease: Mapping[str, Any]) -> None:
        """Take a lease's newest state."""
        server = (lease["owner"], lease["server_name"])
        if lease["state"] in ("stopping", "released"):
            self._ends[server] = ServerEnd(lease["node"], lease.get("end"), lease["detail"])
            self._ends.move_to_end(server)
            while len(self._ends) > _MOST_ENDS:
                self._ends.popitem(last=False)
        else:
            self._ends.pop(server, None)
        self.changed.set()
