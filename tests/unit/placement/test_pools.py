"""Pools: what the members of a group hold together is counted right, stays within the limit, and is fair."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_records import gpu, node, request, view

from jupyterhub_agentfarm.errors import PlacementRefused, QuotaExceeded
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Lease, PlacementRequest
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy
from jupyterhub_agentfarm.placement.filters import Limits, refusal
from jupyterhub_agentfarm.placement.pool_book import PoolBook
from jupyterhub_agentfarm.placement.usage import HOUR_SECONDS, brute_force, used_by
from jupyterhub_agentfarm.placement.view import OwnerUse, PoolUse

GROUPS = ("lab", "ops", "all")
STATES: Any = ("waiting", "granted", "running", "stopping", "released")


def member(owner: str, *groups: str, name: str = "", **options: Any) -> PlacementRequest:
    """Return a request of a member of these groups."""
    asked: PlacementRequest = replace(request(owner, name, **options), groups=groups or ("lab",))
    return asked


class Clock:
    """A clock that the test sets; `step` is what each look at it takes, in seconds."""

    now = 1_000_000.0
    step = 0.0

    def __call__(self) -> float:
        """Return the time."""
        self.now += self.step
        return self.now


def farm(database: Database, gpus: int, **configured: Any) -> tuple[LeaseBook, Placement, Clock]:
    """Return the book and the placement of one node with so many GPUs."""
    clock = Clock()
    book = LeaseBook(database, clock)
    placement = Placement(PlacementPolicy(**configured), book)
    placement.tell(NodeView(node("a", *(gpu(f"GPU-{number}") for number in range(gpus)))))
    return book, placement, clock


# ---- the count ----------------------------------------------------------------------------------------------------


LEASES = st.lists(
    st.tuples(
        st.sets(st.sampled_from(GROUPS)), st.integers(0, 3), st.lists(st.integers(1, 40), min_size=4, max_size=4)
    ),
    max_size=6,
)


def life(number: int, groups: set[str], gpus: int, waits: list[int]) -> list[Lease]:
    """Return a lease in each of its states."""
    asked = replace(request(f"u{number % 3}", gpus=gpus), groups=tuple(groups))
    lease = Lease(str(number), asked.owner, "", "waiting", 0, asked, 0.0)
    held = tuple(f"{number}-{index}" for index in range(gpus))
    granted = replace(lease, state="granted", gpus=held, granted_at=float(waits[0]))
    later = [replace(granted, state=state) for state in STATES[2:4]]
    return [lease, granted, *later, replace(granted, state="released", released_at=float(sum(waits)))]


@given(LEASES, st.data())
def test_counted_as_by_looking_at_everything(items: list[Any], data: st.DataObject) -> None:
    """However leases change in turn, and whenever a group gets its pool, it is what adding up all leases gives."""
    lives = [life(number, *item) for number, item in enumerate(items)]
    now: dict[str, Lease] = {}
    book = PoolBook(frozenset(data.draw(st.sets(st.sampled_from(GROUPS)))), 100.0)
    counted_from_the_start = book.groups
    for each in data.draw(st.permutations([number for number, states in enumerate(lives) for _ in states])):
        lease = now[str(each)] = lives[each].pop(0)
        book.note(lease)
        used = used_by(lease)
        if used is not None:
            book.note_use(used)
        if data.draw(st.integers(0, 9)) == 0:
            book.watch(frozenset({data.draw(st.sampled_from(GROUPS))}), lambda: [o for o in now.values() if o.alive])
        for group in book.groups:
            held = [o for o in now.values() if group in o.request.groups and o.alive and o.state != "waiting"]
            assert (book.gpus[group], book.servers[group]) == (sum(len(o.gpus) for o in held), len(held))
        for group in counted_from_the_start:
            history = [used_by(o) for o in now.values() if group in o.request.groups]
            mine = [replace(used, owner=group) for used in history if used is not None]
            assert book.usage.gpu_seconds(group, 120.0) == pytest.approx(brute_force(mine, group, 100.0, 120.0))


def test_nothing_is_counted_without_a_pool() -> None:
    """A book that watches no group keeps nothing."""
    book = PoolBook()
    for lease in life(1, {"lab"}, 2, [1, 1, 1, 1])[:3]:
        book.note(lease)
    assert (book.gpus, book.servers, book._counted) == ({}, {}, {})


# ---- the refusal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pools", "later", "detail"),
    [
        ([PoolUse("students", 8, 8)], True, "group students may hold 8 GPUs together and holds 8"),
        ([PoolUse("students", 0, 1)], False, "group students may hold 1 GPU together and holds 0"),
        ([PoolUse("s", 1, None, 3, 3)], True, "group s may have 3 servers together and has 3"),
        ([PoolUse("s", 0, 4, 0, 0)], False, "group s may have 0 servers together and has 0"),
        ([PoolUse("a", 4, 4), PoolUse("b", 0, 1)], False, "group b may hold 1 GPU together and holds 0"),
        (
            [PoolUse("a", 1, 4, kept_gpus=2)],
            True,
            "group a may hold 4 GPUs together and holds 1, and what is free is kept for an earlier request",
        ),
    ],
)
def test_the_sentence(pools: list[PoolUse], later: bool, detail: str) -> None:
    """A pool refuses with group, limit and use; of several, with the one that waiting does not help against."""
    found = refusal(view("n1", gpu("A"), gpu("B")), request(gpus=2), Limits(pools=tuple(pools)))
    assert found is not None
    assert (found.name, found.later, found.detail) == ("quota", later, detail)


def test_a_pool_that_fits_refuses_nothing() -> None:
    """A pool with room passes, and one of GPUs does not concern a server without one."""
    n1 = view("n1", gpu("A"), gpu("B"))
    assert refusal(n1, request(gpus=2), Limits(pools=(PoolUse("a", 2, 4, 3, 4),))) is None
    assert refusal(n1, request(), Limits(pools=(PoolUse("a", 4, 4),))) is None
    own = refusal(n1, request(gpus=2), Limits(OwnerUse(1, 2), pools=(PoolUse("a", 4, 9),)))
    assert own is not None
    assert own.detail == "ada may hold 2 GPUs and holds 1"


# ---- through the real placement -----------------------------------------------------------------------------------


async def test_at_once_they_never_exceed_it(database: Database) -> None:
    """Members who ask at the same moment, of one pool or of two, hold no more than each allows, and no less."""
    book, placement, _ = farm(database, 20, group_pool_gpus={"lab": 5, "all": 7}, group_pool_servers={"ops": 2})
    most = dict.fromkeys(("lab", "all"), 0)

    def look(_lease: Lease) -> None:
        for group in most:
            held = sum(len(lease.gpus) for lease in book.alive() if group in lease.request.groups)
            most[group] = max(most[group], held)
        assert sum(lease.state == "granted" and "ops" in lease.request.groups for lease in book.alive()) <= 2

    book.on_change = look
    asked = [member(f"a{number}", "lab", "all", gpus=1) for number in range(8)]
    asked += [member(f"b{number}", "all", gpus=1) for number in range(8)]
    asked += [member(f"c{number}", "ops") for number in range(4)]
    leases = await asyncio.gather(*(placement.place(each) for each in asked))
    assert most == {"lab": 5, "all": 7}
    while held := [lease for lease in book.alive() if lease.state == "granted"]:
        await book.release(held[0].id, "stopped")
        await placement.advance()
    assert most == {"lab": 5, "all": 7}
    ended = [await book.find(lease.id) for lease in leases]
    assert all(lease.state == "released" and lease.granted_at is not None for lease in ended)


async def test_served_when_another_member_ends(database: Database) -> None:
    """A member waits with a sentence and holds no node; others are served; the end of another member's serves them."""
    book, placement, _ = farm(database, 9, group_pool_gpus={"lab": 4})
    first = await placement.place(member("ada", gpus=4))
    waits = await placement.place(member("bob", gpus=2))
    assert (waits.state, waits.position) == ("waiting", 1)
    assert waits.detail == "a: group lab may hold 4 GPUs together and holds 4"
    assert (await placement.place(request("eve", gpus=5))).state == "granted"
    assert (await placement.place(member("bob", name="small"))).state == "granted"
    await book.release(first.id, "stopped")
    await placement.advance()
    assert book.get(waits.id).state == "granted"
    with pytest.raises(PlacementRefused, match="group lab may hold 4 GPUs together and holds 2"):
        await placement.place(member("ian", gpus=5))


