"""Servers whose node failed: what the Hub does, with its real REST API, and what the user is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from farm_double import FarmDouble
from jupyterhub import orm
from mock_hub import HubApi, serving
from prometheus_client import REGISTRY
from waiting import eventually

from jupyterhub_agentfarm.models import Lease, ServerExit
from jupyterhub_agentfarm.spawner.notices import Notices
from jupyterhub_agentfarm.spawner.past import Ending, Past, ending_of, past_of

OPTIONS = {"gpus": 1, "restart": "on-node-failure"}


@pytest.fixture
async def hub(make_hub: Any) -> Any:
    """Give a MockHub with named servers."""
    named = {"allow_named_servers": True}
    return await make_hub("jupyterhub_agentfarm.spawner.AgentFarmSpawner", JupyterHub=named)


@pytest.fixture
async def api(hub: Any) -> AsyncIterator[HubApi]:
    """Serve the Hub where its spawners look for it."""
    async with serving(hub) as served:
        hub.hub.connect_url = served.url.removesuffix("api")
        yield served


def counted(outcome: str) -> float:
    """Return how many restarts came to this."""
    return REGISTRY.get_sample_value("agentfarm_server_restarts_total", {"outcome": outcome}) or 0


def fails(farm: FarmDouble, lease_id: str, end: str = "node_down", detail: str = "node n1 is down") -> None:
    """Let a lease end as the controller ends it."""
    farm.change(lease_id, state="released", released_at=time.time(), end=end, detail=detail)


async def started(api: HubApi, options: dict[str, Any], name: str = "") -> str:
    """Start a server by REST; return its lease once it is ready."""
    path = f"/users/user/servers/{name}" if name else "/users/user/server"
    status, body = await api.ask("POST", path, options)
    assert status in (201, 202), body

    async def ready() -> Any:
        return (await api.server(name))["ready"]

    await eventually(ready, "the server is ready")
    return str(api.hub.users["user"].spawners[name].lease_id)


async def again(api: HubApi, farm: FarmDouble, before: str, name: str = "") -> Lease:
    """Return the lease of the server that was started in the place of the one of the lease `before`."""

    async def other() -> Any:
        model = await api.server(name)
        lease_id = (model["state"] or {}).get("lease")
        return farm.leases[lease_id] if model["ready"] and lease_id not in (None, before) else None

    found: Lease = await eventually(other, "another server runs in its place")
    return found


async def settled(hub: Any) -> None:
    """Wait until the Hub has noticed the end and nothing of it goes on."""
    user = hub.users["user"]
    watch = user.settings["agentfarm_watch"]

    def quiet() -> bool:
        active = any(each.active for each in user.spawners.values())
        return not active and not watch.tasks.named("starting") + watch.tasks.named("telling")

    await eventually(quiet, "the server is stopped, and nothing goes on")


@pytest.mark.parametrize("name", ["", "second"])
@pytest.mark.parametrize("end", ["node_down", "node_restarted"])
async def test_a_server_whose_node_failed_is_started_again(
    farm: FarmDouble, hub: Any, api: HubApi, name: str, end: str
) -> None:
    """Once, under its name, with its options; the token for it is gone, and the viewer is told what happened."""
    before, tokens = await started(api, OPTIONS, name), hub.db.query(orm.APIToken).count()
    done = counted("started")
    fails(farm, before, end)
    lease = await again(api, farm, before, name)
    assert (lease.server_name, lease.request.options.gpus) == (name, 1)
    user = hub.users["user"]
    shown = [event["message"] async for event in user.spawners[name].progress()]
    assert shown[0].startswith("Your last server ended: node n1 is down (")
    assert shown[0].endswith("; it is started again")
    await eventually(lambda: counted("started") == done + 1, "it is counted")
    assert hub.db.query(orm.APIToken).count() == tokens
    assert not any("Restart of" in token.note for token in hub.db.query(orm.APIToken))
    assert len(farm.orders) == 2


async def never_restarted(farm: FarmDouble, hub: Any) -> None:
    """Check that nothing is started: who starts a server again begins with it before the old one counts as ended."""
    orders = len(farm.orders)
    await settled(hub)
    assert len(farm.orders) == orders


@pytest.mark.parametrize(
    ("end", "options"),
    [
        ("exited", OPTIONS), ("signal", OPTIONS), ("oom", OPTIONS), ("unknown", OPTIONS), ("drained", OPTIONS),
        ("stopped", OPTIONS), ("node_down", {"gpus": 1}), ("node_down", {"restart": "never"}),
    ],
)  # fmt: skip
async def test_other_ends_are_no_reason(
    farm: FarmDouble, hub: Any, api: HubApi, end: str, options: dict[str, Any]
) -> None:
    """A server that ended otherwise, or whose user did not ask for it, stays ended."""
    fails(farm, await started(api, options), end)
    await never_restarted(farm, hub)
    spawner = hub.users["user"].spawner
    assert (spawner.past.ending is None) == (end == "stopped")


async def test_a_stop_by_the_user_is_no_reason(farm: FarmDouble, hub: Any, api: HubApi) -> None:
    """Who stops a server whose node then fails does not get it back, nor a notice."""
    lease = await started(api, OPTIONS)
    assert (await api.ask("DELETE", "/users/user/server"))[0] in (202, 204)
    fails(farm, lease)
    await never_restarted(farm, hub)
    assert hub.users["user"].spawner.past == Past()


async def test_a_start_that_failed_is_no_reason(farm: FarmDouble, hub: Any, api: HubApi) -> None:
    """A node that fails in the middle of a start fails the start: the user is told, nothing is tried behind it."""
    farm.silent_servers = True
    asking = asyncio.create_task(api.ask("POST", "/users/user/server", OPTIONS))
    lease = await eventually(lambda: next(iter(farm.orders), None), "it is launched")
    fails(farm, lease)
    assert (await asking)[0] >= 400
    await settled(hub)
    farm.silent_servers = False
    assert not hub.users["user"].settings["agentfarm_watch"].tasks.named("starting")
    assert hub.users["user"].spawner.past.restarts == ()


async def test_a_server_is_not_started_again_for_ever(farm: FarmDouble, hub: Any, api: HubApi) -> None:
    """After `max_restarts` within the window it stays ended, which is counted and said."""
    hub.config.AgentFarmSpawner.max_restarts = 1
    limited = counted("limited")
    lease = await started(api, OPTIONS)
    fails(farm, lease)
    lease = (await again(api, farm, lease)).id
    fails(farm, lease)
    await never_restarted(farm, hub)
    assert counted("limited") == limited + 1
    ending = hub.users["user"].spawner.past.ending
    assert ending.sentence().endswith("it is not started again: that was done 1 times lately")


async def restart(hub: Any) -> None:
    """Have the Hub forget what it knows and check its servers as at its start."""
    watch = hub.users.settings.pop("agentfarm_watch")
    await watch.aclose()
    user = hub.users["user"]
    user.spawner.stop_polling()
    user.spawners.pop("")
    await hub.init_spawners()


async def test_a_hub_that_was_down_does_it_when_it_is_back(farm: FarmDouble, hub: Any) -> None:
    """It finds in its check that the node failed, and waits until its own API answers."""
    async with serving(hub) as api:
        lease = await started(api, OPTIONS)
        await hub.users.settings["agentfarm_watch"].aclose()
        fails(farm, lease)
    hub.hub.connect_url = "http://127.0.0.1:9/"  # nobody listens yet
    await restart(hub)
    assert not hub.users["user"].spawner.active
    async with serving(hub) as api:
        hub.hub.connect_url = api.url.removesuffix("api")
        await again(api, farm, lease)


async def test_a_deleted_name_is_not_made_again(farm: FarmDouble, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the name goes while the restart waits for the Hub, nothing is started."""
    async with serving(hub) as api:
        lease = await started(api, OPTIONS, "second")
        hub.hub.connect_url = "http://127.0.0.1:9/"
        fails(farm, lease)
        await eventually(lambda: not hub.users["user"].spawners["second"].active, "it is stopped")
        failed = counted("failed")
        assert (await api.ask("DELETE", "/users/user/servers/second", {"remove": True}))[0] == 204
        hub.hub.connect_url = api.url.removesuffix("api")
        await eventually(lambda: counted("failed") == failed + 1, "it is given up")
    assert len(farm.orders) == 1


