"""What the API and the pages show of an agent: its record, its servers, its use of the farm, its tasks in numbers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from ...errors import AgentFarmError
from ...records import to_json
from ..models import Agent

#: How old the controller's figures may be, in seconds.
_USAGE_SECONDS = 5.0


@dataclass(frozen=True)
class AgentServer:
    """A server of an agent that runs, or is on its way."""

    name: str
    state: str
    node: str | None
    gpus: int
    #: Path at the Hub's proxy, where its owner may open it.
    url: str
    since_at: float
    #: Why it waits, or why it is where it is.
    detail: str = ""


@dataclass(frozen=True)
class AgentUsage:
    """What an agent uses of the farm."""

    servers: int = 0
    gpus: int = 0
    #: Within the window that limits count in.
    gpu_hours: float = 0.0
    window_hours: float = 0.0


@dataclass(frozen=True)
class AgentView:
    """What there is to see of an agent beside its record."""

    servers: tuple[AgentServer, ...] = ()
    #: None: the controller does not answer.
    usage: AgentUsage | None = None
    #: Tasks in each state that some are in.
    tasks: Mapping[str, int] = field(default_factory=dict)
    #: Of the notebooks and files of its tasks, and the most that is; 0: without bound.
    kept_bytes: int = 0
    max_kept_bytes: int = 0
    #: After it was suspended or retired: what Hub and controller still have to do.
    left_to_do: str = ""


class TaskNumbers(Protocol):
    """The tasks of all agents, in numbers."""

    max_agent_bytes: int

    async def counts_by_agent(self) -> Mapping[str, Mapping[Any, int]]:
        """Return how many tasks each agent has in each state that some are in."""

    async def kept_bytes_by_agent(self) -> Mapping[str, int]:
        """Return the bytes of notebooks and files that are kept of each agent's tasks."""


class AgentViews:
    """Puts together what is known of agents.

    Parameters
    ----------
    leases
        Those of the farm, by id, as the controller tells them.
    usage
        The controller's report of use.
    left_to_do
        What is still to be done for an agent.
    tasks
        Those of all agents, in numbers.
    base_url
        Path of the Hub at its proxy, with a slash at the end.
    """

    def __init__(
        self,
        leases: Callable[[], Mapping[str, Mapping[str, Any]]],
        usage: Callable[[], Awaitable[Mapping[str, Any]]],
        left_to_do: Callable[[str], str],
        tasks: TaskNumbers,
        base_url: str = "/",
    ) -> None:
        self._leases, self._usage, self._left, self._tasks = leases, usage, left_to_do, tasks
        self._base_url = base_url
        self._asked_at = float("-inf")
        self._report: Mapping[str, Any] | None = None

    async def of(self, agents: Iterable[Agent]) -> list[dict[str, Any]]:
        """Return agents with what there is to see of them."""
        counts, kept = await self._tasks.counts_by_agent(), await self._tasks.kept_bytes_by_agent()
        report, servers = await self._fresh_report(), self._servers()
        used = {entry["owner"]: entry for entry in (report or {}).get("usage", ())}
        views = []
        for agent in agents:
            mine, left = tuple(servers.get(agent.name, ())), self._left(agent.name)
            usage = None if report is None else _usage(mine, used.get(agent.name), report)
            numbers = counts.get(agent.name, {}), kept.get(agent.name, 0), self._tasks.max_agent_bytes
            views.append(to_json(agent) | to_json(AgentView(mine, usage, *numbers, left)))
        return views

    async def of_one(self, agent: Agent) -> dict[str, Any]:
        """Return an agent with what there is to see of it."""
        return (await self.of([agent]))[0]

    async def _fresh_report(self) -> Mapping[str, Any] | None:
        if time.monotonic() - self._asked_at > _USAGE_SECONDS:
            try:
                self._report = await self._usage()
            except AgentFarmError:
                self._report = None
            self._asked_at = time.monotonic()
        return self._report

    def _servers(self) -> dict[str, list[AgentServer]]:
        """Return the servers of each owner, the oldest first."""
        found: dict[str, list[AgentServer]] = {}
        for lease in sorted(self._leases().values(), key=lambda lease: lease["created_at"]):
            found.setdefault(lease["owner"], []).append(self._server(lease))
        return found

    def _server(self, lease: Mapping[str, Any]) -> AgentServer:
        name = lease["server_name"]
        path = f"user/{quote(lease['owner'], safe='')}/" + (f"{quote(name, safe='')}/" if name else "")
        return AgentServer(
            name=name,
            state=lease["state"],
            node=lease["node"],
            gpus=len(lease["gpus"]),
            url=self._base_url + path,
            since_at=lease["granted_at"] or lease["created_at"],
            detail=lease["detail"],
        )


def _usage(servers: tuple[AgentServer, ...], entry: Mapping[str, Any] | None, report: Mapping[str, Any]) -> AgentUsage:
    """Return what is used: what is held as it is now, the hours as the controller added them up a moment ago."""
    held = [server for server in servers if server.state != "waiting"]
    hours = 0.0 if entry is None else entry["gpu_seconds"] / 3600
    return AgentUsage(len(held), sum(server.gpus for server in held), hours, report["window_seconds"] / 3600)
