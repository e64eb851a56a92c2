"""#8 to #10: a frozen node, one without power, one behind a partition. #7 is test_sshd_killed.py."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest_asyncio
from faults import faults
from faults.farm import FaultFarm, fault_farm
from waiting import eventually

DOWN_AFTER = 5.0
BOOT_TIMEOUT = 20
LOOP_LATE_MS = 250
AGAIN = {"restart": "on-node-failure"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run a farm of four nodes that are given up five seconds after they cannot be reached."""
    settings: dict[str, dict[str, Any]] = {
        "Inventory": {"down_after": DOWN_AFTER},
        "AgentFarmSpawner": {"boot_timeout": BOOT_TIMEOUT},
    }
    async with fault_farm(settings=settings) as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def mended(farm: FaultFarm) -> AsyncIterator[None]:
    """Undo what a test that failed has left behind, so that it fails alone."""
    yield
    await farm.mend()


async def reached_at(farm: FaultFarm, name: str, status: str, timeout: float = 30) -> float:
    """Return when (on this machine's clock) the controller first called the node so."""
    await farm.status_is(status, name, timeout=timeout)
    return float((await farm.hub.farm.node(name))["since_at"])


async def route_gone_at(farm: FaultFarm, owner: str, timeout: float = 40) -> float:
    """Return when the proxy no longer had a route to where the server of `owner` is now."""
    target = await farm.routed(owner)

    async def gone() -> bool:
        return await farm.routed(owner) != target

    await eventually(gone, f"{owner}'s route is gone", timeout, 0.01)
    return time.time()


async def told(farm: FaultFarm, owner: str) -> str:
    """Return what the Hub keeps for the user about the server that ended."""
    _, body = await farm.hub.api("GET", f"/users/{owner}?include_stopped_servers=1")
    return json.dumps((body["servers"].get("") or {}).get("state"))


