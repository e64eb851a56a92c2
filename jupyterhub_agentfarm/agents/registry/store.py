"""AgentStore: the registered agents in the service's database.

An agent's row says how far the outside world is, so that a service that was killed knows what is left to do::

    registering   the Hub user, its limits and its token are being made; if that does not end well, all of it is undone
    archiving     retired here; its files are to be packed before its servers are stopped
    settling      changed, suspended or retired here; tokens, servers or limits may still have to follow
    moving        the same, and it has another owner: nobody else is to open its servers any more
    ready         Hub and controller are as the record says
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ...errors import ConflictError
from ...inventory.database import Database, metadata
from ...records import from_json, to_json
from ..models import Agent

#: What an unusable database raises.
STORE_ERRORS = (sa.exc.SQLAlchemyError, OSError)
Stage = Literal["registering", "archiving", "settling", "moving", "ready"]

agents_table = sa.Table(
    "agents",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("stage", sa.String(20), nullable=False),
    sa.Column("seen_at", sa.Float),
    sa.Column("record", sa.JSON, nullable=False),
)


@dataclass(frozen=True)
class KeptAgent:
    """An agent, and how far the outside world is."""

    agent: Agent
    stage: Stage = "ready"


class AgentStore:
    """The agents in the database.

    Parameters
    ----------
    database
        SQLite or PostgreSQL; opened and closed by whoever made it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def agents(self) -> list[KeptAgent]:
        """Return every agent, by name."""
        query = sa.select(agents_table).order_by(agents_table.c.name)
        return [_kept(row) for row in await self._database.run(lambda connection: list(connection.execute(query)))]

    async def find(self, name: str) -> KeptAgent | None:
        """Return the agent of this name, or None."""
        query = sa.select(agents_table).where(agents_table.c.name == name)
        rows = await self._database.run(lambda connection: list(connection.execute(query)))
        return _kept(rows[0]) if rows else None

    async def add(self, agent: Agent) -> None:
        """Keep a new agent, whose registration begins.

        Raises
        ------
        ConflictError
            There is, or was, one of this name.
        """

        def add(connection: Connection) -> None:
            query = sa.select(agents_table.c.record).where(agents_table.c.name == agent.name)
            if (found := connection.execute(query).scalar()) is not None:
                raise ConflictError(taken(from_json(Agent, found)))
            values = {"name": agent.name, "stage": "registering", "record": to_json(agent)}
            connection.execute(agents_table.insert().values(values))

        await self._database.run(add)

    async def save(self, kept: KeptAgent) -> None:
        """Replace what is kept of an agent."""
        values = {"stage": kept.stage, "record": to_json(kept.agent)}
        mine = agents_table.c.name == kept.agent.name
        await self._database.run(lambda connection: connection.execute(agents_table.update().where(mine), values))

    async def remove(self, name: str) -> None:
        """Forget an agent whose registration was undone."""
        mine = agents_table.c.name == name
        await self._database.run(lambda connection: connection.execute(agents_table.delete().where(mine)))

    async def save_seen(self, seen: Mapping[str, float]) -> None:
        """Keep when agents were seen last."""
        if not seen:
            return
        statement = agents_table.update().where(agents_table.c.name == sa.bindparam("agent"))
        rows = [{"agent": name, "seen_at": at} for name, at in seen.items()]
        await self._database.run(lambda connection: connection.execute(statement, rows))


def _kept(row: Any) -> KeptAgent:
    agent = from_json(Agent, row.record)
    return KeptAgent(replace(agent, last_seen_at=row.seen_at), row.stage)


def taken(agent: Agent) -> str:
    """Return why no other agent can have the name of this one."""
    if agent.state == "retired":
        return f"the name {agent.name} was that of an agent that is retired, and stays reserved: choose another"
    return f"there is an agent {agent.name} already"
