"""The client of the agents service's REST API, for the command line and for programs."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from ..records import to_json
from .models import AgentRequest
from .registry.requests import AgentChange
from .tasks.client import TasksClient


class AgentsClient(TasksClient):
    """A client of the agents service.

    It finds the service of this machine in the runtime directory; for another machine it is given `url` and `token`.
    """

    # ---- agents ----

    async def agents(self, *, retired: bool = False) -> list[dict[str, Any]]:
        """Return the agents that one may see, with `retired` those that are retired too."""
        return list((await self._json("GET", "agents?all=1" if retired else "agents"))["agents"])

    async def agent(self, name: str) -> dict[str, Any]:
        """Return an agent with its servers, its use of the farm and its tasks in numbers.

        Raises
        ------
        NotFoundError
            There is none of this name.
        """
        return dict(await self._json("GET", _path(name)))

    async def register(self, request: AgentRequest) -> dict[str, Any]:
        """Register an agent; return `agent` and `token`, which nobody can read again.

        Raises
        ------
        InvalidField
            A field cannot be used.
        ConflictError
            The name is taken, or the Hub refuses the user or a group.
        """
        return dict(await self._json("POST", "agents", to_json(request)))

    async def change(self, name: str, change: AgentChange) -> dict[str, Any]:
        """Change an agent; return it as it is then."""
        return dict(await self._json("PATCH", _path(name), to_json(change)))

    async def new_token(self, name: str, expires_in_seconds: float | None = None) -> dict[str, Any]:
        """Revoke an agent's tokens; return a new one with `agent`, `token` and `expires_at`."""
        body = {} if expires_in_seconds is None else {"expires_in_seconds": expires_in_seconds}
        return dict(await self._json("POST", f"{_path(name)}/token", body))

    async def suspend(self, name: str, reason: str = "") -> dict[str, Any]:
        """Stop an agent's servers, revoke its tokens and hold its tasks; return it."""
        return dict(await self._json("POST", f"{_path(name)}/suspend", {"reason": reason}))

    async def resume(self, name: str) -> dict[str, Any]:
        """Let a suspended agent work again; return it."""
        return dict(await self._json("POST", f"{_path(name)}/resume", {}))

    async def retire(self, name: str, reason: str = "", workspace: str = "keep") -> dict[str, Any]:
        """End an agent for good; return it."""
        return dict(await self._json("POST", f"{_path(name)}/retire", {"reason": reason, "workspace": workspace}))


def _path(name: str) -> str:
    return f"agents/{quote(name, safe='')}"
