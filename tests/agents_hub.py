"""Agents of a real Hub: its service's API as everybody may ask it, and what an agent's token opens."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
from hub_process import HubProcess
from waiting import eventually


class AgentsHub:
    """A Hub with the agents service.

    Parameters
    ----------
    hub
        It runs, with the services `agentfarm` and `agents`.
    """

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub

    async def ready(self) -> None:
        """Return when the service answers and a node is eligible."""

        async def answers() -> bool:
            return (await self.ask("GET", "agents"))[0] == 200

        async def eligible() -> bool:
            return any(node["eligible"] for node in await self.hub.farm.nodes())

        await eventually(answers, "the agents service answers", timeout=60)
        await eventually(eligible, "a node is ready", timeout=60)

    async def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """Return status and decoded body of a request to the service's API, the admin's if no token is given."""
        return await self.get_json(f"{self.hub.url}/services/agents/api/v1/{path}", token, method, body)

    async def get_json(
        self, url: str, token: str | None = None, method: str = "GET", body: Any = None
    ) -> tuple[int, Any]:
        """Return status and decoded body of a request through the proxy."""
        headers = self.hub.headers(token)
        async with self.hub.http.request(method, url, json=body, headers=headers, allow_redirects=False) as answer:
            text = await answer.text()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    async def register(self, name: str, owner: str = "ada", **fields: Any) -> str:
        """Register an agent; return its token."""
        status, made = await self.ask("POST", "agents", {"name": name, "owner": owner, **fields})
        assert status == 201, made
        return str(made["token"]["token"])

    async def start_server(self, name: str, server_name: str, token: str) -> None:
        """Have an agent start a server of its own, straight at the Hub, and return when it is ready."""
        status, answer = await self.hub.api("POST", f"/users/{name}/servers/{server_name}", {}, token=token)
        assert status in (201, 202), answer
        await self.hub.ready(name, server_name)

    async def server_status(self, name: str, server_name: str, token: str) -> int:
        """Return what a request to an agent's server is answered with, without the session of an earlier one."""
        url = f"{self.hub.url}/user/{name}/{server_name}/api/status"
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(url, headers=self.hub.headers(token), allow_redirects=False) as answer,
        ):
            return answer.status
