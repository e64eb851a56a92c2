"""Placement: decide and reserve in one step, the waiting line, refusal or wait."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from node_records import GIB, gpu, node, request

from jupyterhub_agentfarm.errors import ConflictError, PlacementRefused
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Explanation, Mark, Node
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy
from jupyterhub_agentfarm.placement.lease_store import lease_gpus


class Nodes:
    """The nodes of a test, which may change, and a placement on them."""

    def __init__(self, database: Database, *nodes: Node, **policy: Any) -> None:
        self.by_name = {each.name: each for each in nodes}
        self.book = LeaseBook(database)
        self.placement = Placement(PlacementPolicy(**policy), self.book, self.views)

    def views(self) -> list[NodeView]:
        """Return the nodes as the inventory would."""
        return [NodeView(each) for each in self.by_name.values()]

    def change(self, name: str, **changes: Any) -> None:
        """Change a node."""
        self.by_name[name] = dataclasses.replace(self.by_name[name], **changes)

    def line(self) -> list[tuple[str, int | None]]:
        """Return owners and positions of those who wait."""
        waiting = sorted(self.book.waiting(), key=lambda lease: lease.position or 0)
        return [(lease.owner, lease.position) for lease in waiting]


def one_gpu_each(*names: str) -> list[Node]:
    """Return nodes with one GPU."""
    return [node(name, gpu(f"GPU-{name}")) for name in names]


async def test_at_the_same_moment(database: Database) -> None:
    """Twenty requests at once for six GPUs: six get different ones, fourteen wait at positions 1 to 14."""
    farm = Nodes(database, node("a", gpu("1"), gpu("2"), gpu("3")), node("b", gpu("1"), gpu("2"), gpu("3")))
    leases = await asyncio.gather(*(farm.placement.place(request(f"u{i}", gpus=1)) for i in range(20)))
    granted = [(lease.node, lease.gpus) for lease in leases if lease.state == "granted"]
    assert len(granted) == len(set(granted)) == 6
    assert [position for _, position in farm.line()] == list(range(1, 15))


async def test_a_burst_spreads(database: Database) -> None:
    """Ten requests at once go evenly to five idle nodes, although telemetry still shows all of them idle."""
    farm = Nodes(database, *(node(f"n{i}") for i in range(5)))
    leases = await asyncio.gather(*(farm.placement.place(request(f"u{i}")) for i in range(10)))
    counts = [sum(lease.node == name for lease in leases) for name in farm.by_name]
    assert counts == [2, 2, 2, 2, 2]


async def test_a_node_to_avoid_is_the_last_choice(database: Database) -> None:
    """It is passed over with a named reason while another node has room, and taken at once when none has."""
    farm = Nodes(database, *one_gpu_each("a", "b"))
    leases = [await farm.placement.place(request(f"u{i}", gpus=1, avoid=("a",))) for i in range(3)]
    assert [(lease.node, lease.state) for lease in leases] == [("b", "granted"), ("a", "granted"), (None, "waiting")]
    first, second, third = (lease.why for lease in leases)
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.refusals, second.refusals, third.refusals) == ({"avoided": 1}, {"gpus": 1}, {"gpus": 2})
    await farm.book.release(leases[1].id, "done")
    await farm.placement.advance()
    assert farm.book.get(leases[2].id).node == "a"
    named = await farm.placement.place(request("u9", node="b", avoid=("b", "gone")))
    assert (named.node, named.state) == ("b", "granted")


async def test_asked_again(database: Database) -> None:
    """The same request again is answered with the same lease; another one for that server is refused."""
    farm = Nodes(database, *one_gpu_each("a"))
    lease = await farm.placement.place(request(gpus=1))
    assert await farm.placement.place(request(gpus=1)) == lease
    with pytest.raises(ConflictError, match="ada has the default server already, with another request"):
        await farm.placement.place(request())
    await farm.book.change(lease.id, ("granted",), state="stopping")
    successor = await farm.placement.place(request())
    assert successor.id != lease.id


async def test_fourth_waits_and_is_served(database: Database) -> None:
    """Three GPUs, four users: the fourth is at position 1, with the reason, and is granted when one is released."""
    farm = Nodes(database, *one_gpu_each("a", "b", "c"))
    first, *_, fourth = [await farm.placement.place(request(f"u{i}", gpus=1)) for i in range(4)]
    assert (fourth.state, fourth.position) == ("waiting", 1)
    assert fourth.detail.startswith("a: needs 1 GPU, none is free; b: needs 1 GPU, none is free")
    await farm.placement.advance()
    assert farm.book.get(fourth.id).state == "waiting"
    await farm.book.release(first.id, "stopped")
    await farm.placement.advance()
    granted = farm.book.get(fourth.id)
    assert (granted.state, granted.node, granted.gpus) == ("granted", first.node, first.gpus)


async def test_never_is_refused_at_once(database: Database) -> None:
    """What no node could ever give is refused with each node's reason, and leaves nothing behind."""
    farm = Nodes(database, *one_gpu_each("a", "b"))
    with pytest.raises(PlacementRefused) as refused:
        await farm.placement.place(request(gpus=2))
    assert refused.value.refusals == {"a": "needs 2 GPUs, it has 1", "b": "needs 2 GPUs, it has 1"}
    with pytest.raises(PlacementRefused, match="The farm has no node z"):
        await farm.placement.place(request(node="z"))
    with pytest.raises(PlacementRefused) as pinned:
        await farm.placement.place(request(node="a", gpus=2))
    assert set(pinned.value.refusals) == {"a"}
    with pytest.raises(PlacementRefused, match="agentfarm nodes add"):
        await Nodes(database).placement.place(request())
    assert farm.book.alive() == []


