"""JupyterHub's traps F8 to F12, of starts: with our spawner, and with the same class less what it does.

The second test of each pair expects the damage. When one of those fails, JupyterHub has mended the trap: what
`spawner/hub_workarounds.py` does about it can go. F3 to F7 are in `test_traps.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import jupyterhub.spawner
import pytest
from farm_double import FarmDouble
from jupyterhub.utils import wait_for_http_server
from mock_hub import HubApi, serving
from tornado import web
from traitlets.config import Config
from waiting import eventually

from jupyterhub_agentfarm.benchmark.servers import NodeServers, Told
from jupyterhub_agentfarm.configure import configure
from jupyterhub_agentfarm.errors import HubApiError
from jupyterhub_agentfarm.models import Explanation
from jupyterhub_agentfarm.services.hub import HubClient
from jupyterhub_agentfarm.spawner import AgentFarmSpawner, failure, hub_workarounds

pytestmark = pytest.mark.skipif(
    not hasattr(jupyterhub.spawner, "SpawnException"), reason="the doubles show what JupyterHub 6 does"
)

MakeHub = Callable[..., Awaitable[Any]]


async def lease_of(farm: FarmDouble) -> str:
    """Return the id of the lease once its server is launched."""
    found: str = await eventually(lambda: next(iter(farm.orders), None), "the server is launched")
    return found


# ---- F8: a start that failed -------------------------------------------------------------------------------------


class LeavesStopping(AgentFarmSpawner):
    """Releases nothing itself: relies on the Hub to call `stop`."""

    def _abandon(self) -> None:
        """Leave it."""


class SaysNotRunning(LeavesStopping):
    """Says, as others do, that a server whose start has not ended does not run."""

    async def poll(self) -> int | None:
        """Say so."""
        return 0


async def lease_after_timeout(farm: FarmDouble, hub: Any) -> bool:
    """Let a start run into `start_timeout`; return whether its lease is still held a second later."""
    farm.silent_servers = True
    user = hub.users["user"]
    user.spawner.start_timeout = 1
    user.spawner.boot_timeout = 60
    with pytest.raises(TimeoutError):
        await user.spawn()
    lease = next(iter(farm.orders))
    until = time.monotonic() + 1
    await eventually(lambda: not farm.get(lease).alive or time.monotonic() > until, "the stop had time")
    return farm.get(lease).alive


@pytest.mark.parametrize("spawner_class", [AgentFarmSpawner, LeavesStopping])
async def test_f8_a_start_that_took_too_long_leaves_nothing(
    farm: FarmDouble, make_hub: MakeHub, spawner_class: type
) -> None:
    """After `start_timeout` the server is stopped: by the start's own end, and were that missing, by the Hub."""
    assert not await lease_after_timeout(farm, await make_hub(spawner_class))


async def test_f8_damage_without_it_the_server_becomes_an_orphan(farm: FarmDouble, make_hub: MakeHub) -> None:
    """JupyterHub alone does not stop a server whose poll says 0 after its start failed."""
    assert await lease_after_timeout(farm, await make_hub(SaysNotRunning))


# ---- F9: a deletion during the start -----------------------------------------------------------------------------

PENDING = {"JupyterHub": {"tornado_settings": {"slow_spawn_timeout": 0.1}, "allow_named_servers": True}}


class CleansUpInline(AgentFarmSpawner):
    """Cleans up in the cancelled start itself, which takes longer than the Hub waits."""

    async def start(self) -> str:
        """Start, and take 1.5 s to end."""
        try:
            return await super().start()
        except asyncio.CancelledError:
            await asyncio.wait({asyncio.create_task(asyncio.Event().wait())}, timeout=1.5)
            raise


class LeavesPhantoms(CleansUpInline):
    """Does not look after its cancelled starts either."""

    async def end_phantom(self, lease_id: str | None) -> None:
        """Leave it."""


@asynccontextmanager
async def deleted_while_booting(farm: FarmDouble, hub: Any) -> AsyncIterator[tuple[HubApi, int]]:
    """Start a server over the API, delete it while it boots; give the API and the status of the deletion."""
    farm.silent_servers = True
    async with serving(hub) as api:
        assert (await api.ask("POST", "/users/user/server"))[0] == 202
        await lease_of(farm)
        status, _ = await api.ask("DELETE", "/users/user/server")
        spawner = hub.users["user"].spawner
        await eventually(lambda: not spawner.pending, "nothing is pending")
        yield api, status


