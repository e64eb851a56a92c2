"""The pages of agents: who is shown what, and under which policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import nbformat
import pytest
from agents_site import AgentsSite, agents_site, make_agent
from hub_double import HubDouble, hub_double

from jupyterhub_agentfarm.agents.access import MANAGE
from jupyterhub_agentfarm.agents.models import TaskRequest
from jupyterhub_agentfarm.agents.pages.pages import FRAMED_POLICY, NOTEBOOK_POLICY
from jupyterhub_agentfarm.errors import TooMany

HTML = {"Accept": "text/html"}
FRAMED = {"Sec-Fetch-Dest": "iframe"}
LEASE = {"owner": "bot", "server_name": "work", "node": "n7", "gpus": ["GPU-1"], "state": "running"}


@dataclass
class Visit:
    """An answer."""

    status: int
    headers: dict[str, str]
    text: str


class World:
    """The site, people of its Hub, and a task."""

    def __init__(self, site: AgentsSite, hub: HubDouble, session: aiohttp.ClientSession) -> None:
        self.site, self._session = site, session
        people = {"ada": (), "eve": (), "admin": (MANAGE,), "bot": (), "tired": ()}
        self.tokens = {name: hub.token(name, *scopes, service="agents") for name, scopes in people.items()}
        self.task = ""

    async def get(self, path: str, who: str = "ada", **headers: str) -> Visit:
        """Return what somebody is answered; "" is nobody."""
        sent = {"Authorization": f"token {self.tokens[who]}"} if who else {}
        url = self.site.url + path
        async with self._session.get(url, headers=HTML | sent | headers, allow_redirects=False) as answer:
            return Visit(answer.status, dict(answer.headers), await answer.text())


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Ada's agent with a task, and an agent that is suspended."""
    agents = [make_agent("bot", description="<b>of ada</b>"), make_agent("tired", state="suspended")]
    agents.append(make_agent("helper", owner="eve"))
    async with hub_double() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        async with agents_site(tmp_path, agents) as site, aiohttp.ClientSession() as session:
            made = World(site, hub, session)
            content = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("as_submitted")]))
            task, _ = await site.book.submit(TaskRequest(notebook={}, name="a <task>"), "bot", "ada", content.encode())
            made.task = task.id
            yield made


async def test_pages_name_what_they_show(world: World) -> None:
    """Names are escaped; the policy lets nothing from elsewhere in; admins alone get their dialogs."""
    overview = await world.get("")
    assert (overview.status, "Agents and tasks" in overview.text) == (200, True)
    assert "default-src 'self'" in overview.headers["Content-Security-Policy"]
    assert 'id="register"' not in overview.text
    assert 'id="register"' in (await world.get("", "admin")).text
    assert "<h1>a &lt;task&gt;</h1>" in (await world.get(f"tasks/{world.task}")).text
    assert "&lt;b&gt;of ada&lt;/b&gt;" in (await world.get("agents/bot")).text
    for page in (overview, await world.get("connect"), await world.get("agents/bot")):
        assert "<script>" not in page.text
        assert " on" + "click=" not in page.text


@pytest.mark.parametrize("path", ["tasks/{task}", "tasks/{task}/rendered", "agents/bot", "connect?user=bot"])
async def test_what_may_not_be_seen_does_not_exist(world: World, path: str) -> None:
    """A stranger is told the same as about what is not there; the owner, the agent and admins see it."""
    asked = path.format(task=world.task)
    for who in ("ada", "admin", "bot"):
        assert (await world.get(asked, who)).status == 200, who
    assert (await world.get(asked, "eve")).status == 404
    missing = await world.get(asked.replace(world.task, "0" * 16).replace("bot", "nobody"), "ada")
    assert missing.status == 404
    assert "there is no" in missing.text


async def test_what_is_offered_to_an_agent_is_seen_by_its_owner(world: World) -> None:
    """A page shows what the API tells: also the task that somebody hands over to an agent of one's own."""
    assert (await world.get(f"tasks/{world.task}", "eve")).status == 404
    await world.site.book.hand_over(world.task, "helper", "ada")
    assert (await world.get(f"tasks/{world.task}", "eve")).status == 200