async def test_refused_later(database: Database) -> None:
    """A request that waits is refused when the last node that could ever serve it is gone; the line closes up."""
    farm = Nodes(database, *one_gpu_each("a"), node("b", gpu("GPU-b", "T4")))
    await farm.placement.place(request("u0", gpus=1, node="a"))
    await farm.placement.place(request("u1", gpus=1, node="b"))
    waits_for_a = await farm.placement.place(request("u2", gpus=1, gpu_model="a100"))
    await farm.placement.place(request("u3", gpus=1))
    assert farm.line() == [("u2", 1), ("u3", 2)]
    del farm.by_name["a"]
    await farm.placement.advance()
    ended = await farm.book.find(waits_for_a.id)
    assert ended.state == "released"
    assert "b: needs 1 GPU 'a100', it has T4" in ended.detail
    assert farm.line() == [("u3", 1)]


async def test_no_overtaking(database: Database) -> None:
    """A later request may not take what an earlier one waits for, and may take everything else."""
    farm = Nodes(database, node("a", gpu("A-1"), gpu("A-2"), gpu("T-1", "T4")))
    await farm.placement.place(request("u0", gpus=1, gpu_model="a100"))
    big = await farm.placement.place(request("u1", gpus=2, gpu_model="a100"))
    small = await farm.placement.place(request("u2", gpus=1, gpu_model="a100"))
    assert (big.position, small.position) == (1, 2)
    assert small.detail == "a: needs 1 GPU, what is free is kept for an earlier request"
    other_model = await farm.placement.place(request("u3", gpus=1, gpu_model="t4"))
    without = await farm.placement.place(request("u4"))
    assert (other_model.gpus, without.state) == (("T-1",), "granted")


async def test_guarantees_are_held_too(database: Database) -> None:
    """Memory that an earlier request waits for is not given to a later one that asks for memory."""
    farm = Nodes(database, node("a"))
    await farm.placement.place(request("u0", memory_gib=20))
    await farm.placement.place(request("u1", memory_gib=20))
    later = await farm.placement.place(request("u2", memory_gib=1))
    assert farm.line() == [("u1", 1), ("u2", 2)]
    assert "kept for an earlier request" in later.detail


async def test_priority(database: Database) -> None:
    """A request of higher priority goes to the head of the line and is served first."""
    farm = Nodes(database, *one_gpu_each("a"))
    holder = await farm.placement.place(request("u0", gpus=1))
    await farm.placement.place(request("u1", gpus=1))
    urgent = await farm.placement.place(request("u2", gpus=1, priority=5))
    assert urgent.position == 1
    assert farm.line() == [("u2", 1), ("u1", 2)]
    await farm.book.release(holder.id, "stopped")
    newcomer = await farm.placement.place(request("u3", gpus=1))
    assert farm.book.get(urgent.id).state == "granted"
    assert newcomer.position == 2


async def test_quota_waits_without_holding(database: Database) -> None:
    """Who is at the quota waits for servers of their own, and keeps nobody else from the free GPU."""
    farm = Nodes(database, *one_gpu_each("a", "b"), max_gpus_per_owner=1)
    await farm.placement.place(request("ada", gpus=1))
    over = await farm.placement.place(request("ada", "second", gpus=1))
    assert (over.state, over.position) == ("waiting", 1)
    assert "ada may hold 1 GPU and holds 1" in over.detail
    assert (await farm.placement.place(request("bob", gpus=1))).state == "granted"


async def test_cordoned_node_is_waited_for(database: Database) -> None:
    """A request that only a cordoned node can serve waits, and goes there after the uncordon."""
    farm = Nodes(database, *one_gpu_each("a"))
    farm.change("a", cordon=Mark("new fan", 0.0, "root"))
    lease = await farm.placement.place(request(gpus=1))
    assert (lease.state, lease.detail) == ("waiting", "a: is cordoned: new fan")
    farm.change("a", cordon=None)
    await farm.placement.advance()
    assert farm.book.get(lease.id).state == "granted"