async def test_f9_a_deletion_during_the_start_leaves_nothing(farm: FarmDouble, make_hub: MakeHub) -> None:
    """A server that is deleted while it boots is gone, and its lease is free."""
    hub = await make_hub(AgentFarmSpawner, **PENDING)
    async with deleted_while_booting(farm, hub) as (api, status):
        assert status in (202, 204)
        assert (await api.server())["ready"] is False
        await eventually(lambda: not any(lease.alive for lease in farm.leases.values()), "the lease is free")


@pytest.mark.parametrize("defect", ["in_line", "silent_servers"])
async def test_f9_a_cancelled_start_ends_within_two_tenths_of_a_second(
    farm: FarmDouble, make_hub: MakeHub, defect: str
) -> None:
    """Whatever a start waits for, its place in the line or its server's answer, it ends at once when cancelled."""
    hub = await make_hub(AgentFarmSpawner)
    setattr(farm, defect, 1)
    spawning = asyncio.create_task(hub.users["user"].spawn())
    await eventually(lambda: any(lease.alive for lease in farm.leases.values()), "a lease is asked for")
    spawning.cancel()
    began = time.monotonic()
    await asyncio.wait({spawning}, timeout=5)
    assert time.monotonic() - began < 0.2
    assert spawning.cancelled(), spawning.exception()
    await eventually(lambda: not any(lease.alive for lease in farm.leases.values()), "the lease is free")


