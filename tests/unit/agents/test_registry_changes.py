"""What becomes of an agent that is changed or retired while the Hub, the controller or a server is not as it should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from agents_world import World, agents_world, hub_config
from tornado import httpserver, netutil, web
from waiting import eventually

from jupyterhub_agentfarm.agents.models import AgentLimits, AgentRequest
from jupyterhub_agentfarm.agents.registry import hub_users, packing
from jupyterhub_agentfarm.agents.registry.archive import Archiver
from jupyterhub_agentfarm.agents.registry.hub_users import HubToken, HubUsers
from jupyterhub_agentfarm.agents.registry.limits import FarmLimits
from jupyterhub_agentfarm.agents.registry.requests import AgentChange
from jupyterhub_agentfarm.agents.tasks.files import checked_path
from jupyterhub_agentfarm.errors import FarmUnavailable, HubApiError, InvalidField, NoSpace

SCOUT = AgentRequest("scout", owner="user", limits=AgentLimits(1, 2, 3.0))


@pytest.fixture
async def world(configured_mockhub_instance: Any, tmp_path: Path) -> AsyncIterator[World]:
    """Give Hub and controller."""
    app = configured_mockhub_instance(hub_config(tmp_path))
    await app.initialize()
    async with agents_world(tmp_path, app) as made:
        yield made
    app.log.handlers = []
    await app.shutdown_cancel_tasks()
    app.db.close()
    app.db.get_bind().dispose()
    app.db_file.close()
    type(app).clear_instance()


async def shared_with(world: World) -> set[str]:
    """Return who may open servers of the agent."""
    _, found = await world.hub.ask("GET", "/shares/scout?limit=200")
    return {share["user"]["name"] for share in found["items"]}


class UsersOfABusyHub(HubUsers):
    """The Hub does not end the first sharing that it is asked to."""

    failures = 1

    async def unshare(self, name: str, owner: str) -> None:
        """Fail at first."""
        if self.failures:
            self.failures -= 1
            raise HubApiError("PATCH", f"/shares/{name}", 0, "no answer")
        await super().unshare(name, owner)


async def share_many(world: World, *people: str) -> None:
    """Share three servers of the agent with these people."""
    user = world.hub.hub.users["scout"]
    for server in ("a", "b", "c"):
        user._new_orm_spawner(server, "")
        world.hub.hub.db.commit()
        for person in people:
            await world.client.request("POST", f"/shares/scout/{server}", {"user": person})


async def test_a_former_owner_is_shut_out_in_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all servers, however many pages of shares there are, when the Hub failed at first, and after a restart."""
    monkeypatch.setattr(hub_users, "PAGE_SHARES", 2)
    await world.hub.ask("POST", "/users/eve")
    async with world.registry(UsersOfABusyHub, check_interval=60.0) as registry:
        await registry.register(SCOUT, "boss")
        await share_many(world, "user", "eve", "admin")
        await registry.change("scout", AgentChange(owner="admin"), "boss")
        assert "no answer" in registry.left_to_do("scout")
        assert registry.is_active("scout")
        assert await shared_with(world) == {"user", "eve", "admin"}
    async with world.registry(check_interval=0.05) as registry:
        await eventually(lambda: registry.left_to_do("scout") == "", "the rest is done")
        assert await shared_with(world) == {"admin"}


class LimitsOfABusyFarm(FarmLimits):
    """The controller does not take the second limits."""

    calls = 0

    async def allow(self, agent: Any) -> None:
        """Fail once."""
        self.calls += 1
        if self.calls == 2:
            raise FarmUnavailable("the controller does not answer")
        await super().allow(agent)


async def test_new_limits_count_also_when_the_controller_was_away(world: World) -> None:
    """They are kept first, and given to the controller until it has them."""
    async with world.registry(limits=LimitsOfABusyFarm, check_interval=0.05) as registry:
        await registry.register(SCOUT, "boss")
        changed = await registry.change("scout", AgentChange(limits=AgentLimits(5, 0)), "boss")
        assert changed.limits == AgentLimits(5, 0)
        await eventually(lambda: registry.left_to_do("scout") == "", "the rest is done")
        assert (await world.limits_of("scout")).servers == 5


async def test_tasks_that_slip_in_while_an_agent_retires_are_ended(world: World) -> None:
    """Whenever a retired agent has tasks that have not ended, they are held once more."""
    held: list[tuple[str, str]] = []
    busy: set[str] = set()

    async def hold(agent: str, reason: str) -> None:
        held.append((agent, reason))
        busy.discard(agent)

    async def names() -> set[str]:
        return busy

    async with world.registry(check_interval=0.05) as registry:
        registry.holds.append(hold)
        registry.aftercare.busy = names
        await registry.register(SCOUT, "boss")
        await registry.register(AgentRequest("works", owner="user"), "boss")
        await registry.retire("scout", "boss")
        held.clear()
        busy |= {"scout", "works"}
        await eventually(lambda: held, "the late task is held")
        assert set(held) == {("scout", "agent_retired")}


