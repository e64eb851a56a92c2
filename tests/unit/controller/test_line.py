"""The waiting line as those in it see it: positions at once, and a way out at any moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from controllers import Controller, controller, gpu_nodes, order, ready, state
from node_records import request
from waiting import eventually

from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.errors import AgentFarmError, ConflictError, NotFoundError, ServerDied
from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.spawner.watch import LeaseWatch

#: Within this time every open page shows a new position, in seconds.
SHOWN_SECONDS = 2.0


@asynccontextmanager
async def followers(farm: Controller, count: int) -> AsyncIterator[list[LeaseWatch]]:
    """Follow the controller as so many Hubs do."""
    clients = [FarmClient(runtime_dir=farm.app.runtime_dir) for _ in range(count)]
    watches = [LeaseWatch(client=client) for client in clients]
    for watch in watches:
        watch.open()
    try:
        await eventually(lambda: all(watch.connected for watch in watches), "the followers are connected")
        yield watches
    finally:
        for watch in watches:
            await watch.aclose()


async def shown_after(
    watches: list[LeaseWatch], action: Awaitable[Any], expected: dict[str, tuple[str, int | None]]
) -> float:
    """Return the seconds from an action until every follower knows these states and positions."""

    def arrived(lease_id: str) -> Callable[[Lease], bool]:
        return lambda lease: (lease.state, lease.position) == expected[lease_id]

    began = time.monotonic()
    async with asyncio.timeout(SHOWN_SECONDS), asyncio.TaskGroup() as group:
        acting = group.create_task(_do(action))
        for watch in watches:
            for lease_id in expected:
                group.create_task(_do(watch.until(lease_id, arrived(lease_id))))
        await acting
    return time.monotonic() - began


async def _do(action: Awaitable[Any]) -> Any:
    return await action


async def test_positions_are_shown_at_once(tmp_path: Path) -> None:
    """A release and a cancelled first place move everybody up, in every follower, within two seconds."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        holder = await farm.client.place(request("u0", gpus=1))
        line = [await farm.client.place(request(f"u{number}", gpus=1)) for number in range(1, 6)]
        ids = [lease.id for lease in line]
        assert [lease.position for lease in line] == [1, 2, 3, 4, 5]
        async with followers(farm, 3) as watches:
            expected: dict[str, tuple[str, int | None]] = {ids[0]: ("granted", None)}
            expected |= {name: ("waiting", number) for number, name in enumerate(ids[1:], 1)}
            await shown_after(watches, farm.client.release(holder.id, 0), expected)
            expected = {name: ("waiting", number) for number, name in enumerate(ids[2:], 1)}
            await shown_after(watches, farm.client.release(ids[1], 0), expected)
        assert [entry["lease"] for entry in await farm.client.queue()] == ids[2:]
        assert [entry["position"] for entry in await farm.client.queue()] == [1, 2, 3]
        for lease_id in [*ids[2:], ids[0]]:
            await farm.client.release(lease_id, 0)