async def test_servers_are_limited_together(database: Database) -> None:
    """The second member's server waits until the first one's ends, also without a GPU."""
    book, placement, _ = farm(database, 0, group_pool_servers={"lab": 1})
    first, second = [await placement.place(member(owner)) for owner in ("ada", "bob")]
    assert second.detail == "a: group lab may have 1 server together and has 1"
    await book.release(first.id, "stopped")
    await placement.advance()
    assert book.get(second.id).state == "granted"


async def test_a_large_request_is_not_starved(database: Database) -> None:
    """What waits for a pool keeps its room from members behind it, from nobody else, and is not overtaken for ever."""
    book, placement, clock = farm(database, 9, group_pool_gpus={"lab": 4}, max_overtaken=2)
    clock.step = 1.0  # the order of arrival counts
    small = [await placement.place(member(f"u{number}", gpus=1)) for number in range(3)]
    assert (await placement.place(member("ada", name="other"))).state == "granted"
    large = await placement.place(member("ada", gpus=3))
    assert large.state == "waiting"
    early = [await placement.place(member(f"v{number}", gpus=1)) for number in range(4)]
    assert [lease.state for lease in early] == ["granted", "waiting", "waiting", "waiting"]  # ada has a server already
    await book.release(small[0].id, "stopped")
    await placement.advance()
    assert book.get(early[1].id).state == "granted"  # the second to overtake, and the last
    for lease in (*small[1:], early[0]):
        assert book.get(large.id).state == "waiting"
        assert book.get(early[2].id).state == "waiting"
        await book.release(lease.id, "stopped")
        await placement.advance()
    assert book.get(large.id).state == "granted"
    assert (await placement.place(request("eve", gpus=1))).state == "granted"


