"""#5 and #6: the Hub is killed while spawns are at every point, and with a hundred servers running."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
import pytest_asyncio
from faults import faults
from faults.farm import FaultFarm, fault_farm
from faults.points import ORDER
from waiting import eventually

MANY = 100
#: Seconds until all is settled after a SIGKILL of a process that the acceptance test does not name.
LIMITS = {"controller": (30, ""), "noded": (30, "")}
#: Seconds for which one node of four cannot be reached while the Hub comes back.
UNREACHABLE_SECONDS = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run a farm of four nodes that are given up after two minutes."""
    async with fault_farm(settings={"Inventory": {"down_after": 120}}) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def mended(farm: FaultFarm) -> AsyncIterator[None]:
    """Undo what a test that failed has left behind, so that it fails alone."""
    yield
    await farm.mend()


async def test_a_hub_killed_at_every_point(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """One SIGKILL meets 21 spawns, each at another point, one of them in line; each is adopted or undone, never two."""
    owners = {f"tinykill{number}": point for number, point in enumerate(ORDER)}
    # One real server among them, where its process boots while the Hub is away.
    owners["ada"] = "hub.state_committed"
    await farm.add_users(*owners, "tinyholds", "tinywaits")
    await farm.hub.start_server("tinyholds", {"node": "gpu01", "gpus": 1})
    await farm.hub.request_server("tinywaits", {"node": "gpu01", "gpus": 4})
    for owner, point in owners.items():
        farm.points.arm(point, owner)
    await asyncio.gather(*(farm.hub.request_server(owner) for owner in owners))
    await asyncio.gather(*(farm.points.reached(point, owner) for owner, point in owners.items()))
    waiting = await farm.lease_of("tinywaits")
    assert waiting is not None
    assert waiting.state == "waiting"

    await farm.hub.kill()
    farm.points.go()  # the controller and noded do not wait for anybody
    begun = time.monotonic()
    await farm.hub.start()
    doubles: set[str] = set()
    watching = asyncio.create_task(watch_for_doubles(farm, doubles))
    try:
        settled = await farm.settled(*owners, "tinywaits", timeout=60)
    finally:
        watching.cancel()
    seconds = time.monotonic() - begun
    counted = Counter(settled.values())
    ok = [
        figure(5, "points at which the Hub was killed", len(set(owners.values())) + 1, "", 12, "at least"),
        figure(5, "adopted or cleaned up without an orphan after", seconds, "s", 30),
        figure(5, "spawns adopted or cleaned up", len(settled), "", len(owners) + 1, "exactly"),
        figure(5, "spawns with two servers", len(doubles), "", 0, "exactly"),
    ]
    # What the Hub had committed with a running server behind it must be adopted, not cleaned up.
    late = {owner for owner, point in owners.items() if ORDER.index(point) >= ORDER.index("hub.state_committed")}
    adopted = {owner for owner, found in settled.items() if found == "running"}
    ok.append(figure(5, "launched and known to the Hub, but not adopted", len(late - adopted), "", 0, "exactly"))
    assert all(ok), (settled, doubles, counted, {owner: owners[owner] for owner in late - adopted})
    for owner in set(owners) - adopted:  # no phantom keeps its owner from a new server
        await farm.hub.request_server(owner)
    assert set((await farm.settled(*owners)).values()) == {"running"}
    await farm.empty()


async def watch_for_doubles(farm: FaultFarm, doubles: set[str]) -> None:
    """Note every owner who has two servers at one moment."""
    while True:
        counts = Counter(found.owner for found in await asyncio.to_thread(farm.servers))
        doubles.update(owner for owner, count in counts.items() if count > 1)
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("process", ["controller", "noded"])
async def test_controller_and_noded_killed_at_their_points(
    farm: FaultFarm, figure: Callable[..., bool], process: str
) -> None:
    """One SIGKILL of the controller, or of noded, meets a spawn at each of its points; it costs no more than those."""
    await farm.ready()
    points = [point for point in ORDER if point.startswith(process)]
    owners = {f"tiny{process}{number}": point for number, point in enumerate(points)}
    *held, last = owners
    await farm.add_users(*owners)
    for owner in held:
        farm.points.arm(owners[owner], owner)
    asking = [asyncio.create_task(asked(farm, owner)) for owner in held]
    await asyncio.gather(*(farm.points.reached(owners[owner], owner) for owner in held))
    farm.points.arm(owners[last], last, "kill")
    asking.append(asyncio.create_task(asked(farm, last)))
    await farm.points.reached(owners[last], last)
    begun = time.monotonic()
    farm.points.go()
    settled = await farm.settled(*owners, timeout=90)
    seconds = time.monotonic() - begun
    statuses = await asyncio.gather(*asking)
    await farm.ready()
    limit, note = LIMITS[process]
    assert figure(5, f"{process} killed at {len(points)} points: settled after", seconds, "s", limit, note=note), (
        settled
    )
    assert all(status in (201, 202, 500, 502, 503) for status in statuses), statuses
    await asyncio.gather(*(farm.hub.request_server(owner) for owner, found in settled.items() if found == "nothing"))
    assert set((await farm.settled(*owners)).values()) == {"running"}
    await farm.empty()


async def asked(farm: FaultFarm, owner: str) -> int:
    """Ask for a server on gpu02; return the status."""
    return (await farm.hub.api("POST", f"/users/{owner}/server", {"node": "gpu02"}))[0]


async def test_a_hundred_servers_outlive_the_hub(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """All are kept, no WebSocket is cut, nothing is stopped; one node cannot be reached for a minute meanwhile."""
    owners = [f"tinymany{number:03}" for number in range(MANY)]
    await farm.add_users(*owners)
    for first in range(0, MANY, 20):
        await asyncio.gather(*(farm.hub.start_server(owner) for owner in owners[first : first + 20]))
    before = {found.lease: found.pid for found in farm.servers()}
    leases = {lease.id: lease for lease in await farm.hub.farm.leases()}
    assert len(before) == len(leases) == MANY
    lost = farm.node("gpu04")
    away = {lease.owner for lease in leases.values() if lease.node == lost.name}
    log_length = len(farm.hub.log_text())

    async with AsyncExitStack() as stack:
        sockets = {}
        for owner in owners[:20]:
            url = f"{farm.hub.url}/user/{owner}/echo"
            sockets[owner] = await stack.enter_async_context(farm.hub.http.ws_connect(url, headers=farm.hub.headers()))
        await asyncio.to_thread(faults.drop, lost)
        cut_at = time.monotonic()
        restarted = await farm.hub.restart()
        checked = {owner for owner in away if ((await farm.hub.model(owner)) or {}).get("pending") == "check"}
        here = [owner for owner in owners if owner not in away]
        await asyncio.gather(*(farm.hub.ready(owner, timeout=60) for owner in here))
        reached = [owner for owner in sockets if owner not in away]
        cut = [owner for owner in reached if not await echoes(sockets[owner])]
        await eventually(lambda: time.monotonic() - cut_at > UNREACHABLE_SECONDS, "the minute is over", 70, 0.5)
        await asyncio.to_thread(faults.undrop, lost)
        await farm.ready(timeout=40)
        await asyncio.gather(*(farm.hub.ready(owner, timeout=60) for owner in owners))
        silent = [owner for owner in sockets if owner in away]
        lost_sockets = [owner for owner in silent if not await echoes(sockets[owner])]

    after = {found.lease: found.pid for found in farm.servers()}
    kept = sum(after.get(lease) == pid for lease, pid in before.items())
    usable = sum(status == 200 for status, _ in await asyncio.gather(*(farm.get(owner, "who") for owner in owners)))
    released = farm.hub.log_text()[log_length:].count("released node=")
    ok = [
        figure(6, "servers kept", kept, "", MANY, "exactly"),
        figure(6, "servers usable through the proxy afterwards", usable, "", MANY, "exactly"),
        figure(6, "WebSockets cut by the Hub's end", len(cut), "", 0, "exactly"),
        figure(6, "WebSockets to the node that was away, cut", len(lost_sockets), "", 0, "exactly"),
        figure(6, "servers of the node that was away shown as `check`", len(checked), "", len(away), "exactly"),
        figure(6, "stops sent", released, "", 0, "exactly"),
        figure(6, "Hub back, with 100 servers and one node of four away, after", restarted, "s", 30),
    ]
    assert all(ok), (kept, usable, cut, released, len(checked), len(away))
    await farm.empty()


async def echoes(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """Whether a WebSocket that was opened before the Hub's end goes on."""
    try:
        async with asyncio.timeout(10):
            await socket.send_str("still there?")
            return (await socket.receive_str()) == "still there?"
    except (TimeoutError, TypeError, ConnectionError, aiohttp.ClientError):
        return False
