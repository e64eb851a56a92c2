"""Owner limits: nobody is granted more than their own, whatever the policy lets them; who waits is decided anew."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_records import gpu, node, request

from jupyterhub_agentfarm.errors import InvalidField, PlacementRefused, QuotaExceeded
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Kernel, Lease, OwnerLimits
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, OwnerLimitBook, Placement, PlacementPolicy
from jupyterhub_agentfarm.placement.owner_limits import smaller
from jupyterhub_agentfarm.placement.usage import HOUR_SECONDS


class Clock:
    """A clock that the test sets; each look at it takes a moment, so that the order of arrival is one."""

    now = 1_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        self.now += 1e-3
        return self.now


class Farm:
    """Placement on two nodes: "a" in room a with the kernels of Python and R, "b" in room b with Python's alone."""

    def __init__(self, database: Database, gpus: int = 4, **configured: Any) -> None:
        self.clock = Clock()
        self.book = LeaseBook(database, self.clock)
        self.owners = OwnerLimitBook()
        self.placement = Placement(PlacementPolicy(**configured), self.book, owners=self.owners)
        for name, kernels in (("a", ("ir", "python3")), ("b", ("python3",))):
            devices = (gpu(f"{name}-{number}") for number in range(gpus))
            each = node(name, *devices, labels={"room": name}, kernels=tuple(Kernel(one) for one in kernels))
            self.placement.tell(NodeView(each))

    async def limit(self, owner: str, **limits: Any) -> None:
        """Limit an owner as the controller does."""
        async with self.placement.paused():
            self.owners.put(owner, OwnerLimits(**limits))
        await self.placement.advance()

    async def release(self, lease: Lease) -> None:
        """End a lease and serve the line."""
        await self.book.release(lease.id, "stopped")
        await self.placement.advance()


# ---- nobody holds more --------------------------------------------------------------------------------------------

NAMES = ("u0", "u1", "u2")
OWNERS = st.sampled_from(NAMES)
LIMIT = st.one_of(st.none(), st.integers(0, 3))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("place"), OWNERS, st.integers(0, 2), st.integers(1, 3)),
        st.tuples(st.just("limit"), OWNERS, LIMIT, LIMIT),
        st.tuples(st.just("release"), st.integers(0, 20), st.none(), st.none()),
    ),
    min_size=3,
    max_size=25,
)
FIRST = st.lists(st.tuples(LIMIT, LIMIT), min_size=len(NAMES), max_size=len(NAMES))


class Watched(Farm):
    """A farm that looks at every grant: with it the owner may not hold more than both limits of this moment."""

    def __init__(self, database: Database, **configured: Any) -> None:
        super().__init__(database, 2, **configured)
        self.names = itertools.count()
        self.book.on_change = self.look

    def look(self, lease: Lease) -> None:
        """Check a grant."""
        if lease.state != "granted":
            return
        held = [each for each in self.book.of_owner(lease.owner) if each.state != "waiting"]
        own = self.owners.of(lease.owner)
        servers, gpus = smaller(own.servers, 2), smaller(own.gpus, 3)
        assert servers is not None
        assert gpus is not None
        assert len(held) <= servers
        assert not lease.gpus or sum(len(each.gpus) for each in held) <= gpus

    async def step(self, what: str, owner: Any, first: Any, second: Any) -> None:
        """Do one of the steps."""
        if what == "limit":
            await self.limit(owner, servers=first, gpus=second)
        elif what == "place":
            asked = [request(owner, f"s{next(self.names)}", gpus=first) for _ in range(second)]
            await asyncio.gather(*(self.ask(each) for each in asked))
        elif alive := self.book.alive():
            await self.release(alive[owner % len(alive)])

    async def ask(self, asked: Any) -> None:
        """Place a request; that it is refused is no fault."""
        with suppress(PlacementRefused):
            await self.placement.place(asked)


