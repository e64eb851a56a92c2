"""The registry: agents at the Hub, at the controller and in the database, or nowhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agents_world import World, agents_world, hub_config
from waiting import eventually

from jupyterhub_agentfarm.agents.models import Agent, AgentLimits, AgentRequest
from jupyterhub_agentfarm.agents.registry.hub_users import HubToken, HubUsers
from jupyterhub_agentfarm.agents.registry.limits import NOTHING, FarmLimits
from jupyterhub_agentfarm.agents.registry.registry import Registry
from jupyterhub_agentfarm.agents.registry.requests import AgentChange
from jupyterhub_agentfarm.agents.registry.store import AgentStore, KeptAgent
from jupyterhub_agentfarm.errors import (
    ConflictError,
    FarmUnavailable,
    HubApiError,
    InvalidField,
    NotFoundError,
)
from jupyterhub_agentfarm.models import OwnerLimits

SCOUT = AgentRequest(
    "scout", owner="user", limits=AgentLimits(1, 2, 3.0), labels={"room": "b"}, kernels=("ir",), projects=("weather",)
)


@pytest.fixture
async def make_app(configured_mockhub_instance: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """Give a function that returns an initialized mock of the Hub."""
    made = []

    async def make(**sections: dict[str, Any]) -> Any:
        app = configured_mockhub_instance(hub_config(tmp_path, **sections))
        await app.initialize()
        made.append(app)
        return app

    yield make
    for app in made:
        app.log.handlers = []
        await app.shutdown_cancel_tasks()
        app.db.close()
        app.db.get_bind().dispose()
        app.db_file.close()
        type(app).clear_instance()


@pytest.fixture
async def world(make_app: Any, tmp_path: Path) -> AsyncIterator[World]:
    """Give Hub and controller."""
    async with agents_world(tmp_path, await make_app()) as made:
        yield made


@pytest.fixture
async def stored_world(make_app: Any, tmp_path: Path, database_url: str) -> AsyncIterator[World]:
    """Give Hub and controller, and a database of each kind."""
    async with agents_world(tmp_path, await make_app(), database_url) as made:
        yield made


async def nowhere(world: World, registry: Registry, name: str = "scout") -> bool:
    """Whether nothing is left of an agent."""
    gone = registry.find(name) is None and not await world.at_hub(name)
    return gone and await world.limits_of(name) == OwnerLimits()


async def test_an_agent_is_a_user_with_limits_and_a_token(stored_world: World) -> None:
    """Hub, controller and registry agree on what was registered; a restart of the service changes nothing."""
    async with stored_world.registry() as registry:
        agent, token = await registry.register(SCOUT, "boss")
        assert (agent.owner, agent.state, agent.created_by) == ("user", "active", "boss")
        assert token.token not in repr(token)
        _, model = await stored_world.hub.ask("GET", "/user", token=token.token)
        assert (model["name"], set(model["groups"])) == ("scout", {"agents", "weather"})
        assert await stored_world.limits_of("scout") == OwnerLimits(1, 2, 3.0, {"room": "b"}, ("ir",))
    async with stored_world.registry() as registry:
        assert registry.agent("scout") == agent
        assert registry.is_active("scout")


class UsersWithoutGroups(HubUsers):
    """Cannot put anybody into a group."""

    async def join(self, name: str, group: str) -> None:
        """Fail."""
        raise HubApiError("POST", f"/groups/{group}/users", 500, "out of order")


class UsersWithoutTokens(HubUsers):
    """Cannot make tokens."""

    async def mint(self, name: str, scopes: list[str], seconds: float, note: str) -> HubToken:
        """Fail."""
        raise HubApiError("POST", f"/users/{name}/tokens", 0, "no answer")


class UsersWithoutAnswer(HubUsers):
    """Makes the user, and the answer is lost."""

    async def create(self, name: str) -> None:
        """Make it and fail."""
        await super().create(name)
        raise HubApiError("POST", f"/users/{name}", 0, "no answer")


class LimitsWithoutController(FarmLimits):
    """The controller takes no limits."""

    async def allow(self, agent: Agent) -> None:
        """Fail."""
        raise FarmUnavailable


class StoreThatIsFull(AgentStore):
    """Cannot write an agent down once it is made."""

    async def save(self, kept: KeptAgent) -> None:
        """Fail."""
        raise OSError("disk full")


@pytest.mark.parametrize(
    ("defect", "error"),
    [
        ({"users": UsersWithoutGroups}, HubApiError),
        ({"users": UsersWithoutTokens}, HubApiError),
        ({"users": UsersWithoutAnswer}, HubApiError),
        ({"limits": LimitsWithoutController}, FarmUnavailable),
        ({"store": StoreThatIsFull}, OSError),
    ],
)
async def test_half_a_registration_is_undone(world: World, defect: dict[str, Any], error: type[Exception]) -> None:
    """Whichever step fails, nothing is left, and the name can be registered once the fault is gone."""
    async with world.registry(**defect) as registry:
        with pytest.raises(error):
            await registry.register(SCOUT, "boss")
        assert await nowhere(world, registry)
    async with world.registry() as registry:
        assert (await registry.register(SCOUT, "boss"))[0].name == "scout"


class UsersThatStay(UsersWithoutTokens):
    """Cannot delete users until it is mended."""

    mended = False

    async def delete(self, name: str) -> None:
        """Fail until mended."""
        if not self.mended:
            raise HubApiError("DELETE", f"/users/{name}", 0, "no answer")
        await super().delete(name)


async def test_what_cannot_be_undone_is_undone_later(stored_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is held until the Hub answers again; then nothing is left."""
    async with stored_world.registry(UsersThatStay, check_interval=0.1) as registry:
        with pytest.raises(HubApiError, match="tokens"):
            await registry.register(SCOUT, "boss")
        with pytest.raises(ConflictError, match="still being undone"):
            await registry.register(SCOUT, "boss")
        with pytest.raises(NotFoundError):
            registry.agent("scout")
        monkeypatch.setattr(UsersThatStay, "mended", True)
        await eventually(lambda: nowhere(stored_world, registry), "it is undone")