# ---- archives ----


class Users(HubUsers):
    """Mints a token without a Hub."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type] - it asks nothing else

    async def mint(self, name: str, scopes: list[str], seconds: float, note: str) -> HubToken:
        """Return a token."""
        return HubToken("token")


class Shown:
    """A server of an agent that shows what it likes."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int]] = []
        self.content = b"x" * 1000
        self.asked: list[str] = []
        self.goes_on = asyncio.Event()


class _Contents(web.RequestHandler):
    def get(self, _path: str) -> None:
        """List the files."""
        shown: Shown = self.settings["shown"]
        content = [
            {"path": path, "name": path, "type": "file", "size": size, "last_modified": "", "format": None,
             "mimetype": None, "created": "", "writable": True, "content": None}
            for path, size in shown.entries
        ]  # fmt: skip
        self.finish({"path": "", "name": "", "type": "directory", "format": "json", "content": content, "size": None,
                     "last_modified": "", "created": "", "mimetype": None, "writable": True})  # fmt: skip


class _Files(web.RequestHandler):
    async def get(self, path: str) -> None:
        """Send a file, when it is time."""
        shown: Shown = self.settings["shown"]
        shown.asked.append(path)
        await shown.goes_on.wait()
        self.finish(shown.content)


@pytest.fixture
async def shown(tmp_path: Path) -> AsyncIterator[tuple[Shown, Archiver]]:
    """Serve an agent's server, and give an archiver that knows it."""
    made = Shown()
    routes = [(r"/user/scout/work/api/contents/(.*)", _Contents), (r"/user/scout/work/files/(.*)", _Files)]
    (socket,) = netutil.bind_sockets(0, "127.0.0.1")
    server = httpserver.HTTPServer(web.Application(routes, shown=made))  # type: ignore[arg-type]
    server.add_socket(socket)
    leases = {"1": {"owner": "scout", "state": "running", "node": "n1", "server_name": "work"}}
    url = f"http://127.0.0.1:{socket.getsockname()[1]}/"
    yield made, Archiver(Users(), lambda: leases, tmp_path / "archives", url, checked_path, max_bytes=1500)
    made.goes_on.set()
    server.stop()
    await server.close_all_connections()


async def test_bytes_are_counted_as_they_come(shown: tuple[Shown, Archiver], tmp_path: Path) -> None:
    """What a server says of the size of its files is not believed."""
    server, archiver = shown
    server.goes_on.set()
    server.entries = [("a", 1), ("b", 1)]
    with pytest.raises(NoSpace, match="keep the workspace"):
        await archiver.pack("scout")
    assert list((tmp_path / "archives").iterdir()) == []
    server.entries = [("a", 10**9)]
    assert (await archiver.pack("scout")).exists()


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\nb"])
async def test_names_lead_out_of_no_archive(shown: tuple[Shown, Archiver], path: str) -> None:
    """A server that shows such a file is not asked for it."""
    server, archiver = shown
    server.entries = [(path, 1)]
    with pytest.raises(InvalidField):
        await archiver.pack("scout")
    assert server.asked == []


async def test_what_cannot_be_packed_is_tried_again_with_growing_pauses(
    shown: tuple[Shown, Archiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at every look; another agent's files do not wait for it."""
    now = [1000.0]
    monkeypatch.setattr(packing.time, "monotonic", lambda: now[0])
    server, archiver = shown
    server.goes_on.set()
    server.entries = [("a", 1), ("b", 1)]
    made = packing.Packing()
    made.archiver = archiver
    for pause in (60, 120, 240):
        with pytest.raises(NoSpace):
            await made.pack("scout")
        assert made.due("other")
        now[0] += pause - 1
        assert not made.due("scout")
        now[0] += 1
        assert made.due("scout")


async def test_a_packing_that_goes_on_makes_way_for_the_end(world: World, shown: tuple[Shown, Archiver]) -> None:
    """Retiring once more without an archive stops it at once, and the agent is gone."""
    server, archiver = shown
    server.entries = [("a", 1)]
    async with world.registry(check_interval=0.05, patience=0.05) as registry:
        registry.packing.archiver = archiver
        await registry.register(SCOUT, "boss")
        await registry.retire("scout", "boss", archive=True)
        await eventually(lambda: server.asked, "the packing goes on")
        await asyncio.wait_for(registry.retire("scout", "boss"), 10)
        await eventually(lambda: registry.left_to_do("scout") == "", "it is retired", timeout=10)
        assert not await world.at_hub("scout")
        assert registry.agent("scout").detail == "by boss"


def test_paths_of_an_archive_are_relative() -> None:
    """A path that stays in its folder is taken as it is."""
    assert checked_path("a/b c") == PurePosixPath("a/b c")
