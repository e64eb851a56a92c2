"""JupyterHub's traps F1, F2 and F4, with a real Hub that is killed while servers run and while servers start.

One Hub, killed and started again once. Its spawner is ours for most users; for those whose name says so it lacks what
it does about one trap, and the damage is expected (see `tests/hub_spawners.py`). The other traps are in
`unit/spawner/test_traps.py` and `test_start_traps.py`.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
import pytest_asyncio
from configured_hub import TESTS, configured
from hub_process import HubProcess, hub_process
from ssh_node import ssh_node
from waiting import eventually

from jupyterhub_agentfarm.models import Lease

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

RUNNING = ("ada", "no-revocation-ada")
STARTING = ("bob", "no-state-bob", "no-url-bob")
CONFIG = """
c.JupyterHub.spawner_class = "hub_spawners.ByUser"
c.Spawner.http_timeout = 5
"""


@dataclass
class Story:
    """What was seen."""

    #: The servers' API tokens and process ids, by user.
    tokens: dict[str, str] = field(default_factory=dict)
    pids: dict[str, int] = field(default_factory=dict)
    #: What the killed Hub's database says of each user's server.
    states: dict[str, str | None] = field(default_factory=dict)
    #: Users whose server was ready after the restart.
    ready: set[str] = field(default_factory=set)
    #: Status of a request with the server's token, before and after the server's stop.
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story() -> AsyncIterator[Story]:
    """Kill a Hub among running and starting servers, start it again, stop everything."""
    async with ssh_node("n1", "127.0.0.11", sys.executable) as node:
        kind = configured(CONFIG)
        async with hub_process([node.spec], kind=kind, PYTHONPATH=str(TESTS)) as hub:
            yield await told(hub)


async def told(hub: HubProcess) -> Story:
    """Go through the story."""
    result = Story()
    await eventually(lambda: eligible(hub), "the node is eligible", timeout=60, interval=0.1)
    for user in (*RUNNING, *STARTING):
        await hub.add_user(user)
    for user in RUNNING:
        await hub.start_server(user)
        note(result, await launched(hub, user))
    for user in STARTING:
        await hub.request_server(user)
        lease = await launched(hub, user)
        note(result, lease)
        os.kill(result.pids[user], signal.SIGSTOP)  # it must not be ready before the Hub is killed
    await hub.kill()
    result.states = states(hub)
    await hub.start()
    for pid in result.pids.values():
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)
    await settled(hub)
    result.ready = {user for user in (*RUNNING, *STARTING) if await is_ready(hub, user)}
    for user in result.ready:
        result.before[user] = await status_of(hub, result.tokens[user])
        await hub.stop_server(user)
    for user, token in result.tokens.items():
        result.after[user] = await status_of(hub, token)
    return result


async def eligible(hub: HubProcess) -> bool:
    """Whether the node takes servers."""
    return all(node["eligible"] for node in await hub.farm.nodes())


async def launched(hub: HubProcess, user: str) -> Lease:
    """Return the user's lease once its server has a process."""

    async def found() -> Lease | None:
        leases = [lease for lease in await hub.farm.leases() if lease.owner == user and lease.url and lease.server]
        return leases[0] if leases else None

    lease: Lease = await eventually(found, f"{user}'s server is launched", timeout=60)
    return lease


def note(story: Story, lease: Lease) -> None:
    """Write down the token that is in the server's environment."""
    assert lease.server is not None
    story.pids[lease.owner] = lease.server.pid
    story.tokens[lease.owner] = psutil.Process(lease.server.pid).environ()["JUPYTERHUB_API_TOKEN"]


def states(hub: HubProcess) -> dict[str, str | None]:
    """Return the state of each user's server in the Hub's database."""
    query = "SELECT users.name, spawners.state FROM spawners JOIN users ON users.id = spawners.user_id"
    connection = sqlite3.connect(f"file:{hub.directory / 'jupyterhub.sqlite'}?mode=ro", uri=True)
    try:
        return dict(connection.execute(query).fetchall())
    finally:
        connection.close()


async def settled(hub: HubProcess) -> None:
    """Wait until the restarted Hub has checked every server."""

    async def nothing_pending() -> bool:
        return not any([(await model(hub, user)).get("pending") for user in (*RUNNING, *STARTING)])

    await eventually(nothing_pending, "the Hub has checked every server", timeout=90, interval=0.2)


async def model(hub: HubProcess, user: str) -> dict[str, Any]:
    """Return the model of the user's server, an empty one where there is none."""
    return await hub.model(user) or {}


async def is_ready(hub: HubProcess, user: str) -> bool:
    """Whether the user's server is ready, and is the one that was there before."""
    return bool((await model(hub, user)).get("ready"))


async def status_of(hub: HubProcess, token: str) -> int:
    """Return the status of a question to the Hub with a server's token."""
    status, _ = await hub.api("GET", "/user", token=token)
    return status


async def test_f1_a_server_that_was_starting_is_taken_up(story: Story) -> None:
    """The lease is in the database when the Hub is killed in the middle of the start, and the server is found by it."""
    assert '"lease"' in (story.states["bob"] or "")
    assert "bob" in story.ready


async def test_f1_damage_without_it_the_server_is_lost(story: Story) -> None:
    """JupyterHub alone has nothing of a server that was starting, and forgets it."""
    assert '"lease"' not in (story.states["no-state-bob"] or "")
    assert "no-state-bob" not in story.ready


async def test_f1_a_lost_server_is_ended_all_the_same(story: Story) -> None:
    """A server that the Hub forgot is found by the lease that nobody holds, and stopped."""

    def ended() -> bool:
        return not psutil.pid_exists(story.pids["no-state-bob"])

    await eventually(ended, "the orphan is stopped", timeout=30)


async def test_f2_damage_without_it_the_server_is_looked_for_elsewhere(story: Story) -> None:
    """JupyterHub alone looks for a server that was starting at a port that it made up, and stops it."""
    assert '"lease"' in (story.states["no-url-bob"] or "")
    assert "no-url-bob" not in story.ready


async def test_f4_tokens_end_with_their_servers_after_a_restart(story: Story) -> None:
    """The tokens of a server that ran and of one that was starting are good until it is stopped, and then worthless."""
    assert {user: story.before[user] for user in ("ada", "bob")} == {"ada": 200, "bob": 200}
    assert {user: story.after[user] for user in ("ada", "bob")} == {"ada": 403, "bob": 403}


async def test_f4_damage_without_it_the_token_stays_good(story: Story) -> None:
    """JupyterHub alone leaves the token of a server that it stops after a restart."""
    assert (story.before["no-revocation-ada"], story.after["no-revocation-ada"]) == (200, 200)


async def test_f4_a_server_that_the_hub_gave_up_at_its_start_has_no_token(story: Story) -> None:
    """The token of a server that a restarted Hub did not find is revoked as well."""
    assert story.after["no-url-bob"] == 403
