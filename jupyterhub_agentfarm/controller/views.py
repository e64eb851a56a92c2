"""What the API shows of nodes and of the line, and to whom.

Whose server holds a GPU is seen by its owner and by those with the scope to read leases; that it is held, by all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..models import Lease, Node
from ..records import to_json

MaySee = Callable[[Lease], bool]


def node_view(node: Node, leases: Iterable[Lease], may_see: MaySee) -> dict[str, Any]:
    """Return a node for the API.

    Parameters
    ----------
    node
        The node.
    leases
        Those that hold something there.
    may_see
        Whether whoever asks may know a lease.
    """
    view: dict[str, Any] = to_json(node)
    view |= {"name": node.name, "status": node.status, "eligible": node.eligible}
    del view["spec"]["ssh_keyfile"]
    holders = {gpu: lease for lease in leases for gpu in lease.gpus}
    for gpu in (view["telemetry"] or {}).get("gpus", ()):
        lease = holders.get(gpu["uuid"])
        seen = lease is not None and may_see(lease)
        gpu["leased"] = lease is not None
        gpu["lease"] = lease.id if lease is not None and seen else None
        gpu["owner"] = lease.owner if lease is not None and seen else None
    return view


def queue_view(waiting: Iterable[Lease], may_see: MaySee, may_cancel: MaySee) -> list[dict[str, Any]]:
    """Return the waiting line for the API.

    Parameters
    ----------
    waiting
        Those who wait, in their order.
    may_see, may_cancel
        Whether whoever asks may know a lease, and take it out of the line.
    """
    line = []
    for lease in waiting:
        seen = may_see(lease)
        line.append(
            {
                "position": lease.position,
                "owner": lease.owner if seen else None,
                "server_name": lease.server_name if seen else None,
                "lease": lease.id if seen else None,
                "may_cancel": may_cancel(lease),
                "options": to_json(lease.request.options),
                "created_at": lease.created_at,
                # What somebody waits for names them, when it is their quota.
                "detail": lease.detail if seen else "",
            }
        )
    return line


def placement_view(lease: Lease) -> dict[str, Any]:
    """Return why a lease went where it went."""
    return {
        "lease": lease.id,
        "owner": lease.owner,
        "server_name": lease.server_name,
        "node": lease.node,
        "why": to_json(lease.why),
    }