async def test_withdrawn(database: Database) -> None:
    """Who leaves the line is gone from it, and those behind move up."""
    farm = Nodes(database, *one_gpu_each("a"))
    leases = [await farm.placement.place(request(f"u{i}", gpus=1)) for i in range(4)]
    await farm.placement.withdraw(leases[1].id, "withdrawn")
    assert farm.line() == [("u2", 1), ("u3", 2)]
    with pytest.raises(ConflictError, match="this needs waiting"):
        await farm.placement.withdraw(leases[0].id, "withdrawn")


async def test_guarantees_of_the_past_count(database: Database) -> None:
    """What was guaranteed to servers that use little now is not promised a second time."""
    farm = Nodes(database, node("a"), settle_time=0)
    await farm.placement.place(request("u0", memory_gib=20))
    farm.change("a", reported_at=2e9)
    second = await farm.placement.place(request("u1", memory_gib=13))
    assert second.detail == f"a: needs 13 GiB of {32 * GIB // 2**30} GiB memory, 12 GiB are free"


async def granted_behind_the_book(database: Database, owner: str, node_name: str) -> str:
    """Grant a node's one GPU in the database alone, as a commit does that nobody heard of; return the lease's id."""
    other = LeaseBook(database)
    return (await other.grant(request(owner, gpus=1), node_name, (f"GPU-{node_name}",), Explanation(0, None))).id


async def test_a_line_of_which_the_database_knows_more(database: Database) -> None:
    """A GPU that is leased in the database alone fails no pass: its lease is found, and the others are served."""
    farm = Nodes(database, *one_gpu_each("a", "b"))
    holders = [await farm.placement.place(request(f"u{name}", gpus=1, node=name)) for name in "ab"]
    first, second = [await farm.placement.place(request(f"w{name}", gpus=1, node=name)) for name in "ab"]
    for holder in holders:
        await farm.book.release(holder.id, "stopped")
    unheard = await granted_behind_the_book(database, "eve", "a")
    await farm.placement.advance()
    assert farm.book.get(unheard).gpus == ("GPU-a",)
    assert farm.book.get(second.id).state == "granted"
    assert farm.line() == [("wa", 1)]
    await farm.book.release(unheard, "given back")
    await farm.placement.advance()
    assert farm.book.get(first.id).gpus == ("GPU-a",)


async def test_a_request_of_which_the_database_knows_more(database: Database) -> None:
    """A new request that meets such a GPU gets another one; when it is its owner's own, it gets that lease."""
    farm = Nodes(database, *one_gpu_each("a", "b"))
    unheard = await granted_behind_the_book(database, "eve", "a")
    assert (await farm.placement.place(request("ada", gpus=1))).gpus == ("GPU-b",)
    assert farm.book.get(unheard).node == "a"
    again = Nodes(database, *one_gpu_each("a"))
    assert (await again.placement.place(request("eve", gpus=1))).id == unheard


async def test_a_gpu_that_stays_in_conflict(database: Database) -> None:
    """A GPU that the database holds for a lease that ended costs those who wait for it their turn, and nobody else."""
    farm = Nodes(database, *one_gpu_each("a", "b"))
    holders = [await farm.placement.place(request(f"u{name}", gpus=1, node=name)) for name in "ab"]
    first, second = [await farm.placement.place(request(f"w{name}", gpus=1, node=name)) for name in "ab"]
    for holder in holders:
        await farm.book.release(holder.id, "stopped")
    row = {"node": "a", "gpu": "GPU-a", "lease": holders[0].id}
    await database.run(lambda connection: connection.execute(lease_gpus.insert(), row))
    await farm.placement.advance()
    assert farm.book.get(second.id).state == "granted"
    assert (await farm.placement.place(request("ada"))).state == "granted"
    assert farm.line() == [("wa", 1)]
    await database.run(lambda connection: connection.execute(lease_gpus.delete().where(lease_gpus.c.gpu == "GPU-a")))
    await farm.book.release(second.id, "stopped")
    await farm.placement.advance()
    assert farm.book.get(first.id).state == "granted"


async def test_a_lease_that_ended_in_the_database_alone(database: Database) -> None:
    """A book that is loaded anew drops what ended unheard of, says so once, and keeps what is noted of the line."""
    farm = Nodes(database, *one_gpu_each("a"))
    held, waiting = [await farm.placement.place(request(owner, gpus=1)) for owner in ("ada", "bob")]
    other = LeaseBook(database)
    await other.open()
    await other.release(held.id, "stopped elsewhere")
    told: list[tuple[str, str]] = []
    farm.book.on_change = lambda lease: told.append((lease.id, lease.detail))
    assert await farm.book.reload()
    assert not await farm.book.reload()
    assert told == [(held.id, "stopped elsewhere")]
    assert farm.book.alive() == [waiting]
    assert farm.book.on_node("a") == []
