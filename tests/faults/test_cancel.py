"""#19: a DELETE, or the end of start_timeout, at every point of a spawn; a second POST; one right after a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest_asyncio
from faults import faults
from faults.farm import FaultFarm, fault_farm
from faults.points import ORDER
from waiting import eventually

#: A start is cancelled before it is finished: behind it there is nothing left to cancel.
CANCELLABLE = tuple(point for point in ORDER if not point.startswith("hub.route"))
#: Behind these `start` awaits nothing any more: it returns, and the server is stopped like one that runs.
LATE = ("hub.server_answering", "hub.started")
#: A start that is held and ignores this many seconds has ended by its start_timeout.
START_TIMEOUT_SECONDS = 2
HANDLED_SECONDS = 0.2
#: Between two DELETEs, or two starts with a limit, so that what is measured is not how long they wait for each other.
APART_SECONDS = 0.15


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run a farm of four nodes."""
    async with fault_farm() as running:
        yield running


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def mended(farm: FaultFarm) -> AsyncIterator[None]:
    """Undo what a test that failed has left behind, so that it fails alone."""
    yield
    await farm.mend()


async def held_everywhere(farm: FaultFarm, prefix: str, points: tuple[str, ...]) -> dict[str, str]:
    """Have one user's spawn wait at each point; return the points by user."""
    owners = {f"tiny{prefix}{number}": point for number, point in enumerate(points)}
    await farm.add_users(*owners)
    for owner, point in owners.items():
        farm.points.arm(point, owner)
    await asyncio.gather(*(farm.hub.request_server(owner, {"gpus": 0}) for owner in owners))
    await asyncio.gather(*(farm.points.reached(point, owner) for owner, point in owners.items()))
    return owners


async def requested(farm: FaultFarm, owner: str, after_seconds: float) -> None:
    """Ask for a server after a while."""
    await asyncio.sleep(after_seconds)
    await farm.hub.request_server(owner)


async def deleted(farm: FaultFarm, owner: str, after_seconds: float) -> int:
    """Ask for the end of a server after a while; return the status."""
    await asyncio.sleep(after_seconds)
    return (await farm.hub.api("DELETE", f"/users/{owner}/server"))[0]


async def phantom(farm: FaultFarm, owner: str) -> bool:
    """Whether the Hub says that a server is ready which nobody routes."""
    model = await farm.hub.model(owner)
    return bool(model and model["ready"]) and await farm.routed(owner) is None