async def test_a_frozen_node(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#8: noticed, given up at the configured time, and meanwhile the Hub's loop goes on and no start hangs."""
    frozen, dropped = farm.node("gpu02"), farm.node("gpu03")
    await farm.add_users("tinyfrozen", "tinydropped", "tinylate")
    await farm.hub.start_server("tinyfrozen", {"node": "gpu02"})
    await farm.hub.start_server("tinydropped", {"node": "gpu03"})
    begun = time.time()
    await asyncio.to_thread(faults.freeze, frozen)
    await asyncio.to_thread(faults.drop, dropped)
    asked = time.monotonic()
    status, _ = await farm.hub.api("POST", "/users/tinylate/server", {"node": "gpu02"})  # nobody knows it yet
    over = asyncio.create_task(start_over(farm, "tinylate"))
    ok = []
    for name, how in (("gpu02", "SIGSTOP"), ("gpu03", "packets dropped")):
        noticed = await reached_at(farm, name, "unreachable")
        ok.append(figure(8, f"{how}: unreachable after", noticed - begun, "s", 10))
        down = await reached_at(farm, name, "down")
        late = abs(down - noticed - DOWN_AFTER)
        ok.append(figure(8, f"{how}: declared down, off the configured time by", late, "s", 2))
    await over
    ok.append(figure(8, "a start onto the frozen node is over after", time.monotonic() - asked, "s", BOOT_TIMEOUT + 10))
    lags = farm.points.loop_lags(begun)
    note = "published 100 ms; Hub, proxy, controller and four nodes share this machine's cores here"
    ok.append(figure(8, "the Hub's loop late, longest", max(lags, default=0.0) * 1000, "ms", LOOP_LATE_MS, note=note))
    await asyncio.to_thread(faults.thaw, frozen)
    await asyncio.to_thread(faults.undrop, dropped)
    await farm.ready()
    left = await farm.settled("tinyfrozen", "tinydropped", "tinylate")
    ok.append(figure(8, "orphans after thaw", sum(found != "nothing" for found in left.values()), "", 0, "exactly"))
    assert all(ok), (status, left, lags)
    await farm.empty()


async def start_over(farm: FaultFarm, owner: str) -> None:
    """Wait until the user's start is pending no more."""

    async def over() -> bool:
        model = await farm.hub.model(owner)
        return model is None or model["pending"] != "spawn"

    await eventually(over, f"{owner}'s start is over", 90, 0.1)


async def test_a_node_without_power(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#9: its servers are given up in time, with the reason; who wants gets another; old PIDs are left alone."""
    node = farm.node("gpu01")
    await farm.add_users("tinydead", "tinyagain")
    await farm.hub.start_server("tinydead", {"node": "gpu01"})
    await on_node(farm, "tinyagain", "gpu01")
    pids = {found.owner: faults.inner_pid(found.pid) for found in farm.servers()}
    begun = time.time()
    await asyncio.to_thread(faults.power_off, node)
    routes = asyncio.gather(*(route_gone_at(farm, owner) for owner in pids))
    down = await reached_at(farm, "gpu01", "down")
    gone = await routes
    moved = await moved_to(farm, "tinyagain", "gpu01")
    ready_after = time.time() - begun
    ok = [
        figure(9, "declared dead after", down - begun, "s", 10 + DOWN_AFTER, note="detection 10 s + down_after 5 s"),
        figure(9, "routes removed after that", max(gone) - down, "s", 1),
        figure(9, "user told why", "gpu01 is down" in await told(farm, "tinydead"), "", 1, "exactly"),
        figure(9, "started again on another node", moved != "gpu01", "", 1, "exactly"),
        figure(9, "started again, ready after", ready_after, "s", 10 + DOWN_AFTER + 10),
    ]
    await asyncio.to_thread(faults.power_on, node)
    strangers = [
        await asyncio.to_thread(faults.reuse_pid, node, pid, uid)
        for pid, uid in zip(pids.values(), (0, 65534), strict=True)
    ]
    await farm.ready()
    await farm.hub.start_server("tinydead", {"node": "gpu01"})  # the node is used again, its old records are read
    alive = sum(psutil.pid_exists(pid) for pid in strangers)
    ok.append(figure(9, "processes with the old PIDs that were signalled", len(strangers) - alive, "", 0, "exactly"))
    assert all(ok), (await told(farm, "tinydead"), moved, gone, down)
    await farm.empty()
    assert all(psutil.pid_exists(pid) for pid in strangers)
    for pid in strangers:
        os.kill(pid, 9)


async def on_node(farm: FaultFarm, owner: str, name: str) -> None:
    """Start a server that is to be started again elsewhere, on this node although it does not ask for it."""
    others = [node.name for node in farm.nodes if node.name != name]
    await asyncio.gather(*(farm.hub.farm.cordon(other, "test") for other in others))
    await farm.hub.start_server(owner, AGAIN)
    await asyncio.gather(*(farm.hub.farm.uncordon(other) for other in others))
    await farm.ready()


async def moved_to(farm: FaultFarm, owner: str, before: str, timeout: float = 60) -> str:
    """Return the node on which the server is ready that was on `before`."""

    async def moved() -> str | None:
        lease, model = await farm.lease_of(owner), await farm.hub.model(owner)
        elsewhere = lease is not None and lease.state == "running" and lease.node != before
        return lease.node if lease is not None and elsewhere and model is not None and model["ready"] else None

    return str(await eventually(moved, f"{owner}'s server is started again elsewhere", timeout, 0.05))


async def test_a_partition_that_heals(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#10: the old copy ends soon after the heal, its token was revoked before, and only the new one is routed."""
    node = farm.node("gpu04")
    await farm.add_users("tinysplit")
    await on_node(farm, "tinysplit", "gpu04")
    (old,) = farm.servers()
    token = psutil.Process(old.pid).environ()["JUPYTERHUB_API_TOKEN"]
    assert (await farm.hub.api("GET", "/user", token=token))[0] == 200
    await asyncio.to_thread(faults.partition, node)
    moved = await moved_to(farm, "tinysplit", "gpu04")
    assert psutil.pid_exists(old.pid), "the old copy goes on behind the partition"
    revoked = (await farm.hub.api("GET", "/user", token=token))[0]
    targets: set[str | None] = set()
    routed_elsewhere = asyncio.create_task(watch_route(farm, "tinysplit", targets))
    await asyncio.to_thread(faults.heal, node)
    begun = time.monotonic()
    await eventually(lambda: not psutil.pid_exists(old.pid), "the old copy is fenced", 60, 0.02)
    fenced = time.monotonic() - begun
    await farm.ready()
    routed_elsewhere.cancel()
    new = [found for found in farm.servers() if found.owner == "tinysplit"]
    ok = [
        figure(10, "old copy fenced after the heal in", fenced, "s", 5),
        figure(10, "old copy's token, status", revoked, "", 403, "exactly"),
        figure(
            10,
            "routes to the old copy after it was replaced",
            sum(node.address in str(x) for x in targets),
            "",
            0,
            "exactly",
        ),
        figure(10, "copies left", len(new), "", 1, "exactly"),
    ]
    assert all(ok), (moved, targets, new)
    assert new[0].node == moved
    await farm.empty()


async def watch_route(farm: FaultFarm, owner: str, targets: set[str | None]) -> None:
    """Note wherever the proxy sends the user's requests."""
    while True:
        targets.add(await farm.routed(owner))
        await asyncio.sleep(0.02)