class UsersThatNeverAnswer(HubUsers):
    """Hangs where a token is to be made."""

    async def mint(self, name: str, scopes: list[str], seconds: float, note: str) -> HubToken:
        """Wait for ever."""
        return await asyncio.get_running_loop().create_future()


async def test_a_service_that_was_killed_half_way_undoes_it_at_its_next_start(world: World) -> None:
    """The row in the database says what was under way."""
    async with world.registry(UsersThatNeverAnswer) as registry:
        registering = asyncio.create_task(registry.register(SCOUT, "boss"))
        await eventually(lambda: world.at_hub("scout"), "the user is made")
        registering.cancel()
        await asyncio.wait({registering})
    assert await world.at_hub("scout")
    async with world.registry() as registry:
        await eventually(lambda: nowhere(world, registry), "it is undone")
        await registry.register(SCOUT, "boss")


async def test_people_are_not_touched(world: World) -> None:
    """The name of a person is refused, and that person stays."""
    async with world.registry() as registry:
        with pytest.raises(ConflictError, match="has a user user already"):
            await registry.register(AgentRequest("user", owner="admin"), "boss")
    assert await world.at_hub("user")


@pytest.mark.parametrize(
    ("changes", "kind", "error", "said"),
    [
        ({"owner": "nobody"}, "user", InvalidField, "owner must be a user of the Hub"),
        ({"owner": ""}, "local", InvalidField, "owner must be a user of the Hub"),
        ({"owner": "other"}, "user", InvalidField, "owner must be a user of the Hub who is no agent"),
        ({"projects": ("secret",)}, "user", ConflictError, r"configure\(c, projects=…\)"),
        ({"projects": ("agents",)}, "user", InvalidField, "Hub groups other than agents"),
        ({"labels": {"a": "b" * 101}}, "user", InvalidField, "labels"),
        ({"kernels": ("no kernel",)}, "user", InvalidField, "kernels"),
        ({"name": "other"}, "user", ConflictError, "there is an agent other already"),
    ],
)
async def test_what_cannot_be_an_agent(
    world: World, changes: dict[str, Any], kind: str, error: type[Exception], said: str
) -> None:
    """It is refused in a sentence, and leaves nothing."""
    async with world.registry() as registry:
        await registry.register(AgentRequest("other", owner="user"), "boss")
        request = AgentRequest(**{"name": "scout", "owner": "user", **changes})
        with pytest.raises(error, match=said):
            await registry.register(request, "boss", kind)
        assert await nowhere(world, registry)


