"""A link that tests listen to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from waiting import eventually

from jupyterhub_agentfarm.errors import AgentFarmError
from jupyterhub_agentfarm.models import NodeFacts, NodeSpec, ServerStatus, Telemetry
from jupyterhub_agentfarm.transport import NodeLink, SSHPool


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.facts: NodeFacts | None = None
        self.servers: tuple[ServerStatus, ...] = ()
        self.errors: list[AgentFarmError] = []
        self.exits: list[ServerStatus] = []

    def link_up(self, name: str, facts: NodeFacts, servers: tuple[ServerStatus, ...]) -> None:
        """Keep it."""
        self.told.append("up")
        self.facts, self.servers = facts, servers

    def link_down(self, name: str, exc: AgentFarmError) -> None:
        """Keep it."""
        self.told.append("down")
        self.errors.append(exc)

    def telemetry(self, name: str, report: Telemetry) -> None:
        """Keep it."""
        self.told.append("telemetry")

    def server_exited(self, name: str, status: ServerStatus) -> None:
        """Keep it."""
        self.told.append("exited")
        self.exits.append(status)

    def count(self, what: str) -> int:
        """Return how often it was told."""
        return self.told.count(what)


def quick_pool(**traits: Any) -> SSHPool:
    """A pool that notices and retries quickly."""
    return SSHPool(**({"keepalive_interval": 0.5, "keepalive_count": 2, "max_backoff": 0.2} | traits))


@asynccontextmanager
async def linked(spec: NodeSpec, pool: SSHPool | None = None) -> AsyncIterator[tuple[NodeLink, Heard]]:
    """A started link and what it told."""
    heard = Heard()
    pool = pool or quick_pool()
    a_link = NodeLink(spec, pool, heard)
    a_link.start()
    try:
        yield a_link, heard
    finally:
        await a_link.aclose()
        await pool.aclose()


async def up(heard: Heard, times: int = 1) -> None:
    """Wait until the link was up so many times."""
    await eventually(lambda: heard.count("up") >= times, f"link up {times} times", timeout=15)
