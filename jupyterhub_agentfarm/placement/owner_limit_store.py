"""Owner limits in the database."""

from __future__ import annotations

import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..inventory.database import metadata
from ..models import OwnerLimits
from ..records import from_json, to_json

owner_limits = sa.Table(
    "owner_limits",
    metadata,
    sa.Column("owner", sa.String(255), primary_key=True),
    sa.Column("limits", sa.Text, nullable=False),
    sa.Column("set_at", sa.Float(53), nullable=False),
    sa.Column("set_by", sa.Text, nullable=False),
)


def load(connection: Connection) -> dict[str, OwnerLimits]:
    """Return the limits of each owner who has some.

    Raises
    ------
    InvalidField
        A stored record has a form that this version does not know.
    """
    rows = connection.execute(sa.select(owner_limits)).all()
    return {row.owner: from_json(OwnerLimits, json.loads(row.limits), f"owner_limits.{row.owner}") for row in rows}


def save(connection: Connection, owner: str, limits: OwnerLimits, at: float, by: str) -> None:
    """Keep an owner's limits in place of those before."""
    delete(connection, owner)
    row = {"owner": owner, "limits": json.dumps(to_json(limits)), "set_at": at, "set_by": by}
    connection.execute(owner_limits.insert().values(row))


def delete(connection: Connection, owner: str) -> None:
    """Forget an owner's limits."""
    connection.execute(owner_limits.delete().where(owner_limits.c.owner == owner))
