"""The waiting line: a pass decides only what may have changed, and comes to what a pass from scratch would."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from node_records import gpu, node, request, telemetry

from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Node, PlacementRequest
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy


class Counting(PlacementPolicy):
    """A policy that notes whose requests it decided."""

    decided: list[str]

    def choose(self, request: PlacementRequest, *rest: Any) -> Any:
        """Note the owner and decide."""
        self.decided.append(request.owner)
        return super().choose(request, *rest)


class Told:
    """A placement that is told of its nodes' changes, and how many decisions it made."""

    def __init__(self, database: Database, *nodes: Node) -> None:
        self.policy = Counting()
        self.policy.decided = []
        self.book = LeaseBook(database)
        self.placement = Placement(self.policy, self.book)
        for each in nodes:
            self.placement.tell(NodeView(each))

    async def decided(self) -> list[str]:
        """Serve the line; return the owners whose requests were decided for that."""
        self.policy.decided = []
        await self.placement.advance()
        return self.policy.decided

    def line(self) -> list[tuple[str, int | None, str]]:
        """Return owner, position and detail of those who wait."""
        waiting = sorted(self.book.waiting(), key=lambda lease: lease.position or 0)
        return [(lease.owner, lease.position, lease.detail) for lease in waiting]


@pytest.fixture
async def farm(database: Database) -> Told:
    """One node with two GPUs, both leased, and two who wait."""
    made = Told(database, node("a", gpu("GPU-a"), gpu("GPU-b")))
    for owner in ("u0", "u1", "u2", "u3"):
        await made.placement.place(request(owner, gpus=1))
    await made.placement.advance()
    return made


async def test_nothing_changed(farm: Told) -> None:
    """A pass after which nothing changed decides nothing; neither does a report of other load."""
    assert await farm.decided() == []
    busy = telemetry(gpu("GPU-a"), gpu("GPU-b"), load1=7.0, cpu_utilization_ratio=0.9)
    farm.placement.tell(NodeView(node("a", report=busy)))
    assert await farm.decided() == []


async def test_a_newcomer_is_decided_alone(farm: Told) -> None:
    """Who joins the end of the line does not have those ahead decided again."""
    farm.policy.decided = []
    joined = await farm.placement.place(request("u4", gpus=1))
    assert (joined.position, set(farm.policy.decided)) == (3, {"u4"})
    assert await farm.decided() == ["u4"]
    assert await farm.decided() == []


async def test_what_ends_a_wait_is_noticed(farm: Told) -> None:
    """A released lease, a new node, and a node that is gone each have the line decided anew."""
    farm.placement.tell(NodeView(node("b", gpu("GPU-c"))))
    assert (await farm.decided())[0] == "u2"
    assert [owner for owner, *_ in farm.line()] == ["u3"]
    await farm.book.release(next(lease.id for lease in farm.book.alive() if lease.owner == "u0"), "done")
    await farm.decided()
    assert farm.line() == []
    waits = await farm.placement.place(request("u5", gpus=2, node="a"))
    assert waits.state == "waiting"
    farm.placement.forget("a")
    await farm.decided()
    assert (await farm.book.find(waits.id)).state == "released"


async def test_guarantees_follow_the_load(database: Database) -> None:
    """Who waits for cores is granted by a report alone that shows them idle."""
    busy, idle = (node("a", report=telemetry(cpu_utilization_ratio=ratio)) for ratio in (0.9, 0.1))
    farm = Told(database, busy)
    lease = await farm.placement.place(request("u0", cpus=4))
    assert lease.state == "waiting"
    farm.placement.tell(NodeView(idle))
    await farm.decided()
    assert farm.book.get(lease.id).state == "granted"


async def test_policy_change_is_noticed(farm: Told) -> None:
    """A change of the configuration while the farm runs has nodes and line looked at anew."""
    assert await farm.decided() == []
    farm.policy.weights = {"spread": 5.0}
    assert await farm.decided() == ["u2", "u3"]


async def test_who_comes_and_goes_between_two_passes(farm: Told) -> None:
    """A request that was released before the next pass saw it leaves no gap in the positions."""
    await farm.placement.place(request("last", gpus=1, priority=-1))
    passing = await farm.placement.place(request("passing", gpus=1))
    assert [owner for owner, *_ in farm.line()] == ["u2", "u3", "passing", "last"]
    await farm.book.release(passing.id, "its owner is gone")
    await farm.placement.advance()
    assert [(owner, position) for owner, position, _ in farm.line()] == [("u2", 1), ("u3", 2), ("last", 3)]


async def test_same_line_as_from_scratch(farm: Told) -> None:
    """What was kept from earlier passes gives the positions and the reasons of a pass without memory."""
    for number, (gpus, priority) in enumerate([(2, 0), (1, 3), (0, 0), (1, -1), (2, 3)]):
        await farm.placement.place(request(f"v{number}", gpus=gpus, priority=priority))
    await farm.placement.withdraw(next(lease.id for lease in farm.book.waiting() if lease.owner == "u2"), "withdrawn")
    await farm.placement.advance()
    kept = farm.line()
    fresh = Placement(PlacementPolicy(), farm.book, lambda: [NodeView(farm_node(farm))])
    await fresh.advance()
    assert farm.line() == kept
    assert [position for _, position, _ in kept] == [1, 2, 3, 4, 5]


def farm_node(farm: Told) -> Node:
    """Return the farm's one node."""
    view = next(iter(farm.placement._index.views()))
    return dataclasses.replace(view.node)
