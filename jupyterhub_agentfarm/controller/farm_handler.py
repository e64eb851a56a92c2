"""FarmHandler: what the handlers of the controller's API have in common, and the scopes that they ask for."""

from __future__ import annotations

from typing import Any

from tornado import web

from ..errors import InvalidField, NotFoundError
from ..models import Lease, Node
from ..records import to_json
from ..services.handlers import ServiceHandler, needs_scope
from .farm import Farm
from .launching import server_address
from .views import node_view, queue_view

NODES_READ = "custom:agentfarm:nodes:read"
NODES_MANAGE = "custom:agentfarm:nodes:manage"
NODES_KEEP = "custom:agentfarm:nodes:keep"
LEASES_READ = "custom:agentfarm:leases:read"
LEASES_MANAGE = "custom:agentfarm:leases:manage"
LIMITS_MANAGE = "custom:agentfarm:limits:manage"


class FarmHandler(ServiceHandler):
    """A handler with the farm at hand."""

    @property
    def farm(self) -> Farm:
        """The farm."""
        farm: Farm = self.service.farm
        return farm

    def owns(self, lease: Lease) -> bool:
        """Whether the lease is that of the user who asks."""
        return self.principal.kind == "user" and lease.owner == self.principal.name

    def may_see(self, lease: Lease) -> bool:
        """Whether whoever asks may know of the lease."""
        return self.owns(lease) or self.principal.may(LEASES_READ) or self.principal.may(LEASES_MANAGE)

    def may_manage(self, lease: Lease) -> bool:
        """Whether whoever asks may end the lease."""
        return self.owns(lease) or self.principal.may(LEASES_MANAGE)

    async def lease(self, lease_id: str, *, manage: bool = False) -> Lease:
        """Return a lease that whoever asks may see, or with `manage` may change.

        A lease that may not be seen is answered like one that does not exist.
        """
        lease = await self.farm.book.find(lease_id)
        if not self.may_see(lease):
            raise NotFoundError(f"there is no lease {lease_id}")
        if manage and not self.may_manage(lease):
            raise web.HTTPError(403, needs_scope(self.principal, LEASES_MANAGE))
        return lease

    def node_view(self, node: Node) -> dict[str, Any]:
        """Return a node as whoever asks may see it."""
        address = server_address(node.spec, self.farm.inventory.link(node.name).peer_address)
        isolation = to_json(self.farm.inventory.isolation_of(node.spec))
        facts = {"address": address, "isolation": isolation}
        return node_view(node, self.farm.book.on_node(node.name), self.may_see) | facts

    def nodes_view(self) -> list[dict[str, Any]]:
        """Return every node as whoever asks may see it."""
        return [self.node_view(node) for node in self.farm.inventory.all_nodes()]

    def queue_view(self) -> list[dict[str, Any]]:
        """Return the waiting line as whoever asks may see it."""
        return queue_view(self.farm.queue(), self.may_see, self.may_manage)

    def number(self, name: str, fallback: float, most: float) -> float:
        """Return the query's number `name`, 0 to `most`.

        Raises
        ------
        InvalidField
            It is none.
        """
        text = self.get_query_argument(name, None)
        if text is None:
            return fallback
        try:
            value = float(text)
        except ValueError as exc:
            raise InvalidField(name, f"a number from 0 to {most:g}", text) from exc
        if not 0 <= value <= most:
            raise InvalidField(name, f"a number from 0 to {most:g}", text)
        return value
