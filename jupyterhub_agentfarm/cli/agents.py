"""``agentfarm agents``: who is an agent, what it may have, and its token."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from traitlets import Bool

from ..terminal.parsing import Parsed
from ..terminal.quantities import UNKNOWN, age, duration
from .command import Command

if TYPE_CHECKING:
    from ..agents.client import AgentsClient

_CLI = "jupyterhub_agentfarm.cli"
_COLUMNS = ("NAME", "STATE", "OWNER", "SERVERS", "GPUS", "GPU-HOURS", "TASKS", "SEEN", "EXPIRES", "DETAIL")
_OPEN = ("scheduled", "available", "executing", "retryable")


class Agents(Parsed):
    """AI agents that are users of this Hub."""

    command = "agentfarm agents"
    description = "AI agents that are users of this Hub, with limits of their own."
    subcommands = {
        "list": (f"{_CLI}.agents.ListAgents", "List the agents"),
        "show": (f"{_CLI}.agents.ShowAgent", "Show one agent, its servers and tasks"),
        "register": (f"{_CLI}.agent_changes.Register", "Make an agent, and write its token"),
        "change": (f"{_CLI}.agent_changes.Change", "Change owner, labels, limits, kernels or expiry of an agent"),
        "token": (f"{_CLI}.agent_changes.Token", "Revoke an agent's tokens and write a new one"),
        "suspend": (f"{_CLI}.agent_changes.Suspend", "Stop an agent's servers, revoke its tokens, hold its tasks"),
        "resume": (f"{_CLI}.agent_changes.Resume", "Let a suspended agent work again"),
        "retire": (f"{_CLI}.agent_changes.Retire", "End an agent for good"),
    }


class AgentsCommand(Command):
    """A command that talks to the agents service."""

    @asynccontextmanager
    async def service(self) -> AsyncIterator[AgentsClient]:
        """Give a client of the service for as long as the block runs."""
        from ..agents.client import AgentsClient

        client = AgentsClient(parent=self, **self.client_options())
        try:
            yield client
        finally:
            await client.aclose()


class ListAgents(AgentsCommand):
    """List the agents."""

    command = "agentfarm agents list"
    description = "List the agents with what they use, and how many of their tasks have not ended."
    all = Bool(False, help="List agents that are retired too.").tag(config=True)
    flags = {**Command.flags, "all": ({"ListAgents": {"all": True}}, "List agents that are retired too.")}

    async def run(self) -> None:
        """Ask the service and write the list."""
        async with self.service() as service:
            agents = await service.agents(retired=self.all)
        if self.json:
            self.output.json({"agents": agents})
            return
        now = time.time()
        rows = [_row(agent, now) for agent in agents]
        self.output.table(_COLUMNS, rows, "There are no agents: make one with `agentfarm agents register`.")


class ShowAgent(AgentsCommand):
    """Show one agent."""

    command = "agentfarm agents show"
    description = "Show one agent, what it may have, its servers and its tasks in numbers."
    positionals = ("NAME",)

    async def run(self) -> None:
        """Ask the service and write what it knows."""
        async with self.service() as service:
            agent = await service.agent(self.extra_args[0])
        if self.json:
            self.output.json(agent)
            return
        now = time.time()
        self.output.fields(_fields(agent, now))
        if agent["servers"]:
            self.output.line("")
            rows = [_server_row(server, now) for server in agent["servers"]]
            self.output.table(("SERVER", "STATE", "NODE", "GPUS", "SINCE", "URL"), rows, "")


def _row(agent: Mapping[str, Any], now: float) -> tuple[object, ...]:
    usage, limits = agent["usage"] or {}, agent["limits"]
    return (
        agent["name"],
        agent["state"],
        agent["owner"],
        _of(usage.get("servers"), limits["servers"]),
        _of(usage.get("gpus"), limits["gpus"]),
        _of(_hours(usage), limits["gpu_hours"]),
        sum(agent["tasks"].get(state, 0) for state in _OPEN),
        age(agent["last_seen_at"], now),
        _expires(agent, now),
        agent["left_to_do"] or agent["detail"],
    )


def _fields(agent: Mapping[str, Any], now: float) -> dict[str, object]:
    usage, limits = agent["usage"] or {}, agent["limits"]
    window = f" in {duration(usage['window_hours'] * 3600)}" if usage else ""
    tasks = ", ".join(f"{number} {state}" for state, number in sorted(agent["tasks"].items()))
    return {
        "name": agent["name"],
        "state": agent["state"] + (f": {agent['detail']}" if agent["detail"] else ""),
        "left to do": agent["left_to_do"] or UNKNOWN,
        "description": agent["description"] or UNKNOWN,
        "owner": agent["owner"],
        "registered": f"{age(agent['created_at'], now)} ago by {agent['created_by']}",
        "expires": _expires(agent, now),
        "last seen": f"{age(agent['last_seen_at'], now)} ago" if agent["last_seen_at"] else "never",
        "servers": _of(usage.get("servers"), limits["servers"]),
        "gpus": _of(usage.get("gpus"), limits["gpus"]),
        "gpu-hours": _of(_hours(usage), limits["gpu_hours"]) + window,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(agent["labels"].items())) or UNKNOWN,
        "kernels": ", ".join(agent["kernels"]) or "any",
        "projects": ", ".join(agent["projects"]) or UNKNOWN,
        "tasks": tasks or "none",
        "kept": _kept(agent["kept_bytes"], agent["max_kept_bytes"]),
    }


def _server_row(server: Mapping[str, Any], now: float) -> tuple[object, ...]:
    name, node = server["name"] or "(default)", server["node"] or UNKNOWN
    return (name, server["state"], node, server["gpus"], age(server["since_at"], now), server["url"])


def _hours(usage: Mapping[str, Any]) -> str | None:
    return f"{usage['gpu_hours']:.1f}" if usage else None


def _kept(size: int, most: int) -> str:
    shown = f"{size / 2**30:.3g} GiB of notebooks and files of tasks"
    return f"{shown}, at most {most / 2**30:.3g} GiB" if most else shown


def _of(used: object, most: float | None) -> str:
    shown = UNKNOWN if used is None else str(used)
    return shown if most is None else f"{shown} of {most:g}"


def _expires(agent: Mapping[str, Any], now: float) -> str:
    at = agent["expires_at"]
    if at is None:
        return "never"
    return f"in {duration(at - now)}" if at > now else f"{age(at, now)} ago"
