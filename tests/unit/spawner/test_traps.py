"""JupyterHub's traps F3 to F7, of restarts and polling: with our spawner, and with the same class less what it does.

The second test of each pair expects the damage. When one of those fails, JupyterHub has mended the trap: what
`spawner/hub_workarounds.py` does about it can go. F8 to F12 are in `test_start_traps.py`.
F1, F2 and F4 need a Hub that is killed: `tests/integration/test_hub_traps.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import jupyterhub.spawner
import pytest
from farm_double import FarmDouble
from jupyterhub import orm
from jupyterhub.user import User
from mock_hub import serving
from waiting import eventually

from jupyterhub_agentfarm.spawner import AgentFarmSpawner

pytestmark = pytest.mark.skipif(
    not hasattr(jupyterhub.spawner, "SpawnException"), reason="the doubles show what JupyterHub 6 does"
)

MakeHub = Callable[..., Awaitable[Any]]


async def restart(hub: Any) -> Any:
    """Have the Hub forget what it knows and adopt its servers as it does at its start; return the user's spawner."""
    watch = hub.users.settings.pop("agentfarm_watch", None)
    if watch is not None:
        await watch.aclose()
    user = hub.users["user"]
    user.spawner.stop_polling()
    user.spawners.pop("")
    await hub.init_spawners()
    return user.spawner


# ---- F3: the scheme after a restart ------------------------------------------------------------------------------


class AnswersAtOnce(AgentFarmSpawner):
    """Leaves the answer to the Hub's own probe, which the test records."""

    async def until_it_answers(self, lease_id: str, timeout_seconds: float) -> int | None:
        """Wait for nothing."""


class WithoutScheme(AnswersAtOnce):
    """Leaves the scheme to JupyterHub."""

    def take_scheme(self, url: str) -> None:
        """Leave it."""