async def test_who_is_not_logged_in_is_sent_to_the_hub(world: World) -> None:
    """As on every page of the farm."""
    visit = await world.get("", "")
    assert (visit.status, "oauth2/authorize" in visit.headers["Location"]) == (302, True)


async def test_a_suspended_agent_sees_no_page(world: World) -> None:
    """Also with a token that the Hub still takes for good."""
    visit = await world.get("", "tired")
    assert (visit.status, "tired is suspended" in visit.text) == (403, True)


async def test_a_notebook_is_shown_as_far_as_it_is_executed(world: World) -> None:
    """First as it was submitted, then as the newest attempt left it; who has it already is not sent it again."""
    path = f"tasks/{world.task}/rendered"
    first = await world.get(path)
    assert "as_submitted" in first.text
    _, attempt = await world.site.book.claim(world.task)
    newer = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("as_executed")]))
    await world.site.book.keep_notebook(attempt, newer.encode())
    known = {"If-None-Match": first.headers["Etag"]}
    second = await world.get(path, **known)
    assert "as_executed" in second.text
    assert (await world.get(path, **{"If-None-Match": second.headers["Etag"]})).status == 304


async def test_a_notebook_has_no_origin(world: World) -> None:
    """Alone it is sealed; in the task's page the page may measure it, and scripts are as impossible."""
    path = f"tasks/{world.task}/rendered"
    alone, framed = await world.get(path), await world.get(path, **FRAMED)
    assert alone.headers["Content-Security-Policy"] == NOTEBOOK_POLICY
    assert framed.headers["Content-Security-Policy"] == FRAMED_POLICY
    assert alone.headers["Etag"] != framed.headers["Etag"]
    assert alone.headers["Vary"] == "Sec-Fetch-Dest"
    for policy in (NOTEBOOK_POLICY, FRAMED_POLICY):
        assert "default-src 'none'" in policy
        assert "allow-scripts" not in policy
        assert "script-src" not in policy


async def test_a_frame_says_why_there_is_no_notebook(world: World) -> None:
    """In the notebook's place, under its policy; outside of a frame it is the farm's page of errors."""
    task, _ = await world.site.book.submit(TaskRequest(path="deep/work.ipynb"), "bot", "ada", None)
    framed = await world.get(f"tasks/{task.id}/rendered", **FRAMED)
    assert framed.headers["Content-Security-Policy"] == FRAMED_POLICY
    assert "has a path" in framed.text
    assert (await world.get(f"tasks/{task.id}/rendered")).status == 404
    broken, _ = await world.site.book.submit(TaskRequest(notebook={}), "bot", "ada", b"<b>no</b> notebook")
    framed = await world.get(f"tasks/{broken.id}/rendered", **FRAMED)
    assert "this is no notebook that can be shown" in framed.text
    assert "<b>" not in framed.text


async def test_a_page_tries_again_when_others_are_being_made(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame says so, marked for the page's script; outside of a frame it is 429."""

    async def full(notebook: bytes, user: str) -> None:
        raise TooMany("2 notebooks are becoming pages for you already")

    monkeypatch.setattr(world.site.renderer, "document", full)
    framed = await world.get(f"tasks/{world.task}/rendered", **FRAMED)
    assert (framed.status, '<p class="message" data-again>2 notebooks' in framed.text) == (429, True)
    assert (await world.get(f"tasks/{world.task}/rendered")).status == 429


async def test_how_vs_code_connects(world: World) -> None:
    """A person is given the scopes of a token for themselves, an owner that for each running server of the agent."""
    own = await world.get("connect")
    assert "access:servers!user=ada read:servers!user=ada servers!user=ada" in own.text
    assert "No server of yours runs" in own.text
    world.site.farm.leases["1"] = LEASE
    world.site.farm.leases["2"] = LEASE | {"server_name": "waiting-one", "state": "waiting"}
    agents = await world.get("connect?user=bot")
    assert "<b>work</b>" in agents.text
    assert "{origin}/user/bot/work/?token=TOKEN</div>" in agents.text
    assert "access:servers!server=bot/work</div>" in agents.text
    assert "access:servers!user=bot" not in agents.text
    assert "on n7 · 1 GPU<" in agents.text
    assert "waiting-one" not in agents.text
