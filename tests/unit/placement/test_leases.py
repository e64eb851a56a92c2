"""LeaseBook: what is committed, what memory shows, and what the database itself refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from node_records import request

from jupyterhub_agentfarm.errors import ConflictError, NotFoundError
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Candidate, Explanation, Lease, ServerExit, ServerStatus
from jupyterhub_agentfarm.placement import LeaseBook
from jupyterhub_agentfarm.placement.lease_store import lease_gpus

WHY = Explanation(1.0, "n1", (Candidate("n1", score=0.5, scores={"cpu": 0.5}),), 1, {})
SERVER = ServerStatus(
    "l", 1, "running", "boot", 7, 99, "10.0.0.1", 4001, ("GPU-a",), 5.0, "/cg", ServerExit("oom", 6.0)
)


@pytest.fixture
async def opened(db_url: str) -> AsyncIterator[Database]:
    """An open database of each kind."""
    database = Database(db_url)
    await database.open()
    yield database
    await database.aclose()


async def reopened(database: Database) -> LeaseBook:
    """Return what a controller that starts now would know."""
    book = LeaseBook(database)
    await book.open()
    return book


async def test_life_survives_a_restart(opened: Database) -> None:
    """In every state a new book on the same database knows the same lease, in all its fields."""
    book = LeaseBook(opened)
    lease = await book.add(request(gpus=1, labels={"a": "b"}, memory_gib=1.5), WHY, "n1 is busy")
    assert (await reopened(opened)).alive() == [lease]
    lease = await book.grant(lease, "n1", ("GPU-a",), WHY)
    assert (await reopened(opened)).get(lease.id) == lease
    lease = await book.change(lease.id, ("granted",), state="running", url="http://x:1", server=SERVER)
    assert (await reopened(opened)).on_node("n1") == [lease]
    lease = await book.release(lease.id, "the server was stopped")
    after = await reopened(opened)
    assert after.alive() == []
    assert await after.find(lease.id) == lease
    assert await after.released() == [lease]


async def test_the_database_refuses_a_double_lease(opened: Database) -> None:
    """A second writer that knows nothing of the first cannot lease the same GPU, and nothing of its try is left."""
    first, second = LeaseBook(opened), LeaseBook(opened)
    held = await first.grant(request(), "n1", ("GPU-a", "GPU-b"), WHY)
    with pytest.raises(ConflictError, match="a GPU of n1 is under another lease already"):
        await second.grant(request("bob"), "n1", ("GPU-c", "GPU-b"), WHY)
    assert second.alive() == []
    assert (await reopened(opened)).alive() == [held]
    other_node = await second.grant(request("bob"), "n2", ("GPU-b",), WHY)
    assert other_node.gpus == ("GPU-b",)


async def test_a_released_gpu_can_be_leased_again(opened: Database) -> None:
    """The end of a lease and of its hold are one transaction."""
    book = LeaseBook(opened)
    lease = await book.grant(request(), "n1", ("GPU-a",), WHY)
    await book.release(lease.id, "done")
    rows = await opened.run(lambda connection: connection.execute(sa.select(lease_gpus)).all())
    assert rows == []
    assert (await book.grant(request(), "n1", ("GPU-a",), WHY)).gpus == ("GPU-a",)


async def test_epoch_grows_for_ever(opened: Database) -> None:
    """Epochs grow over restarts, also when old leases were forgotten."""
    book = LeaseBook(opened)
    first = await book.grant(request(), "n1", (), WHY)
    await book.release(first.id, "done")
    assert await book.forget(-1) == 1
    with pytest.raises(NotFoundError):
        await book.find(first.id)
    second = await (await reopened(opened)).grant(request(), "n1", (), WHY)
    assert second.epoch > first.epoch


async def test_changes_need_their_state(database: Database) -> None:
    """A change from a state the lease is not in is refused; release works from all, twice."""
    book = LeaseBook(database)
    lease = await book.add(request(), WHY, "")
    with pytest.raises(ConflictError, match="is waiting: this needs granted"):
        await book.change(lease.id, ("granted",), state="running")
    done = await book.release(lease.id, "first")
    assert await book.release(lease.id, "second") == done
    with pytest.raises(NotFoundError):
        await book.change(lease.id, ("waiting",), state="granted")
    with pytest.raises(NotFoundError):
        await book.release("0" * 32, "never was")


async def test_changes_are_told_after_the_commit(database: Database) -> None:
    """Whoever hears of a change finds it in the database; a note on the line is told only when it is new."""
    heard: list[Lease] = []
    book = LeaseBook(database, on_change=heard.append)
    lease = await book.add(request(), WHY, "busy")
    lease = book.note_waiting(lease.id, 1, "busy", WHY)
    book.note_waiting(lease.id, 1, "busy", WHY)
    granted = await book.grant(lease, "n1", ("GPU-a",), WHY)
    assert [(seen.state, seen.position) for seen in heard] == [("waiting", None), ("waiting", 1), ("granted", None)]
    assert (await reopened(database)).get(lease.id) == granted == heard[-1]