async def probed_after_restart(farm: FarmDouble, hub: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return the URL at which a restarted Hub probes an https server, and the scheme in its database."""
    user = hub.users["user"]
    await user.spawn()
    lease = farm.get(user.spawner.lease_id)
    assert lease.url is not None
    farm.change(lease.id, url=lease.url.replace("http:", "https:"))
    probed: list[str] = []

    async def probe(_: User, spawner: Any) -> None:
        probed.append(spawner.server.url)

    monkeypatch.setattr(User, "_wait_up", probe)
    await restart(hub)
    hub.db.expire_all()
    return probed[0].partition(":")[0], hub.db.query(orm.Server).filter(orm.Server.port != 0).one().proto


async def test_f3_a_restarted_hub_reaches_an_https_server_by_https(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheme of a server's URL is in the probe and in the database after the Hub took it up again."""
    hub = await make_hub(AnswersAtOnce)
    assert await probed_after_restart(farm, hub, monkeypatch) == ("https", "https")


async def test_f3_damage_without_it_http_is_spoken_to_an_https_server(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JupyterHub alone takes up an https server as an http one."""
    hub = await make_hub(WithoutScheme)
    assert await probed_after_restart(farm, hub, monkeypatch) == ("http", "http")


# ---- F4: the token after a restart (with a killed Hub: test_hub_traps.py) ------------------------------------------


class WithoutRevocation(AgentFarmSpawner):
    """Leaves the token to JupyterHub."""

    def revoke_token(self) -> None:
        """Leave it."""


async def statuses_of_the_token(hub: Any) -> tuple[int, int]:
    """Return what a server's token is answered before and after the server is stopped by a restarted Hub."""
    async with serving(hub) as api:
        user = hub.users["user"]
        await user.spawn()
        token = user.spawner.api_token
        assert (await restart(hub)).ready
        before, _ = await api.ask("GET", "/user", token=token)
        assert (await api.ask("DELETE", "/users/user/server"))[0] in (202, 204)
        await eventually(lambda: user.spawner.server is None and not user.spawner.pending, "it is stopped")
        after, _ = await api.ask("GET", "/user", token=token)
        return before, after


async def test_f4_a_restarted_hub_revokes_the_token_of_what_it_stops(farm: FarmDouble, make_hub: MakeHub) -> None:
    """The token of a server that is stopped after a restart is worthless."""
    assert await statuses_of_the_token(await make_hub(AgentFarmSpawner)) == (200, 403)


async def test_f4_damage_without_it_the_token_stays_good(farm: FarmDouble, make_hub: MakeHub) -> None:
    """JupyterHub alone leaves the token of a server that it stops after a restart."""
    assert await statuses_of_the_token(await make_hub(WithoutRevocation)) == (200, 200)


async def test_f4_the_token_of_a_start_that_wrote_nothing_down_is_revoked(make_hub: MakeHub) -> None:
    """A Hub that is killed before it had a lease leaves a token and no state: the next one revokes it."""
    hub = await make_hub(AgentFarmSpawner)
    user = hub.users["user"]
    token, other = user.new_api_token(note=f"Server at {user.base_url}"), user.new_api_token(note="mine")
    user.spawner.orm_spawner.server = orm.Server(base_url=user.base_url, port=1)
    hub.db.commit()
    assert not (await restart(hub)).ready
    assert orm.APIToken.find(hub.db, token) is None
    assert orm.APIToken.find(hub.db, other) is not None


# ---- F5: a poll that hangs ---------------------------------------------------------------------------------------


class Counts(AgentFarmSpawner):
    """Counts the polls that began."""

    polls = 0

    async def poll(self) -> int | None:
        """Count."""
        self.polls += 1
        return await self.answer()

    async def answer(self) -> int | None:
        """Answer as the real one."""
        return await super().poll()


class AsksTheController(Counts):
    """Asks the controller in each poll, as one without a cache does."""

    async def answer(self) -> int | None:
        """Ask."""
        lease = await self.watch.client.lease(self.lease_id or "")
        return None if lease.alive else 1


async def polls_while_the_controller_hangs(hub: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many polls begin in three seconds in which the controller accepts questions and answers none."""
    user = hub.users["user"]
    user.spawner.poll_interval = 1

    async def never(*_args: Any, **_kwargs: Any) -> None:
        await asyncio.Event().wait()

    await user.spawn()
    monkeypatch.setattr(user.spawner.watch.client, "_request", never)
    user.spawner.polls = 0
    until = time.monotonic() + 3.5
    await eventually(lambda: time.monotonic() > until, "the time is over")
    return int(user.spawner.polls)


async def test_f5_polling_goes_on_while_the_controller_hangs(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that hangs does not end the Hub's polling."""
    assert await polls_while_the_controller_hangs(await make_hub(Counts), monkeypatch) >= 2


async def test_f5_damage_without_it_one_hanging_poll_is_the_last(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JupyterHub alone never polls a server again after a poll that hangs."""
    assert await polls_while_the_controller_hangs(await make_hub(AsksTheController), monkeypatch) == 1


# ---- F6: a poll that fails at the Hub's start --------------------------------------------------------------------


async def taken_up_without_controller(farm: FarmDouble, hub: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    """Return whether a Hub that starts before its controller keeps its server, and what state the lease is in."""
    monkeypatch.setattr("jupyterhub_agentfarm.spawner.spawner._CHECK_SECONDS", 0.1)
    user = hub.users["user"]
    await user.spawn()
    lease = user.spawner.lease_id
    farm.down = True
    farm.hang_up()
    spawner = await restart(hub)
    return bool(spawner.ready), farm.get(lease).state


async def test_f6_a_hub_that_starts_before_its_controller_keeps_its_servers(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the controller is away, a server that answers is taken up."""
    hub = await make_hub(AgentFarmSpawner)
    assert await taken_up_without_controller(farm, hub, monkeypatch) == (True, "running")


async def test_f6_damage_without_it_the_server_becomes_an_orphan(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JupyterHub alone forgets a server whose poll fails at its start, and does not stop it."""
    hub = await make_hub(AsksTheController, FarmClient={"timeout": 1})
    assert await taken_up_without_controller(farm, hub, monkeypatch) == (False, "running")


# ---- F7: a server that does not answer at the Hub's start ----------------------------------------------------------


async def cut_off_at_restart(farm: FarmDouble, hub: Any) -> tuple[bool, str]:
    """Restart the Hub while the server is cut off for longer than `http_timeout`; return readiness and lease state."""
    user = hub.users["user"]
    await user.spawn()
    lease = user.spawner.lease_id
    port = await farm.cut_off(lease)
    restarting = asyncio.create_task(restart(hub))
    await asyncio.wait({restarting}, timeout=3)
    if not isinstance(user.spawner, AnswersAtOnce):
        assert user.spawner.pending == "check"
    farm.listen(lease, port)
    return bool((await restarting).ready), farm.get(lease).state


async def test_f7_a_server_that_is_cut_off_at_a_restart_is_kept(farm: FarmDouble, make_hub: MakeHub) -> None:
    """A Hub that starts while a node is cut off waits for the node's servers, beyond `http_timeout`."""
    hub = await make_hub(AgentFarmSpawner, Spawner={"http_timeout": 1})
    assert await cut_off_at_restart(farm, hub) == (True, "running")


async def test_f7_damage_without_it_a_cut_costs_the_server(farm: FarmDouble, make_hub: MakeHub) -> None:
    """JupyterHub alone stops a server that is cut off for `http_timeout` at its start."""
    hub = await make_hub(AnswersAtOnce, Spawner={"http_timeout": 1})
    assert await cut_off_at_restart(farm, hub) == (False, "released")


async def test_f7_an_end_ends_the_wait(farm: FarmDouble, make_hub: MakeHub) -> None:
    """A server that is given up while the Hub waits for its answer is not waited for any longer."""
    hub = await make_hub(AgentFarmSpawner)
    user = hub.users["user"]
    await user.spawn()
    lease = user.spawner.lease_id
    await farm.cut_off(lease)
    restarting = asyncio.create_task(restart(hub))
    await eventually(lambda: "" in user.spawners and user.spawner.pending == "check", "the Hub checks the server")
    farm.end(lease, cause="unknown")
    async with asyncio.timeout(3):
        assert not (await restarting).ready


async def stranger_at_restart(farm: FarmDouble, hub: Any) -> tuple[bool, str]:
    """Restart the Hub while somebody else answers on the server's port; return readiness and lease state."""
    user = hub.users["user"]
    await user.spawn()
    lease = user.spawner.lease_id
    port = await farm.cut_off(lease)
    farm.strangers = True
    farm.listen(lease, port)
    return bool((await restart(hub)).ready), farm.get(lease).state


async def test_f7_a_stranger_is_not_taken_up(farm: FarmDouble, make_hub: MakeHub) -> None:
    """Somebody else who answers on a server's port after a restart is not routed to."""
    hub = await make_hub(AgentFarmSpawner, AgentFarmSpawner={"check_timeout": 1, "poll_interval": 3600})
    assert await stranger_at_restart(farm, hub) == (False, "released")


async def test_f7_damage_without_it_a_stranger_is_taken_up(farm: FarmDouble, make_hub: MakeHub) -> None:
    """JupyterHub alone takes any answer for the server's."""
    assert await stranger_at_restart(farm, await make_hub(AnswersAtOnce)) == (True, "running")


async def test_f7_a_program_that_tells_no_lease_is_taken_up(farm: FarmDouble, make_hub: MakeHub) -> None:
    """A server of another program than the farm's is taken up by its JupyterHub version alone."""
    farm.strangers = True
    hub = await make_hub(AgentFarmSpawner, Spawner={"cmd": ["jupyterhub-singleuser"]})
    await hub.users["user"].spawn()
    assert (await restart(hub)).ready
