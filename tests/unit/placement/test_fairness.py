"""The order of the line: whose turn it is, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from node_records import gpu, node, request

from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy
from jupyterhub_agentfarm.placement.line import arrival, ranks

OWNERS = ("ada", "bob", "eve")


def lease(number: int, owner: str, priority: int = 0, created_at: float = 0) -> Lease:
    """Return a lease that waits."""
    asked = request(owner, f"s{number}", gpus=1, priority=priority)
    return Lease(f"{number:032x}", owner, f"s{number}", "waiting", 0, asked, created_at)


WAITING = st.lists(st.tuples(st.sampled_from(OWNERS), st.integers(-1, 1), st.integers(0, 5)), max_size=12).map(
    lambda items: [lease(number, *item) for number, item in enumerate(items)]
)
HELD = st.dictionaries(st.sampled_from(OWNERS), st.integers(0, 4))


def ordered(waiting: list[Lease], held: dict[str, int], overdue: set[str]) -> list[Lease]:
    """Return the leases in the order of their ranks."""
    ranked = ranks(waiting, held, overdue)
    return sorted(waiting, key=lambda each: ranked[each.id])


@given(WAITING, HELD, st.data())
def test_the_order_has_what_it_promises(waiting: list[Lease], held: dict[str, int], data: st.DataObject) -> None:
    """Priority first, owners FIFO, no second of a burst before the first of who holds as little, in whatever order."""
    overdue = set(data.draw(st.lists(st.sampled_from([each.id for each in waiting]))) if waiting else [])
    line = ordered(waiting, held, overdue)
    assert [each.id for each in ordered(data.draw(st.permutations(waiting)), held, overdue)] == [e.id for e in line]
    priorities = [-each.request.options.priority for each in line]
    assert priorities == sorted(priorities)
    ahead: dict[str, int] = defaultdict(lambda: 0)
    for owner in OWNERS:
        mine = [arrival(each) for each in line if each.owner == owner]
        assert mine == sorted(mine)
    plain = ordered(waiting, held, set())
    turns = []
    for each in plain:
        turns.append((-each.request.options.priority, held.get(each.owner, 0) + ahead[each.owner]))
        ahead[each.owner] += 1
    assert turns == sorted(turns)


@given(WAITING, HELD)
def test_a_grant_changes_nobodys_turn(waiting: list[Lease], held: dict[str, int]) -> None:
    """When the first is granted, the order of the others is what it was."""
    line = ordered(waiting, held, set())
    if line:
        after = held | {line[0].owner: held.get(line[0].owner, 0) + 1}
        assert ordered(line[1:], after, set()) == line[1:]


@given(WAITING, HELD, st.data())
def test_only_the_first_of_an_owner_is_overdue(waiting: list[Lease], held: dict[str, int], data: st.DataObject) -> None:
    """However many of a burst were overtaken often, one at most of each priority goes before others for it."""
    overdue = {each.id for each in waiting if each.owner == "ada"}
    early = [rank for rank in ranks(waiting, held, overdue).values() if rank[1] == 0]
    assert len(early) == len({each.request.options.priority for each in waiting if each.owner == "ada"})


class Line(RuleBasedStateMachine):
    """Bursts and newcomers on a farm of two equal GPUs, with the real book and placement."""

    max_overtaken = 3

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.mkdtemp(prefix="af")
        self.database = Database(f"sqlite:///{self.directory}/farm.sqlite")
        self.runner.run(self.database.open())
        self.clock = 0.0
        self.book = LeaseBook(self.database, self.tick, self.changed)
        self.placement = Placement(PlacementPolicy(max_overtaken=self.max_overtaken), self.book)
        self.placement.tell(NodeView(node("a", gpu("GPU-a"), gpu("GPU-b"))))
        self.asked = 0
        #: For each owner's first in the line: how many later ones were granted since it is the first.
        self.overtaken: dict[str, int] = {}

    def tick(self) -> float:
        """Return another time at every question."""
        self.clock += 1
        return self.clock

    def first_of(self) -> dict[str, Lease]:
        """Return each owner's first in the line."""
        line = sorted(self.book.waiting(), key=arrival, reverse=True)
        return {each.owner: each for each in line}

    def changed(self, changed: Lease) -> None:
        """Count who was overtaken by a grant."""
        if changed.state == "granted":
            for head in self.first_of().values():
                if head.created_at < changed.created_at:
                    self.overtaken[head.id] = self.overtaken.get(head.id, 0) + 1

    @rule(owner=st.integers(0, 3), count=st.integers(1, 4), gpus=st.integers(1, 2))
    def burst(self, owner: int, count: int, gpus: int) -> None:
        """An owner asks for some servers."""
        for _ in range(count):
            self.asked += 1
            self.runner.run(self.placement.place(request(f"u{owner}", f"s{self.asked}", gpus=gpus)))

    @rule()
    def newcomer(self) -> None:
        """Somebody who holds nothing asks."""
        self.asked += 1
        self.runner.run(self.placement.place(request(f"v{self.asked}", gpus=1)))

    @precondition(lambda self: self.book.alive())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """A lease ends, and the line is served."""
        ended = data.draw(st.sampled_from(self.book.alive()))
        if ended.state == "waiting":
            self.runner.run(self.placement.withdraw(ended.id, "withdrawn"))
        else:
            self.runner.run(self.book.release(ended.id, "stopped"))
        self.runner.run(self.placement.advance())

    @invariant()
    def nobody_starves(self) -> None:
        """An owner's first is overtaken by no more than the bound."""
        assert all(count <= self.max_overtaken for count in self.overtaken.values()), self.overtaken

    @invariant()
    def positions_are_the_order(self) -> None:
        """Positions are 1, 2, 3 … and those of the order."""
        waiting = sorted(self.book.waiting(), key=lambda each: each.position or 0)
        assert [each.position for each in waiting] == list(range(1, len(waiting) + 1))
        assert waiting == self.placement._fairness.order()

    @invariant()
    def nothing_is_free_for_the_first(self) -> None:
        """Nobody waits for what is free, and no GPU is leased twice."""
        held = [uuid for each in self.book.alive() for uuid in each.gpus]
        assert len(held) == len(set(held))
        first = min(self.book.waiting(), key=lambda each: each.position or 0, default=None)
        assert first is None or first.request.options.gpus > 2 - len(held)

    def teardown(self) -> None:
        """Close the database."""
        self.runner.run(self.database.aclose())
        self.runner.close()
        shutil.rmtree(self.directory)