async def test_their_own_quota_keeps_no_pool(database: Database) -> None:
    """Who waits for their own quota keeps nothing of the pool from other members."""
    _, placement, _ = farm(database, 9, group_pool_gpus={"lab": 3}, max_gpus_per_owner=2, fairness="none")
    await placement.place(member("ada", gpus=2))
    assert (await placement.place(member("ada", name="second", gpus=2))).state == "waiting"
    assert (await placement.place(member("bob", gpus=1))).state == "granted"


async def test_hours_together(database: Database) -> None:
    """Hours that one member used are used for all: asked for or in line, they are refused with the facts."""
    book, placement, clock = farm(database, 1, group_pool_gpu_hours={"lab": 2})
    await placement.place(member("ada", gpus=1))
    waits = await placement.place(member("bob", "lab", "ops", gpus=1))
    assert waits.state == "waiting"
    clock.now += 3 * HOUR_SECONDS
    with pytest.raises(QuotaExceeded) as refused:
        await placement.place(member("eve", gpus=1))
    said = "group lab together used 3.0 of 2 GPU-hours in 7 days: 1 h is free again on"
    assert refused.value.message.startswith(said)
    facts = refused.value.facts()
    assert (facts["quota"], facts["used"], facts["limit"]) == ("gpu_hours", 3.0, 2)
    assert facts["frees_at"] == pytest.approx(clock.now - HOUR_SECONDS + 7 * 86400)
    await placement.advance()
    ended = await book.find(waits.id)
    assert (ended.state, ended.end) == ("released", "quota")
    assert ended.detail.startswith(said)
    assert (await placement.place(member("eve"))).state == "granted"
    assert (await placement.place(member("ian", "ops", gpus=1))).state == "waiting"


async def test_the_database_remembers_the_pools(database: Database) -> None:
    """After a restart what members hold counts, and what they used."""
    limits: Any = {"group_pool_gpus": {"lab": 3}, "group_pool_gpu_hours": {"lab": 100}}
    book, placement, clock = farm(database, 4, **limits)
    old = await placement.place(member("ada", gpus=2))
    clock.now += 100
    await book.release(old.id, "stopped")
    await placement.place(member("bob", gpus=3))
    clock.now += 10
    again = LeaseBook(database, clock)
    after = Placement(PlacementPolicy(**limits), again)
    after.tell(NodeView(node("a", *(gpu(f"GPU-{number}") for number in range(4)))))
    await again.open()
    assert again.pools.usage.gpu_seconds("lab", clock.now) == 200 + 30
    assert (await after.place(member("eve", gpus=1))).state == "waiting"
