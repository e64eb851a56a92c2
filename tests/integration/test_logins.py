"""Who has an agent's name at the identity provider does not log in as it, at a real Hub."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from agents_hub import AgentsHub
from hub_process import PASSWORD, HubProcess, hub_process
from ssh_node import ssh_node

pytestmark = [
    pytest.mark.hub,
    pytest.mark.sshd,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agents() -> AsyncIterator[AgentsHub]:
    """One Hub, whose identity provider knows everybody."""
    async with (
        ssh_node("n1", "127.0.0.11", sys.executable, simulated_gpus=1) as node,
        hub_process([node.spec], AGENTFARM_SERVICES="agentfarm,agents") as hub,
    ):
        made = AgentsHub(hub)
        await made.ready()
        await hub.add_user("ada")
        yield made


async def login(hub: HubProcess, name: str) -> tuple[bool, bool]:
    """Return whether somebody of this name gets into the Hub's pages, and whether they get a token."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(f"{hub.url}/hub/login") as page:
            assert page.status == 200
        xsrf = next(cookie.value for cookie in browser.cookie_jar if cookie.key == "_xsrf")
        form = {"username": name, "password": PASSWORD, "_xsrf": xsrf}
        async with browser.post(f"{hub.url}/hub/login", data=form, allow_redirects=False):
            pass
        async with browser.get(f"{hub.url}/hub/token", allow_redirects=False) as page:
            inside = page.status == 200
    body = {"auth": {"username": name, "password": PASSWORD}}
    async with hub.http.post(f"{hub.url}/hub/api/users/{name}/tokens", json=body) as answer:
        return inside, answer.status == 201


async def test_nobody_logs_in_as_an_agent(agents: AgentsHub) -> None:
    """Neither in a browser nor for a token, nor after the Hub's restart; people do, and the agent's token is good."""
    token = await agents.register("scout")
    assert await login(agents.hub, "scout") == (False, False)
    assert await login(agents.hub, "ada") == (True, True)
    assert await login(agents.hub, "newcomer") == (True, True)
    await agents.hub.stop()
    await agents.hub.start()
    await agents.ready()
    assert await login(agents.hub, "scout") == (False, False)
    assert await login(agents.hub, "ada") == (True, True)
    assert (await agents.hub.api("GET", "/user", token=token))[1]["name"] == "scout"


async def test_the_name_of_a_retired_agent_is_nobodys_login(agents: AgentsHub) -> None:
    """Its Hub user is gone, and whoever has its name does not become a user in its place."""
    await agents.register("former")
    assert (await agents.ask("POST", "agents/former/retire", {}))[0] == 200
    assert await login(agents.hub, "former") == (False, False)
    assert (await agents.hub.api("GET", "/users/former"))[0] == 404


async def test_people_keep_their_names(agents: AgentsHub) -> None:
    """No agent gets the name of a user of the Hub, who logs in after the attempt as before."""
    status, refused = await agents.ask("POST", "agents", {"name": "ada", "owner": "ada"})
    assert (status, refused["reason"]) == (409, "conflict")
    assert await login(agents.hub, "ada") == (True, True)