async def test_the_page_is_told_of_the_line(tmp_path: Path) -> None:
    """The events that the farm page follows bring the line after a cancel, with what whoever looks may cancel."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        leases = [await farm.client.place(request(f"u{number}", gpus=1)) for number in range(4)]
        events = farm.client.events()
        _, snapshot = await anext(events)
        assert [(entry["lease"], entry["may_cancel"]) for entry in snapshot["queue"]] == [
            (lease.id, True) for lease in leases[1:]
        ]
        await farm.client.release(leases[1].id, 0)
        async with asyncio.timeout(SHOWN_SECONDS):
            async for event, data in events:
                if event == "queue" and [entry["position"] for entry in data] == [1, 2]:
                    assert [entry["lease"] for entry in data] == [leases[2].id, leases[3].id]
                    break
        await events.aclose()
        for lease in leases:
            await farm.client.release(lease.id, 0)


#: Where a request, a start or a stop is when it is cancelled: the object, its method, before or after it is called.
POINTS = [
    (part, name, when)
    for part, name in (("book", "grant"), ("node", "launch"), ("book", "change"), ("node", "stop"), ("book", "release"))
    for when in ("before", "after")
]


def cancels_at(farm: Controller, monkeypatch: pytest.MonkeyPatch, lease: Lease, point: tuple[str, str, str]) -> Any:
    """Have the lease deleted over HTTP when its work reaches the point for the first time; return the deletion."""
    part, name, when = point
    owner: Any = farm.app.farm.book if part == "book" else farm.app.farm.inventory.link("a").client
    original, deletions = getattr(owner, name), []

    async def cancel_once(subject: Any) -> None:
        asked = getattr(subject, "lease", None) or getattr(subject, "id", subject)
        if asked == lease.id and not deletions:
            deletions.append(asyncio.create_task(farm.client.release(lease.id, 0)))
            await asyncio.wait(deletions, timeout=0.1)  # it may have to wait for what it interrupts

    async def gated(subject: Any, *args: Any, **kwargs: Any) -> Any:
        if when == "before":
            await cancel_once(subject)
        answer = await original(subject, *args, **kwargs)
        if when == "after":
            await cancel_once(subject)
        return answer

    monkeypatch.setattr(owner, name, gated)
    return deletions


async def lived(farm: Controller, lease: Lease) -> None:
    """Take a lease from the line through its start to its stop, as far as it gets."""
    with suppress(AssertionError, ConflictError, NotFoundError, ServerDied):
        await state(farm, lease, "granted")
        await farm.client.launch(lease.id, order())
        await farm.client.release(lease.id, 0)


async def test_a_cancel_at_any_moment(tmp_path: Path) -> None:
    """DELETE at each moment from the line to the stop is answered, leaves no server, and serves who is next."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        for number, point in enumerate(POINTS):
            owners = [f"{role}{number}" for role in ("holder", "victim", "next")]
            holder, victim, following = [await farm.client.place(request(owner, gpus=1)) for owner in owners]
            with pytest.MonkeyPatch.context() as patch:
                deletions = cancels_at(farm, patch, victim, point)
                life = asyncio.create_task(lived(farm, victim))
                await farm.client.release(holder.id, 0)
                await eventually(lambda: deletions, f"{point} is reached")  # noqa: B023 - awaited at once
                assert (await deletions[0]).state in {"released", "stopping"}, point
                await state(farm, victim, "released")
                await state(farm, following, "granted")
                life.cancel()
                (fault,) = await asyncio.gather(life, return_exceptions=True)
                assert not isinstance(fault, Exception), (point, fault)
            await farm.client.release(victim.id, 0)
            servers = await farm.app.farm.inventory.link("a").client.servers()
            assert [each.lease for each in servers if each.state != "exited"] == [], point
            await farm.client.release(following.id, 0)
        assert await farm.client.leases() == []


async def test_cancels_all_at_once(tmp_path: Path) -> None:
    """Who is cancelled twice, and in any order with others, is out once; the rest is in line."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        leases = [await farm.client.place(request(f"u{number}", gpus=1)) for number in range(8)]
        gone = [leases[number].id for number in (0, 3, 3, 1, 6, 1, 0)]
        answers = await asyncio.gather(*(farm.client.release(name, 0) for name in gone), return_exceptions=True)
        assert not [answer for answer in answers if isinstance(answer, AgentFarmError)]
        await state(farm, leases[2], "granted")
        kept = [leases[number].id for number in (4, 5, 7)]

        async def closed_up() -> bool:
            line = await farm.client.queue()
            return [(entry["lease"], entry["position"]) for entry in line] == list(zip(kept, (1, 2, 3), strict=True))

        await eventually(closed_up, "the line closed up")
        for lease in leases:
            await farm.client.release(lease.id, 0)
