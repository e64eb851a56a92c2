"""NodeStore: what must survive a restart: nodes added at run time, and what admins did to nodes.

A mark (cordon or drain) is kept by the node's name, also for nodes of the configuration.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from jupyterhub_agentfarm.errors import ConflictError
from jupyterhub_agentfarm.models import Mark, NodeSpec
from jupyterhub_agentfarm.records import from_json, to_json

from .database import Database, metadata

MarkKind = Literal["cordon", "drain"]

added_nodes = sa.Table(
    "added_nodes",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("added_at", sa.Float(53), nullable=False),
    sa.Column("added_by", sa.Text, nullable=False),
)
node_marks = sa.Table(
    "node_marks",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("kind", sa.String(10), primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("deadline_at", sa.Float(53)),
    sa.Column("kept_for", sa.Text),
)


@dataclass(frozen=True)
class StoredNodes:
    """Everything the store has."""

    specs: tuple[NodeSpec, ...] = ()
    cordons: dict[str, Mark] = field(default_factory=dict)
    drains: dict[str, Mark] = field(default_factory=dict)


class NodeStore:
    """Added nodes and marks in the database.

    Parameters
    ----------
    database
        An open database.
    clock
        Seconds since the epoch.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def load(self) -> StoredNodes:
        """Return everything.

        Raises
        ------
        InvalidField
            A stored node has a form that this version does not know.
        """
        return await self._database.run(_load)

    async def add(self, spec: NodeSpec, by: str) -> None:
        """Keep a node.

        Raises
        ------
        ConflictError
            There is one of this name.
        """
        row = {"name": spec.name, "spec": json.dumps(to_json(spec)), "added_at": self._clock(), "added_by": by}
        try:
            await self._database.run(lambda connection: connection.execute(added_nodes.insert().values(row)))
        except sa.exc.IntegrityError as exc:
            raise ConflictError(f"there is a node {spec.name} already") from exc

    async def remove(self, name: str) -> None:
        """Forget a node and its marks."""

        def _delete(connection: Connection) -> None:
            connection.execute(added_nodes.delete().where(added_nodes.c.name == name))
            connection.execute(node_marks.delete().where(node_marks.c.name == name))

        await self._database.run(_delete)

    async def mark(self, name: str, kind: MarkKind, mark: Mark) -> None:
        """Keep a mark, in place of an older one of its kind."""
        values = to_json(mark)

        def _replace(connection: Connection) -> None:
            connection.execute(_marks(name, (kind,)))
            connection.execute(node_marks.insert().values(name=name, kind=kind, **values))

        await self._database.run(_replace)

    async def unmark(self, name: str, kinds: tuple[MarkKind, ...] = ("cordon", "drain")) -> None:
        """Forget marks of a node."""
        await self._database.run(lambda connection: connection.execute(_marks(name, kinds)))


def _marks(name: str, kinds: tuple[MarkKind, ...]) -> sa.Delete:
    return node_marks.delete().where(node_marks.c.name == name, node_marks.c.kind.in_(kinds))


def _load(connection: Connection) -> StoredNodes:
    rows = connection.execute(sa.select(added_nodes).order_by(added_nodes.c.name)).all()
    specs = tuple(from_json(NodeSpec, json.loads(row.spec), f"added_nodes.{row.name}") for row in rows)
    marks: dict[str, dict[str, Mark]] = {"cordon": {}, "drain": {}}
    for row in connection.execute(sa.select(node_marks)).all():
        marks[row.kind][row.name] = Mark(row.reason, row.at, row.by, row.deadline_at, row.kept_for or "")
    return StoredNodes(specs, marks["cordon"], marks["drain"])
