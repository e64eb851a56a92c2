"""Leases that no server of this Hub holds any more.

A Hub that was killed may leave such: it was stopping the server and had already forgotten it, or it had asked for the
lease and had not yet written it down. The controller cannot tell; the Hub's database can.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jupyterhub import orm

from ..models import Lease


def orphans(leases: Iterable[Lease], db: Any, before_at: float) -> list[Lease]:
    """Return the alive leases of before `before_at` that no server in the Hub's database holds.

    Parameters
    ----------
    leases
        What the controller says there is.
    db
        The Hub's database session.
    before_at
        When this Hub began: what is younger was asked for by itself.
    """
    old = [lease for lease in leases if lease.alive and lease.state != "stopping" and lease.created_at < before_at]
    if not old:
        return []
    rows = db.query(orm.Spawner).filter(orm.Spawner.server_id.isnot(None))
    held = {(row.state or {}).get("lease") for row in rows}
    return [lease for lease in old if lease.id not in held]
