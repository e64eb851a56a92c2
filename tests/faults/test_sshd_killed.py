"""#7: sshd of a node is killed under running servers and comes back later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest_asyncio
from faults import faults
from faults.farm import FaultFarm, fault_farm
from waiting import eventually

#: Time without sshd, in seconds. The published test has five minutes; what they add, longer pauses between attempts to
#: connect, has reached its longest by then.
AWAY_SECONDS = 45


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run a farm of two nodes that are given up after five minutes."""
    async with fault_farm(2, settings={"Inventory": {"down_after": 300}}) as running:
        yield running


async def test_sshd_killed(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """Servers stay ready and usable, new ones go elsewhere, and the control channel is back soon after sshd."""
    node = farm.node("gpu01")
    others = [f"tinyelse{number}" for number in range(4)]
    await farm.add_users("ada", *others)
    await farm.hub.start_server("ada", {"node": "gpu01"})
    log_length = len(farm.hub.log_text())
    begun = time.time()
    await asyncio.to_thread(faults.kill_sshd, node)
    await farm.status_is("unreachable", "gpu01")
    noticed = float((await farm.hub.farm.node("gpu01"))["since_at"]) - begun
    await asyncio.gather(*(farm.hub.start_server(owner) for owner in others))
    there = sum(lease.node == "gpu01" and lease.owner != "ada" for lease in await farm.hub.farm.leases())

    asked = failed = 0

    async def away_long_enough() -> bool:
        nonlocal asked, failed
        model = await farm.hub.model("ada")
        asked += 1
        failed += (await farm.get("ada", "api"))[0] != 200 or not model or not model["ready"]
        return time.time() - begun > AWAY_SECONDS

    await eventually(away_long_enough, "sshd was away for long enough", AWAY_SECONDS + 20, 0.5)
    assert await farm.hub.run_cell("ada", "print(6 * 7)") == "42\n"
    await asyncio.to_thread(faults.start_sshd, node)
    back = await farm.status_is("ready", "gpu01", timeout=60)
    raised = farm.hub.log_text()[log_length:].count("Traceback")
    note = f"sshd away for {AWAY_SECONDS} s, not 5 min"
    ok = [
        figure(7, "marked unreachable after", noticed, "s", 10),
        figure(7, f"{asked} requests to the server and its model that failed", failed, "", 0, "exactly", note),
        figure(7, "exceptions in the Hub's log", raised, "", 0, "exactly"),
        figure(7, "new servers put onto the node", there, "", 0, "exactly"),
        figure(7, "control channel back after sshd in", back, "s", 5, note=note),
    ]
    assert all(ok)
    await farm.empty()