async def test_a_hub_that_refuses_is_not_asked_again(farm: FarmDouble, hub: Any, api: HubApi) -> None:
    """A start that no node could ever take is refused once, and counted."""
    lease = await started(api, OPTIONS)
    farm.refusals, failed = {"n1": "needs 1 GPU, it has none"}, counted("failed")
    fails(farm, lease)
    await eventually(lambda: counted("failed") == failed + 1, "it is given up")


async def test_whose_user_may_not_start_servers_is_not_started_again(farm: FarmDouble, hub: Any, api: HubApi) -> None:
    """A user whose role was taken away meanwhile gets no server by the restart, which is counted as failed."""
    lease, failed = await started(api, OPTIONS), counted("failed")
    user = hub.users["user"].orm_user
    roles = list(user.roles)
    user.roles = []
    hub.db.commit()
    try:
        fails(farm, lease)
        await eventually(lambda: counted("failed") == failed + 1, "it is given up")
    finally:
        user.roles = roles
        hub.db.commit()
    assert len(farm.orders) == 1


# ---- what the user is told ---------------------------------------------------------------------------------------


async def test_the_next_page_tells_why_once(farm: FarmDouble, hub: Any, api: HubApi) -> None:
    """The announcement has the sentence, escaped, beside the site's own; after a moment it is gone, also elsewhere."""
    lease, notices = await started(api, {}), Notices("<b>cake today</b>")
    user = hub.users["user"]
    assert notices(user) == "<b>cake today</b>"
    fails(farm, lease, "oom", "the <node> ran out of memory")
    await settled(hub)
    user.spawners.pop("", None)  # as after a restart of the Hub: the database remembers
    for _ in range(2):  # one page may ask more than once
        shown = notices(user)
        assert shown.startswith("<b>cake today</b>\n<div>Your last server ended: the &lt;node&gt; ran out of memory (")
    past = past_of(user.orm_spawners[""].state)
    assert past.ending is not None
    assert past.ending.shown_at is not None
    assert not past.ending.due(time.time() + 60)
    user.orm_spawners[""].state = Past(past.ending.__class__(**{**past.ending.__dict__, "shown_at": 1.0})).state()
    user.spawners.pop("", None)
    assert notices(user) == "<b>cake today</b>"