async def test_a_delete_at_every_point(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """The DELETE is never a 500, the start ends at once, no phantom is left, and no orphan; in line as well."""
    owners = await held_everywhere(farm, "del", CANCELLABLE)
    # In line: all GPUs of a node are asked for while one of them is taken.
    await farm.add_users("tinyholds", "tinywaits")
    await farm.hub.start_server("tinyholds", {"node": "gpu01", "gpus": 1})
    await farm.hub.request_server("tinywaits", {"node": "gpu01", "gpus": 4})
    names = [*owners, "tinywaits"]

    answers = await asyncio.gather(*(deleted(farm, name, number * APART_SECONDS) for number, name in enumerate(names)))
    farm.points.go()
    begun = time.monotonic()
    settled = await farm.settled(*names)
    seconds = time.monotonic() - begun
    phantoms = [name for name in names if await phantom(farm, name)]
    handled = {name: farm.points.cancelled(name) for name in names}
    slowest = max(found[1] for found in handled.values() if found)
    statuses = answers

    ok = [
        figure(19, "points of a DELETE", len(names), "", 12, "at least"),
        figure(19, "DELETE answered with 500", sum(status >= 500 for status in statuses), "", 0, "exactly"),
        figure(19, "DELETE: CancelledError handled, slowest", slowest, "s", HANDLED_SECONDS),
        figure(19, "DELETE: phantom ready servers", len(phantoms), "", 0, "exactly"),
        figure(19, "DELETE: left running or orphaned", sum(x != "nothing" for x in settled.values()), "", 0, "exactly"),
        figure(19, "DELETE: nothing is left after", seconds, "s", 30),
    ]
    assert all(ok), (statuses, handled, phantoms, settled)
    assert not [name for name, found in handled.items() if found is None and owners.get(name) not in LATE], handled
    await farm.empty()


async def test_the_start_timeout_at_every_point(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """A start that is held beyond its start_timeout fails at once, and leaves nothing."""
    points = [point for point in CANCELLABLE if point not in LATE]
    owners = {f"tinyend{number}": point for number, point in enumerate(points)}
    await farm.add_users(*owners)
    for owner, point in owners.items():
        farm.points.start_timeout(owner, START_TIMEOUT_SECONDS)
        farm.points.arm(point, owner)
    await asyncio.gather(*(requested(farm, owner, number * APART_SECONDS) for number, owner in enumerate(owners)))
    await asyncio.gather(*(farm.points.reached(point, owner) for owner, point in owners.items()))
    await asyncio.gather(*(failed(farm, owner) for owner in owners))
    farm.points.go()
    settled = await farm.settled(*owners)
    handled = {owner: farm.points.cancelled(owner) for owner in owners}
    slowest = max(found[1] for found in handled.values() if found)
    ok = [
        figure(19, "start_timeout handled, slowest", slowest, "s", HANDLED_SECONDS),
        figure(19, "start_timeout: left", sum(found != "nothing" for found in settled.values()), "", 0, "exactly"),
    ]
    assert all(ok), (handled, settled)
    for owner in owners:
        farm.points.start_timeout(owner, None)
    again = list(owners)[:3]
    await asyncio.gather(*(farm.hub.start_server(owner) for owner in again))
    assert set((await farm.settled(*again)).values()) == {"running"}
    await farm.empty()


async def failed(farm: FaultFarm, owner: str, timeout: float = 30) -> None:
    """Wait until the user's start has failed."""
    await eventually(lambda: farm.points.cancelled(owner), f"{owner}'s start has ended", timeout, 0.05)


async def test_a_second_post_makes_no_second_server(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """Two POSTs at once, and one while the start is held: one lease, one process."""
    await farm.add_users("tinytwice")
    farm.points.arm("controller.launch_sending", "tinytwice")
    first = await asyncio.gather(*(farm.hub.api("POST", "/users/tinytwice/server") for _ in range(2)))
    await farm.points.reached("controller.launch_sending", "tinytwice")
    second, _ = await farm.hub.api("POST", "/users/tinytwice/server")
    farm.points.go()
    await farm.hub.ready("tinytwice")
    count = len([found for found in farm.servers() if found.owner == "tinytwice"])
    statuses = sorted([status for status, _ in first] + [second])
    assert figure(19, "servers after three POSTs", count, "", 1, "exactly"), statuses
    assert all(status < 500 for status in statuses), statuses
    await farm.empty()


async def test_a_post_right_after_a_failure(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """Whoever asks again the moment a start has failed gets a start of its own, not the last one's failure."""
    await farm.add_users("tinyagain")
    await asyncio.to_thread(faults.missing_interpreter, farm.node("gpu02"))
    status, body = await farm.hub.api("POST", "/users/tinyagain/server", {"node": "gpu02"})
    begun = time.monotonic()
    if status in (201, 202):
        await eventually_failed(farm, "tinyagain")
    await asyncio.to_thread(faults.put_interpreter, farm.node("gpu02"))
    again, body = await farm.hub.api("POST", "/users/tinyagain/server", {"node": "gpu02"})
    assert again in (201, 202), body
    await farm.hub.ready("tinyagain")
    seconds = time.monotonic() - begun
    assert figure(19, "ready after a failure and a new POST", seconds, "s", 30)
    assert await farm.settled("tinyagain") == {"tinyagain": "running"}
    await farm.empty()


async def eventually_failed(farm: FaultFarm, owner: str) -> None:
    """Wait until nothing is pending any more, as an API client must that was told 201 or 202."""

    async def over() -> bool:
        model = await farm.hub.model(owner)
        return model is None or not model["pending"]

    await eventually(over, f"{owner}'s start is over", 30, 0.02)
