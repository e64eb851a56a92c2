"""Leases in the database: plain functions on a connection, to be called with `Database.run`.

``leases``
    one row for each lease, alive or released
``lease_gpus``
    one row for each GPU under a lease; its primary key (node, gpu) makes the database itself refuse a second lease
``lease_epoch``
    one row: the epoch of the latest grant
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..errors import ConflictError
from ..inventory.database import metadata
from ..models import Explanation, Lease, PlacementRequest, ServerStatus
from ..records import from_json, to_json
from .usage import Used

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("server_name", sa.Text, nullable=False),
    sa.Column("state", sa.String(10), nullable=False, index=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float(53), nullable=False),
    sa.Column("node", sa.String(63)),
    sa.Column("gpus", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("granted_at", sa.Float(53)),
    sa.Column("released_at", sa.Float(53), index=True),
    sa.Column("why", sa.Text),
    sa.Column("url", sa.Text),
    sa.Column("server", sa.Text),
    sa.Column("end", sa.String(20)),
)
lease_gpus = sa.Table(
    "lease_gpus",
    metadata,
    sa.Column("node", sa.String(63), primary_key=True),
    sa.Column("gpu", sa.String(100), primary_key=True),
    sa.Column("lease", sa.String(32), sa.ForeignKey("leases.id"), nullable=False, index=True),
)
lease_epoch = sa.Table(
    "lease_epoch",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
)


def load_alive(connection: Connection) -> list[Lease]:
    """Return every lease that is not released."""
    rows = connection.execute(sa.select(leases).where(leases.c.state != "released")).mappings()
    return [_lease(row) for row in rows]


def load_released(connection: Connection, limit: int) -> list[Lease]:
    """Return the leases released last, newest first."""
    query = sa.select(leases).where(leases.c.state == "released")
    rows = connection.execute(query.order_by(leases.c.released_at.desc()).limit(limit)).mappings()
    return [_lease(row) for row in rows]


def load_one(connection: Connection, lease_id: str) -> list[Lease]:
    """Return the lease of this id, in a list that is empty when there is none."""
    rows = connection.execute(sa.select(leases).where(leases.c.id == lease_id)).mappings()
    return [_lease(row) for row in rows]


def load_used(connection: Connection, since: float) -> list[Used]:
    """Return what released leases used of GPUs since a time, in the order of their grants."""
    columns = (leases.c.id, leases.c.owner, leases.c.gpus, leases.c.granted_at, leases.c.released_at, leases.c.request)
    query = sa.select(*columns).where(leases.c.state == "released", leases.c.released_at > since)
    held = query.where(leases.c.granted_at.is_not(None), leases.c.gpus != "[]").order_by(leases.c.granted_at)
    return [
        Used(lease, owner, len(json.loads(gpus)), granted, released, tuple(json.loads(request).get("groups", ())))
        for lease, owner, gpus, granted, released, request in connection.execute(held)
    ]


def save(connection: Connection, lease: Lease) -> None:
    """Write a lease as it is; one that is released gives its GPUs back in the same transaction."""
    row = _row(lease)
    updated = connection.execute(leases.update().where(leases.c.id == lease.id).values(row))
    if not updated.rowcount:
        connection.execute(leases.insert().values(row))
    if lease.state == "released":
        connection.execute(lease_gpus.delete().where(lease_gpus.c.lease == lease.id))


def hold(connection: Connection, lease: Lease) -> None:
    """Hold the lease's GPUs.

    Raises
    ------
    ConflictError
        One of them is under another lease.
    """
    rows = [{"node": lease.node, "gpu": gpu, "lease": lease.id} for gpu in lease.gpus]
    if not rows:
        return
    try:
        connection.execute(lease_gpus.insert(), rows)
    except sa.exc.IntegrityError as exc:
        raise ConflictError(f"a GPU of {lease.node} is under another lease already") from exc


def next_epoch(connection: Connection) -> int:
    """Return an epoch that is greater than every one before."""
    grown = connection.execute(lease_epoch.update().values(epoch=lease_epoch.c.epoch + 1))
    if not grown.rowcount:
        connection.execute(lease_epoch.insert().values(id=1, epoch=1))
    return int(connection.execute(sa.select(lease_epoch.c.epoch)).scalar_one())


def delete_released(connection: Connection, before: float) -> int:
    """Forget leases released before this time; return how many."""
    old = leases.delete().where(leases.c.state == "released", leases.c.released_at < before)
    return int(connection.execute(old).rowcount)


_JSON = ("request", "gpus", "why", "server")


def _row(lease: Lease) -> dict[str, Any]:
    row = {column.name: getattr(lease, column.name) for column in leases.columns}
    for name in _JSON:
        row[name] = None if row[name] is None else json.dumps(to_json(row[name]))
    return row


def _lease(row: Any) -> Lease:
    values = dict(row)
    decoded: dict[str, Any] = {name: None if values[name] is None else json.loads(values[name]) for name in _JSON}
    where = f"leases.{values['id']}"
    values["request"] = from_json(PlacementRequest, decoded["request"], f"{where}.request")
    values["gpus"] = tuple(decoded["gpus"])
    values["why"] = decoded["why"] and from_json(Explanation, decoded["why"], f"{where}.why")
    values["server"] = decoded["server"] and from_json(ServerStatus, decoded["server"], f"{where}.server")
    return Lease(**values)