Line.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestLine = Line.TestCase


class Farm:
    """Four GPUs, a book and a placement."""

    def __init__(self, database: Database, **policy: object) -> None:
        self.book = LeaseBook(database)
        self.placement = Placement(PlacementPolicy(**policy), self.book)
        self.placement.tell(NodeView(node("a", *(gpu(f"GPU-{number}") for number in range(4)))))

    async def ask(self, owner: str, count: int = 1, gpus: int = 1) -> list[Lease]:
        """Place requests of an owner."""
        asked = [request(owner, f"s{number}", gpus=gpus) for number in range(count)]
        return [await self.placement.place(each) for each in asked]

    async def served(self, count: int) -> str:
        """End the oldest server this often; return the initials of those who were granted, in order."""
        initials = ""
        for _ in range(count):
            holders = [each for each in self.book.alive() if each.state == "granted"]
            oldest = min(holders, key=lambda each: each.epoch)
            known = {each.id for each in holders}
            await self.book.release(oldest.id, "stopped")
            await self.placement.advance()
            granted = [e for e in self.book.alive() if e.state == "granted" and e.id not in known]
            initials += "".join(each.owner[0] for each in sorted(granted, key=lambda each: each.epoch))
        return initials


async def test_a_burst_takes_turns(database: Database) -> None:
    """Who asks for ten at once has the others go in between; with fairness "none" they wait for all ten."""
    farm = Farm(database)
    await farm.ask("ada", 10)
    await farm.ask("bob", 2)
    await farm.ask("carl", 1)
    assert await farm.served(9) == "bcaabaaaa"  # bob's second waits until ada holds no less than he does
    assert farm.book.waiting() == []


async def test_by_arrival_alone(database: Database) -> None:
    """With fairness "none" a burst is served before who came later."""
    farm = Farm(database, fairness="none")
    await farm.ask("ada", 6)
    await farm.ask("bob")
    assert await farm.served(3) == "aab"


async def test_a_large_request_is_overdue_in_the_end(database: Database) -> None:
    """Who holds a server and asks for all GPUs is overtaken `max_overtaken` times; then the GPUs are kept."""
    farm = Farm(database, max_overtaken=2)
    await farm.ask("ada")
    large = await farm.placement.place(request("ada", "large", gpus=4))
    for number in range(6):
        await farm.ask(f"u{number}")
    alive = {each.owner: each.state for each in farm.book.alive() if each.owner != "ada"}
    assert list(alive.values()) == ["granted", "granted", "waiting", "waiting", "waiting", "waiting"]
    assert farm.book.get(large.id).position == 1
    await farm.served(3)
    assert farm.book.get(large.id).state == "granted"
