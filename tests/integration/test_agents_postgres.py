"""The agents service of a real Hub on PostgreSQL: it is killed, and then its database is, while tasks execute."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import postgres
import pytest
import pytest_asyncio
import sqlalchemy as sa
from tasks_hub import TasksHub, lines_of, tasks_hub
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Cluster]:
    """A PostgreSQL server."""
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.cluster() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(database: postgres.Cluster) -> AsyncIterator[TasksHub]:
    """A Hub with one node, whose agents service keeps everything in that database."""
    async with tasks_hub(1, f"c.AgentsApp.db_url = {database.url!r}\n") as running:
        yield running


def waiting_cells(log: Path, go: Path) -> tuple[str, ...]:
    """Return cells that write down that they are executed, the second one once `go` is there."""
    return (
        f"open({str(log)!r}, 'a').write('begun\\n')",
        f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.02)",
        f"open({str(log)!r}, 'a').write('done\\n')",
    )


def states_in(database: postgres.Cluster) -> dict[str, str]:
    """Return the tasks' states by id, asked of the database."""
    engine = sa.create_engine(database.url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        found = {row.id: row.state for row in connection.execute(sa.text("SELECT id, state FROM agent_tasks"))}
    engine.dispose()
    return found


async def test_a_killed_service_goes_on(site: TasksHub, database: postgres.Cluster, tmp_path: Path) -> None:
    """Registered, submitted, executing when the service is killed: the same attempt completes, each cell once."""
    log, go = tmp_path / "log", tmp_path / "go"
    task = await site.submit("bot", *waiting_cells(log, go), idempotency_key="once")
    before = (await site.running(task))["attempts"][0]
    await eventually(lambda: lines_of(log) == ["begun"], "its first cell is executed", 30, 0.05)
    await site.kill_service()
    assert states_in(database)[task] == "executing"
    assert await site.submit("bot", *waiting_cells(log, go), idempotency_key="once") == task
    go.touch()
    view = await site.ended(task)
    assert (view["state"], view["attempt"]) == ("completed", 1), view
    after = view["attempts"][0]
    assert [after[name] for name in ("run_id", "fence", "node")] == [
        before[name] for name in ("run_id", "fence", "node")
    ]
    assert lines_of(log) == ["begun", "done"]
    assert states_in(database)[task] == "completed"
    assert not list(site.hub.directory.rglob("agents.sqlite")), "it kept a database of its own"


async def test_a_restarted_database_costs_nothing(site: TasksHub, database: postgres.Cluster, tmp_path: Path) -> None:
    """A notebook that ends while the database is away is collected when that is back; meanwhile requests are 503."""
    log, go = tmp_path / "log", tmp_path / "go"
    task = await site.submit("bot", *waiting_cells(log, go))
    await site.running(task)
    database.stop()
    try:
        go.touch()
        await eventually(lambda: lines_of(log) == ["begun", "done"], "the notebook has ended", 30, 0.05)
        with pytest.raises(ValueError, match=r"503 .*the database of tasks does not answer"):
            await site.task(task)
    finally:
        database.start()
    view = await site.ended(task)
    assert (view["state"], view["attempt"]) == ("completed", 1), view
    assert lines_of(log) == ["begun", "done"]
