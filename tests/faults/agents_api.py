"""The agents service as people and agents use it, by its REST API through the proxy."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from faults.farm import FaultHub
from waiting import eventually

#: What a request meets while the service or the Hub is started again.
AWAY = (OSError, TimeoutError, ValueError, aiohttp.ClientError)


@dataclass
class AgentsApi:
    """The API of a Hub's agents service."""

    hub: FaultHub

    async def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Return status and decoded body of one request, the admin's unless a token is given."""
        url = f"{self.hub.url}/services/agents/api/v1/{path}"
        timeout = aiohttp.ClientTimeout(total=20)
        async with self.hub.http.request(
            method, url, json=body, headers=self.hub.headers(token), timeout=timeout
        ) as answer:
            return answer.status, json.loads(await answer.text())

    async def answered(self) -> None:
        """Return when the service answers."""

        async def answers() -> bool:
            with suppress(*AWAY):
                return (await self.request("GET", "agents"))[0] == 200
            return False

        await eventually(answers, "the agents service answers", 90, 0.2)

    async def register(self, name: str, **fields: Any) -> str:
        """Register an agent; return its token."""
        status, body = await self.request("POST", "agents", {"name": name, **fields})
        assert status == 201, body
        return str(body["token"]["token"])

    async def submit(self, token: str, **fields: Any) -> str:
        """Submit a task as the agent whose token it is; return its id."""
        status, body = await self.request("POST", "tasks", fields, token)
        assert status == 201, body
        return str(body["id"])

    async def task(self, task_id: str) -> dict[str, Any]:
        """Return the view of a task: itself, its attempts and changes."""
        status, body = await self.request("GET", f"tasks/{task_id}")
        assert status == 200, body
        return dict(body)

    async def states(self) -> dict[str, str]:
        """Return the state of every task by its id."""
        found: dict[str, str] = {}
        cursor = ""
        while True:
            status, body = await self.request("GET", f"tasks?limit=100{cursor}")
            assert status == 200, body
            found |= {task["id"]: task["state"] for task in body["tasks"]}
            if not body.get("cursor"):
                return found
            cursor = f"&cursor={body['cursor']}"