@settings(max_examples=60, deadline=None)
@given(FIRST, STEPS)
def test_nobody_is_granted_more_than_their_limit(first: list[Any], steps: list[Any]) -> None:
    """Requests at the same moment, releases and limits that change meanwhile: each grant is within both limits.

    At the end the line is one that nobody in it could leave: its first is over a limit or finds no GPU.
    """
    directory = tempfile.mkdtemp(prefix="af")

    async def run() -> None:
        database = Database(f"sqlite:///{directory}/farm.sqlite")
        await database.open()
        try:
            farm = Watched(database, max_servers_per_owner=2, max_gpus_per_owner=3)
            for step in [*(("limit", name, *limits) for name, limits in zip(NAMES, first, strict=True)), *steps]:
                await farm.step(*step)
            before = {lease.id for lease in farm.book.waiting()}
            await farm.placement.advance()
            assert {lease.id for lease in farm.book.waiting()} == before
        finally:
            await database.aclose()

    try:
        asyncio.run(run())
    finally:
        shutil.rmtree(directory)


# ---- what each limit does -----------------------------------------------------------------------------------------


async def test_the_smaller_limit_counts(database: Database) -> None:
    """An owner's own limit beside the site's: who would exceed the smaller waits, with its number in the sentence."""
    farm = Farm(database, max_servers_per_owner=2)
    await farm.limit("ada", servers=1)
    await farm.limit("bob", servers=5)
    first = await farm.placement.place(request("ada", "1"))
    waits = await farm.placement.place(request("ada", "2"))
    assert (waits.state, waits.detail) == (
        "waiting",
        "a: ada may have 1 server and has 1; b: ada may have 1 server and has 1",
    )
    assert [(await farm.placement.place(request("bob", str(each)))).state for each in range(3)] == [
        "granted",
        "granted",
        "waiting",
    ]
    await farm.release(first)
    assert farm.book.get(waits.id).state == "granted"


async def test_what_was_given_up_out_of_reach_does_not_count(database: Database) -> None:
    """A server that is being stopped counts, but not while its node cannot be reached: its owner goes on elsewhere."""
    farm = Farm(database)
    await farm.limit("ada", servers=1, gpus=1)
    first = await farm.placement.place(request("ada", "1", gpus=1))
    waits = await farm.placement.place(request("ada", "2", gpus=1))
    await farm.book.change(first.id, ("granted",), state="stopping", detail="its task was given up")
    await farm.placement.advance()
    assert farm.book.get(waits.id).state == "waiting"
    lost = farm.placement._index.entries[str(first.node)].view
    farm.placement.tell(replace(lost, node=replace(lost.node, state="unreachable")))
    await farm.placement.advance()
    granted = farm.book.get(waits.id)
    assert (granted.state, granted.node != first.node) == ("granted", True), granted
    assert (await farm.placement.place(request("ada", "3", gpus=1))).state == "waiting"


async def test_none_is_none(database: Database) -> None:
    """With 0 servers, or 0 GPUs for a request with one, waiting would be in vain: it is refused."""
    farm = Farm(database)
    await farm.limit("ada", servers=0)
    with pytest.raises(PlacementRefused, match="ada may have 0 servers and has 0"):
        await farm.placement.place(request("ada"))
    await farm.limit("ada", gpus=0)
    with pytest.raises(PlacementRefused, match="ada may hold 0 GPUs and holds 0"):
        await farm.placement.place(request("ada", gpus=1))
    assert (await farm.placement.place(request("ada"))).state == "granted"


async def test_labels_are_added(database: Database) -> None:
    """An owner's servers go to the nodes with the owner's labels only; asking for another value is refused."""
    farm = Farm(database)
    await farm.limit("ada", labels={"room": "b"})
    placed = [await farm.placement.place(request("ada", str(number), gpus=1)) for number in range(3)]
    assert {lease.node for lease in placed} == {"b"}
    assert placed[0].why is not None
    assert placed[0].why.refusals == {"labels": 1}
    assert (await farm.placement.place(request("ada", "same", labels={"room": "b"}))).node == "b"
    with pytest.raises(PlacementRefused, match="ada may use nodes with room=b only: room=a cannot be asked for"):
        await farm.placement.place(request("ada", "other", labels={"room": "a"}))
    with pytest.raises(PlacementRefused, match="has no label room=b"):
        await farm.placement.place(request("ada", "node", node="a"))