async def test_who_has_no_servers_is_told_nothing() -> None:
    """Nobody and services see what the site announces."""
    assert Notices("x")(None) == "x"
    assert Notices(lambda user: f"for {user}")("a service") == "for a service"
    assert Notices()(None) == ""


@pytest.mark.parametrize("announced", [False, True])
async def test_the_options_page_tells_where_the_pages_do_not(
    farm: FarmDouble, hub: Any, api: HubApi, announced: bool
) -> None:
    """Without the announcement the options page has the sentence; with it, it is not said twice."""
    fails(farm, await started(api, {}), "node_down")
    await settled(hub)
    user = hub.users["user"]
    user.settings["template_vars"] = {"announcement": Notices()} if announced else {}
    page = await user.spawner.get_options_form()
    assert ("Your last server ended: node n1 is down" in page) == (not announced)
    assert 'name="restart" value="on-node-failure"' in page


def test_what_another_version_wrote_is_nothing() -> None:
    """A state that cannot be read costs the notice, not the server."""
    assert past_of({"past": {"ending": 3}}) == Past()
    past = Past(Ending("l", "oom", "x", 1.0), (2.0,))
    assert past_of(past.state()) == past
    assert Past().state() == {}


def test_an_end_without_a_word_is_told_by_the_exit() -> None:
    """A server seen to have exited before its lease was released ended as its exit says."""
    lease = FarmDouble().place(from_options())
    assert ending_of(lease.id, lease, 5.0) is None
    assert ending_of(lease.id, None, 5.0) == Ending(lease.id, "unknown", "the controller lost its lease", 5.0)
    assert ServerExit("exited", 1.0, 3).sentence() == "the server exited with status 3"


def from_options() -> Any:
    """Return a request of ada's."""
    from jupyterhub_agentfarm.models import PlacementRequest

    return PlacementRequest("ada", "")