async def test_a_hub_that_makes_no_such_token(make_app: Any, tmp_path: Path) -> None:
    """A site's longest token is named as the reason."""
    app = await make_app(JupyterHub={"token_expires_in_max_seconds": 3600})
    async with agents_world(tmp_path, app) as world, world.registry() as registry:
        with pytest.raises(InvalidField, match="token_expires_in_max_seconds"):
            await registry.register(AgentRequest("scout", owner="user"), "boss")
        assert await nowhere(world, registry)


async def test_an_authenticator_without_the_account(make_app: Any, tmp_path: Path) -> None:
    """With PAM an agent needs an account, and the admin is told how to make one."""
    app = await make_app(JupyterHub={"authenticator_class": "jupyterhub.auth.PAMAuthenticator"})
    async with agents_world(tmp_path, app) as world, world.registry() as registry:
        with pytest.raises(ConflictError, match="adduser --system --no-create-home no-such-account"):
            await registry.register(AgentRequest("no-such-account", owner="user"), "boss")
        assert not await world.at_hub("no-such-account")


async def test_agents_where_the_authenticator_manages_groups(make_app: Any, tmp_path: Path) -> None:
    """They are put into their group all the same: they never log in, so nobody takes them out of it."""
    app = await make_app(JupyterHub={"load_groups": {}}, Authenticator={"manage_groups": True})
    async with agents_world(tmp_path, app) as world, world.registry() as registry:
        _, token = await registry.register(AgentRequest("scout", owner="user"), "boss")
        _, model = await world.hub.ask("GET", "/user", token=token.token)
        assert model["groups"] == ["agents"]


async def test_suspended_and_resumed(world: World) -> None:
    """Suspended, it has no token, no server and no tasks; resumed, it has its limits again and needs a token."""
    ended: list[tuple[str, str]] = []
    revoked: list[str] = []

    async def hold(agent: str, reason: str) -> None:
        ended.append((agent, reason))

    async with world.registry() as registry:
        registry.holds.append(hold)
        registry.revoked.append(revoked.append)
        _, token = await registry.register(SCOUT, "boss")
        for_tasks = await registry.tokens.get("scout")
        agent = await registry.suspend("scout", "boss", "loud")
        assert (agent.state, agent.detail, registry.left_to_do("scout")) == ("suspended", "loud (boss)", "")
        assert [await world.status(each) for each in (token.token, for_tasks)] == [403, 403]
        assert await world.limits_of("scout") == NOTHING
        assert (ended, revoked) == ([("scout", "agent_suspended")], ["scout"])
        with pytest.raises(ConflictError, match="not active"):
            await registry.tokens.get("scout")
        with pytest.raises(ConflictError, match="is suspended, not active"):
            await registry.rotate("scout", "boss", 600)
        assert (await registry.resume("scout", "boss")).state == "active"
        assert (await world.limits_of("scout")).servers == 1
        fresh = await registry.rotate("scout", "boss", 600)
        assert await world.status(fresh.token) == 200


class UsersOfAHubThatRestarts(HubUsers):
    """Revokes nothing until the Hub is back."""

    back = False

    async def revoke(self, name: str, keep_notes: Any = ()) -> int:
        """Fail until the Hub is back."""
        if not self.back:
            raise HubApiError("GET", f"/users/{name}/tokens", 0, "no answer")
        return await super().revoke(name, keep_notes)