async def test_kernels_are_limited(database: Database) -> None:
    """A request may name one of the owner's kernels, or none; another one is refused."""
    farm = Farm(database)
    await farm.limit("ada", kernels=("Python3", "julia-1.10"))
    with pytest.raises(PlacementRefused, match=r"ada may not use the kernel ir, only Python3, julia-1\.10\."):
        await farm.placement.place(request("ada", kernel="ir"))
    assert (await farm.placement.place(request("ada", "named", kernel="python3"))).state == "granted"
    assert (await farm.placement.place(request("ada", "unnamed"))).state == "granted"
    assert (await farm.placement.place(request("bob", kernel="ir"))).node == "a"


async def test_hours_are_limited_where_the_site_limits_none(database: Database) -> None:
    """An owner's own GPU-hours count, also what was used before the limit; others are not asked."""
    farm = Farm(database)
    first = await farm.placement.place(request("ada", gpus=1))
    farm.clock.now += 3 * HOUR_SECONDS
    await farm.limit("ada", gpu_hours=2)
    with pytest.raises(QuotaExceeded, match=r"ada used 3\.0 of 2 GPU-hours in 7 days"):
        await farm.placement.place(request("ada", "more", gpus=1))
    assert (await farm.placement.place(request("ada", "cpu"))).state == "granted"
    assert (await farm.placement.place(request("bob", gpus=1))).state == "granted"
    await farm.release(first)
    await farm.limit("ada", gpu_hours=4)
    assert (await farm.placement.place(request("ada", "more", gpus=1))).state == "granted"


async def test_a_change_decides_the_line_anew(database: Database) -> None:
    """Who waits is granted when the limit allows it now, and leaves the line with the reason when it never will."""
    farm = Farm(database, gpus=1)
    await farm.limit("ada", servers=1)
    await farm.placement.place(request("ada", "1"))
    second, third = [await farm.placement.place(request("ada", name, gpus=1)) for name in "23"]
    await farm.limit("ada", servers=2)
    assert [farm.book.get(lease.id).state for lease in (second, third)] == ["granted", "waiting"]
    await farm.limit("ada", servers=2, kernels=("ir",), gpus=0)
    ended = await farm.book.find(third.id)
    assert (ended.state, ended.end) == ("released", "withdrawn")
    assert "ada may hold 0 GPUs" in ended.detail
    assert farm.book.get(second.id).state == "granted"  # what runs goes on


async def test_labels_that_come_later_hold_for_who_waits(database: Database) -> None:
    """A waiting request is placed by the labels that its owner has now; one that contradicts them ends."""
    farm = Farm(database, gpus=1)
    blocking = [await farm.placement.place(request("eve", name, gpus=1)) for name in "12"]
    anywhere = await farm.placement.place(request("ada", "any", gpus=1))
    in_a = await farm.placement.place(request("ada", "a", gpus=1, labels={"room": "a"}))
    await farm.limit("ada", labels={"room": "b"})
    ended = await farm.book.find(in_a.id)
    assert (ended.state, ended.end) == ("released", "quota")
    assert ended.detail == "ada may use nodes with room=b only: room=a cannot be asked for."
    first, second = sorted(blocking, key=lambda lease: str(lease.node))
    await farm.release(first)
    assert farm.book.get(anywhere.id).state == "waiting"
    await farm.release(second)
    assert farm.book.get(anywhere.id).node == "b"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("servers", -1),
        ("gpus", 10**9),
        ("gpu_hours", float("nan")),
        ("gpu_hours", -0.5),
        ("labels", {"a" * 101: ""}),
        ("kernels", ("python3", "a b")),
    ],
)
def test_what_is_no_limit_is_refused(field: str, value: Any) -> None:
    """A record with something that cannot be meant names the field."""
    with pytest.raises(InvalidField) as caught:
        OwnerLimits(**{field: value})
    assert caught.value.field.startswith(field)
