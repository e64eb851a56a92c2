"""GPU-hours: the curve says what a look at the whole history says; limits refuse, and say when they do not."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from node_records import gpu, node, request

from jupyterhub_agentfarm.controller.answers import error_of
from jupyterhub_agentfarm.errors import QuotaExceeded
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import PlacementRequest, UserOptions
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy
from jupyterhub_agentfarm.placement.usage import HOUR_SECONDS, UsageBook, Used, brute_force

WINDOW = 100.0
#: Whole numbers, so that grants, releases, questions and the window's edges fall together.
TIMES = st.integers(0, 300).map(float)
HISTORY = st.lists(
    st.tuples(st.sampled_from(("ada", "bob")), st.integers(1, 4), TIMES, st.none() | st.integers(-20, 150)), max_size=12
).map(
    lambda items: [
        Used(str(number), owner, gpus, at, None if length is None else at + length)
        for number, (owner, gpus, at, length) in enumerate(items)
    ]
)


def book_of(history: list[Used], until: float = float("inf")) -> UsageBook:
    """Return a book that was told of each grant and release as it came."""
    book = UsageBook(WINDOW)
    told = [(used.granted_at, 0, Used(used.lease, used.owner, used.gpus, used.granted_at, None)) for used in history]
    told += [(max(used.granted_at, used.released_at), 1, used) for used in history if used.released_at is not None]
    for at, _, used in sorted(told, key=lambda item: item[:2]):
        if at <= until:
            book.note(used)
    return book


@given(HISTORY, st.lists(TIMES, min_size=1, max_size=5).map(sorted))
@example([Used("0", "ada", 1, 50.0, 30.0)], [60.0])
def test_the_curve_is_the_history(history: list[Used], questions: list[float]) -> None:
    """At any time, what was used in the window is what adding up all leases gives, whatever the clock did."""
    book = book_of(history)
    for owner, now in itertools.product(("ada", "bob"), questions):
        assert book.gpu_seconds(owner, now) == pytest.approx(brute_force(history, owner, WINDOW, now), abs=1e-6)


@given(HISTORY, TIMES)
def test_loaded_at_once_is_the_same(history: list[Used], now: float) -> None:
    """Told of grant and release together and in any order, as when the database is read, it says the same."""
    book = UsageBook(WINDOW)
    for used in reversed(history):
        book.note(used)
    assert book.gpu_seconds("ada", now) == pytest.approx(brute_force(history, "ada", WINDOW, now), abs=1e-6)


@given(HISTORY, TIMES, st.integers(0, 400).map(float))
def test_when_it_falls_to(history: list[Used], now: float, wanted: float) -> None:
    """After the time said, no more than wanted counts; just before it, more does; nothing more being used."""
    known = [used for used in history if used.granted_at <= now and (used.released_at or 0) <= now]
    at = book_of(known, now).falls_to("ada", wanted, now)
    ended = [
        Used(used.lease, used.owner, used.gpus, used.granted_at, now if used.released_at is None else used.released_at)
        for used in known
    ]
    assert brute_force(ended, "ada", WINDOW, at) <= wanted + 1e-6
    if at > now:
        assert brute_force(ended, "ada", WINDOW, max(now, at - 0.01)) > wanted - 1e-6


def test_the_refusal_says_all() -> None:
    """Which quota, used, limit, and when an hour is free again; over the API too."""
    book, day = UsageBook(7 * 24 * HOUR_SECONDS), 24 * HOUR_SECONDS
    monday = 1_763_942_400.0  # 2025-11-24 00:00 UTC
    book.note(Used("1", "ada", 4, monday, monday + 10 * HOUR_SECONDS))
    book.note(Used("2", "ada", 1, monday + day, None))
    now = monday + day + 0.2 * HOUR_SECONDS
    with pytest.raises(QuotaExceeded) as refused:
        book.check("ada", 40, now)
    assert refused.value.message == (
        "ada used 40.2 of 40 GPU-hours in 7 days: 1 h is free again on Monday 01 December 00:18 UTC, "
        "if nothing more is used until then"
    )
    answered = error_of(403, {"message": refused.value.message, "reason": "quota", **refused.value.facts()})
    assert isinstance(answered, QuotaExceeded)
    assert answered.facts() == refused.value.facts()
    assert answered.facts()["frees_at"] == pytest.approx(monday + 7 * day + 0.3 * HOUR_SECONDS)
    book.check("ada", 41, now)
    book.check("bob", 0.1, now)
    with pytest.raises(QuotaExceeded, match="no server with a GPU is allowed"):
        book.check("bob", 0, now)


class Clock:
    """A clock that the test sets."""

    now = 1_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


async def test_hours_are_refused_at_once(database: Database) -> None:
    """At the limit a server with a GPU is refused, one without is not, what runs goes on, and others are served."""
    clock = Clock()
    book = LeaseBook(database, clock)
    placement = Placement(PlacementPolicy(max_gpu_hours_per_owner=2, group_max_gpu_hours={"lab": 5}), book)
    placement.tell(NodeView(node("a", gpu("GPU-a"), gpu("GPU-b"))))
    runs = await placement.place(request("ada", "one", gpus=1))
    clock.now += 2 * HOUR_SECONDS
    with pytest.raises(QuotaExceeded, match=r"ada used 2\.0 of 2 GPU-hours in 7 days: 1 h is free again on"):
        await placement.place(request("ada", "two", gpus=1))
    assert (await placement.place(request("ada", "three"))).state == "granted"
    member = PlacementRequest("ada", "four", UserOptions(gpus=1), groups=("lab",))
    assert (await placement.place(member)).state == "granted"
    assert book.get(runs.id).state == "granted"


async def test_the_line_is_refused_too(database: Database) -> None:
    """Who uses up the hours while waiting is taken out of the line, with the reason; those behind move up."""
    clock = Clock()
    book = LeaseBook(database, clock)
    placement = Placement(PlacementPolicy(max_gpu_hours_per_owner=2), book)
    placement.tell(NodeView(node("a", gpu("GPU-a"))))
    await placement.place(request("ada", gpus=1))
    waits = await placement.place(request("ada", "second", gpus=1))
    behind = await placement.place(request("bob", gpus=1))
    clock.now += 3 * HOUR_SECONDS
    await placement.advance()
    ended = await book.find(waits.id)
    assert (ended.state, ended.end) == ("released", "quota")
    assert ended.detail.startswith("ada used 3.0 of 2 GPU-hours in 7 days: 1 h is free again on")
    assert book.get(behind.id).position == 1


async def test_the_database_remembers(db_url: str) -> None:
    """A book that is opened anew counts what was used before, running servers included, and no longer ago."""
    database, clock = Database(db_url), Clock()
    await database.open()
    try:
        book = LeaseBook(database, clock)
        placement = Placement(PlacementPolicy(), book)
        placement.tell(NodeView(node("a", *(gpu(f"GPU-{number}") for number in range(4)))))
        long_ago = await placement.place(request("ada", "old", gpus=2))
        clock.now += 100
        await book.release(long_ago.id, "stopped")
        clock.now += 1000
        lately = await placement.place(request("ada", "new", gpus=3))
        clock.now += 10
        await book.release(lately.id, "stopped")
        await placement.place(request("ada", "runs", gpus=1))
        clock.now += 5
        assert book.usage.gpu_seconds("ada", clock.now) == 200 + 30 + 5
        again = LeaseBook(database, clock)
        await again.open(500)
        assert again.usage.gpu_seconds("ada", clock.now) == 30 + 5
        assert again.usage.owners(clock.now) == ["ada"]
    finally:
        await database.aclose()


def test_groups_may_have_more_servers() -> None:
    """The largest limit of an owner's groups counts for servers as for GPUs; 0 for nobody in one means none."""
    policy = PlacementPolicy(max_servers_per_owner=1, group_max_servers={"lab": 3, "guests": 0})
    assert [policy.max_servers(groups) for groups in ((), ("lab", "guests"), ("guests",))] == [1, 3, 0]
    assert policy.max_gpu_hours(("lab",)) is None