async def test_what_the_hub_could_not_do_is_done_when_it_is_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is suspended from the first moment; it is said what is left, and done also after a restart."""
    async with world.registry(UsersOfAHubThatRestarts) as registry:
        _, token = await registry.register(SCOUT, "boss")
        await registry.suspend("scout", "boss")
        assert "no answer" in registry.left_to_do("scout")
        assert not registry.is_active("scout")
        assert await world.limits_of("scout") == NOTHING
        with pytest.raises(HubApiError):
            await registry.resume("scout", "boss")
    assert await world.status(token.token) == 200
    monkeypatch.setattr(UsersOfAHubThatRestarts, "back", True)
    async with world.registry(UsersOfAHubThatRestarts) as registry:

        async def settled() -> bool:
            return registry.left_to_do("scout") == ""

        await eventually(settled, "the rest is done")
        assert await world.status(token.token) == 403


async def test_retired_for_good(stored_world: World) -> None:
    """Hub user and limits are gone, tasks are cancelled, and the name is reserved, after a restart too."""
    ended: list[str] = []

    async def hold(agent: str, reason: str) -> None:
        ended.append(reason)

    async with stored_world.registry() as registry:
        registry.holds.append(hold)
        await registry.register(SCOUT, "boss")
        await registry.retire("scout", "boss", "done")
        assert not await stored_world.at_hub("scout")
        assert await stored_world.limits_of("scout") == OwnerLimits()
        assert ended == ["agent_retired"]
        for refused in (registry.suspend("scout", "boss"), registry.retire("scout", "boss")):
            with pytest.raises(ConflictError, match="is retired"):
                await refused
    async with stored_world.registry() as registry:
        assert registry.agent("scout").state == "retired"
        with pytest.raises(ConflictError, match="stays reserved"):
            await registry.register(SCOUT, "boss")


async def test_expiry_retires(stored_world: World) -> None:
    """An agent, active or suspended, is retired when its time is over; a token never outlives its agent."""
    async with stored_world.registry(check_interval=0.1) as registry:
        request = AgentRequest("scout", owner="user", expires_in_seconds=100.0)
        _, token = await registry.register(request, "boss")
        assert token.expires_at < time.time() + 101
        await registry.register(AgentRequest("stays", owner="user"), "boss")
        stored_world.now[0] += 101

        async def expired() -> bool:
            return (registry.agent("scout").state, registry.agent("scout").detail) == ("retired", "expired")

        await eventually(expired, "it is retired")

        async def settled() -> bool:
            return registry.left_to_do("scout") == "" and not await stored_world.at_hub("scout")

        await eventually(settled, "it is gone at the Hub")
        assert registry.is_active("stays")


async def test_tokens_for_tasks_are_kept_and_renewed(world: World) -> None:
    """One serves until a quarter of an hour is left of it; it opens the agent's servers and nothing else."""
    async with world.registry() as registry:
        await registry.register(SCOUT, "boss")
        world.now[0] = time.time()
        first = await registry.tokens.get("scout")
        assert await registry.tokens.get("scout") == first
        _, model = await world.hub.ask("GET", "/user", token=first)
        assert set(model["scopes"]) == {"access:servers!user=scout", "read:users:name!user=scout",
                                        "read:users:groups!user=scout"}  # fmt: skip
        world.now[0] += 2800
        assert await registry.tokens.get("scout") != first


async def test_a_change_reaches_the_controller(world: World) -> None:
    """New limits count at once; owner and expiry are checked like those of a registration."""
    async with world.registry() as registry:
        await registry.register(SCOUT, "boss")
        changed = await registry.change(
            "scout", AgentChange(limits=AgentLimits(5, 0), owner="admin", expires_in_seconds=50.0), "boss"
        )
        assert (changed.owner, changed.kernels, changed.expires_at) == ("admin", ("ir",), world.now[0] + 50)
        assert await world.limits_of("scout") == OwnerLimits(5, 0, None, {"room": "b"}, ("ir",))
        assert (await registry.change("scout", AgentChange(expires_in_seconds=0.0), "boss")).expires_at is None
        with pytest.raises(InvalidField, match="owner"):
            await registry.change("scout", AgentChange(owner="nobody"), "boss")
        await registry.suspend("scout", "boss")
        await registry.change("scout", AgentChange(limits=AgentLimits(7, 7)), "boss")
        assert await world.limits_of("scout") == NOTHING
        await registry.resume("scout", "boss")
        assert (await world.limits_of("scout")).servers == 7


async def test_when_an_agent_was_seen_is_remembered(stored_world: World) -> None:
    """What it does here counts, and is known after a restart."""
    async with stored_world.registry() as registry:
        agent, _ = await registry.register(SCOUT, "boss")
        assert agent.last_seen_at is None
        stored_world.now[0] += 5
        registry.seen("scout")
        assert registry.agent("scout").last_seen_at == stored_world.now[0]
    async with stored_world.registry() as registry:
        assert registry.agent("scout").last_seen_at == stored_world.now[0]