async def test_f9_a_phantom_is_ended(farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that counts as ready after its start was cancelled is stopped."""
    monkeypatch.setattr(hub_workarounds, "PHANTOM_SECONDS", 0.5)
    hub = await make_hub(CleansUpInline, **PENDING)
    async with deleted_while_booting(farm, hub) as (api, _):

        async def gone() -> bool:
            return not (await api.server())["ready"]

        await eventually(gone, "the phantom is gone")


async def test_f9_damage_without_it_a_phantom_stays(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JupyterHub alone answers 500 when a cancelled start takes longer than a second, and takes it for ready."""
    monkeypatch.setattr(hub_workarounds, "PHANTOM_SECONDS", 0.5)
    hub = await make_hub(LeavesPhantoms, **PENDING)
    async with deleted_while_booting(farm, hub) as (api, status):
        assert status == 500
        until = time.monotonic() + 1.5
        await eventually(lambda: time.monotonic() > until, "the time of a phantom is over")
        assert (await api.server())["ready"] is True
        assert not hub.proxy.routes


# ---- F10: 201 for what is pending --------------------------------------------------------------------------------


class KeepsTheName(NodeServers):
    """Does not remove what is left of the failed start, which would avoid the trap."""

    async def stop(self, node: str) -> None:
        """Leave it."""


class Trusts(KeepsTheName):
    """Takes 201 for "it runs"."""

    async def start(self, node: str, gpus: int, told: Told) -> str:
        """Ask and believe."""
        status, _ = await self._hub.request("POST", f"/users/{self.hub_user}/servers/bench-{node}")
        assert status == 201, "JupyterHub answers 202 now"
        model = await self._hub.server(self.hub_user, f"bench-{node}")
        assert model is not None
        return str(model["url"])


@asynccontextmanager
async def after_a_failed_start(
    farm: FarmDouble, hub: Any, kind: type[NodeServers]
) -> AsyncIterator[tuple[HubApi, NodeServers]]:
    """Give the API, and a client whose start was refused; the next one will wait in line."""
    async with serving(hub) as api:
        client = HubClient(api.url, api.token)
        no_line: Any = SimpleNamespace(waiting_for=lambda *_: "")
        servers = kind(client, farm=no_line, hub_user="user", poll_interval=0.1)
        try:
            farm.refusals = {"n1": "no"}
            with pytest.raises(HubApiError, match="409"):
                await servers.start("n1", 0, lambda _: None)
            farm.refusals, farm.in_line = None, 1
            hub.tornado_application.settings["slow_spawn_timeout"] = (
                0.3  # nobody needs to wait long for the answer "pending"
            )
            yield api, servers
        finally:
            await client.aclose()


#: Long enough that a refusal is the answer to the request itself.
REFUSED_AT_ONCE = {"JupyterHub": {"tornado_settings": {"slow_spawn_timeout": 10}, "allow_named_servers": True}}


def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the method of each request that our client makes, once it is answered."""
    methods: list[str] = []
    request = HubClient.request

    async def noted(self: HubClient, method: str, *args: Any, **options: Any) -> Any:
        answer = await request(self, method, *args, **options)
        methods.append(method)
        return answer

    monkeypatch.setattr(HubClient, "request", noted)
    return methods


async def test_f10_our_client_waits_until_the_server_is_ready(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start that failed, our own client does not take the next answer for a server that runs."""
    hub = await make_hub(AgentFarmSpawner, **REFUSED_AT_ONCE)
    async with after_a_failed_start(farm, hub, KeepsTheName) as (api, servers):
        methods = answered(monkeypatch)
        starting = asyncio.create_task(servers.start("n1", 0, lambda _: None))
        lease = await eventually(lambda: next(iter(farm.leases), None), "it waits in line")
        await eventually(
            lambda: "POST" in methods and methods[-3:] == ["GET"] * 3, "it asks whether the server is ready"
        )
        assert not starting.done()
        farm.change(lease, state="granted", position=None, node="n1", why=Explanation(0, None))
        assert "bench-n1" in await starting
        assert (await api.server("bench-n1"))["ready"] is True


async def test_f10_damage_a_client_that_trusts_201_gets_a_server_that_is_not_there(
    farm: FarmDouble, make_hub: MakeHub
) -> None:
    """JupyterHub answers 201 for a server whose start is pending."""
    hub = await make_hub(AgentFarmSpawner, **REFUSED_AT_ONCE)
    async with after_a_failed_start(farm, hub, Trusts) as (api, servers):
        await servers.start("n1", 0, lambda _: None)
        model = await api.server("bench-n1")
        assert (model["ready"], model["pending"]) == (False, "spawn")
        await api.ask("DELETE", "/users/user/servers/bench-n1")


# ---- F11: a server that accepts and stays silent -----------------------------------------------------------------


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Give the URL of something that accepts connections and never answers."""
    going = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await going.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        going.set()
        server.close()
        await server.wait_closed()


async def given_up_within(seconds: float) -> bool:
    """Return whether the Hub gives up a silent server within so many seconds, with a limit of one second."""
    async with silent_server() as url:
        waiting = asyncio.create_task(wait_for_http_server(url, timeout=1))
        await asyncio.wait({waiting}, timeout=seconds)
        done = waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return done


async def test_f11_a_silent_server_is_given_up(
    make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """With what `configure` sets, the Hub gives up a server that accepts and stays silent."""
    monkeypatch.setattr(importlib.import_module("jupyterhub_agentfarm.configure"), "_HUB_REQUEST_SECONDS", 1)
    c = Config()
    configure(c, services=("agentfarm",), runtime_dir=tmp_path / "run")
    await make_hub(AgentFarmSpawner, JupyterHubHTTPClient=dict(c.JupyterHubHTTPClient))
    assert await given_up_within(5)


async def test_f11_damage_without_it_a_silent_server_holds_the_hub(make_hub: MakeHub) -> None:
    """JupyterHub alone waits for a silent server far beyond the limit that it was given."""
    await make_hub(AgentFarmSpawner)
    assert not await given_up_within(3)


# ---- F12: what the progress page says of a failure ---------------------------------------------------------------


async def failure_shown(farm: FarmDouble, hub: Any) -> dict[str, Any]:
    """Return the last event of the progress of a start that is refused."""
    farm.refusals = {"n1": "needs 9 GPUs, has <1>"}
    async with serving(hub) as api:
        status, _ = await api.ask("POST", "/users/user/server")
        assert status == 409
        return (await api.progress())[-1]


async def test_f12_the_progress_page_shows_the_sentence_for_the_user(farm: FarmDouble, make_hub: MakeHub) -> None:
    """A failure is shown as its sentence, with markup escaped, and without the exception's representation."""
    event = await failure_shown(farm, await make_hub(AgentFarmSpawner))
    assert event["failed"] is True
    assert event["message"].startswith("Spawn failed: ")
    assert "SpawnException" not in event["message"]
    assert "has &lt;1&gt;" in event["html_message"]


async def test_f12_damage_without_it_the_exception_is_shown(
    farm: FarmDouble, make_hub: MakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JupyterHub alone shows the exception's representation and drops its HTML."""
    monkeypatch.setattr(failure, "show_to_user", lambda *_: None)
    event = await failure_shown(farm, await make_hub(AgentFarmSpawner))
    assert "SpawnException(reason=refused)" in event["message"]
    assert "html_message" not in event


def test_f12_the_message_is_not_what_the_log_gets() -> None:
    """What is shown is set by us, not taken from the exception's own text."""
    error: Any = failure.start_failure("for <you>", "refused", 409)
    assert isinstance(error, web.HTTPError)
    assert (error.jupyterhub_message, error.jupyterhub_html_message) == ("for <you>", "for &lt;you&gt;")
