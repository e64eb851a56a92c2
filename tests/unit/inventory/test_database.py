"""The database: transactions on one thread, two writers, modes and refusals."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from jupyterhub_agentfarm.errors import ConfigError, FarmUnavailable
from jupyterhub_agentfarm.inventory.database import SCHEMA_VERSION, Database, parse_url
from jupyterhub_agentfarm.inventory.store import added_nodes, node_marks
from jupyterhub_agentfarm.placement.lease_store import leases


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Database]:
    """An open database in a file."""
    database = Database(f"sqlite:///{path}")
    await database.open()
    try:
        yield database
    finally:
        await database.aclose()


def count(connection: Connection) -> int:
    """Return how many marks there are."""
    return int(connection.execute(sa.select(sa.func.count()).select_from(node_marks)).scalar_one())


def insert(connection: Connection, name: str) -> None:
    """Add a mark."""
    connection.execute(node_marks.insert().values(name=name, kind="cordon", reason="", at=1.5, by="ada"))


async def test_work_runs_on_one_thread_and_in_transactions(tmp_path: Path) -> None:
    """All work is done on one thread that is not the loop's; what raises is undone."""

    def fails(connection: Connection) -> None:
        insert(connection, "n1")
        raise KeyError("after the insert")

    async with opened(tmp_path / "a.sqlite") as database:
        threads = await asyncio.gather(*(database.run(lambda _c: threading.get_ident()) for _ in range(5)))
        assert set(threads) != {threading.get_ident()}
        assert len(set(threads)) == 1
        with pytest.raises(KeyError):
            await database.run(fails)
        assert await database.run(count) == 0
        await database.run(lambda connection: insert(connection, "n1"))
        assert await database.run(count) == 1


async def test_sqlite_is_private_and_durable(tmp_path: Path) -> None:
    """The file, its log and a directory that had to be made are the owner's alone; foreign keys are checked."""
    path = tmp_path / "made" / "a.sqlite"
    async with opened(path) as database:
        await database.run(lambda connection: insert(connection, "n1"))
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
        assert path.parent.stat().st_mode & 0o777 == 0o700
        settings = [
            await database.run(lambda c, name=name: c.exec_driver_sql(f"PRAGMA {name}").scalar())
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
        assert settings == ["wal", 1, 1]
    async with opened(path) as database:
        assert await database.run(count) == 1


async def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    """A database file with a wider mode gets 0600 when it is opened."""
    path = tmp_path / "a.sqlite"
    path.touch(mode=0o644)
    async with opened(path):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    """Two processes' worth of read-then-write on one file: every step counts, none fails as locked."""

    def increment(connection: Connection) -> None:
        at = connection.execute(sa.select(node_marks.c.at)).scalar_one()
        connection.execute(node_marks.update().values(at=at + 1))

    async with opened(tmp_path / "a.sqlite") as one, opened(tmp_path / "a.sqlite") as two:
        await one.run(lambda connection: insert(connection, "n1"))
        await asyncio.gather(*(database.run(increment) for database in (one, two) for _ in range(50)))
        assert await one.run(lambda c: c.execute(sa.select(node_marks.c.at)).scalar_one()) == 101.5


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a newer version is refused with what to do, and is not touched."""
    async with opened(tmp_path / "a.sqlite") as database:
        newer = sa.text("UPDATE schema_version SET version = version + 1")
        await database.run(lambda connection: connection.execute(newer))
        await database.run(added_nodes.drop)
    again = Database(f"sqlite:///{tmp_path / 'a.sqlite'}")
    with pytest.raises(ConfigError, match="newer jupyterhub-agentfarm"):
        await again.open()
    await again.aclose()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'a.sqlite'}")
    assert "added_nodes" not in sa.inspect(engine).get_table_names()
    engine.dispose()


async def test_a_column_that_came_later_is_added(tmp_path: Path) -> None:
    """A table of an earlier version gets the columns it lacks, empty, and keeps what it has."""
    path = tmp_path / "a.sqlite"
    lacking = [column for column in leases.columns if column.name != "end"]
    older = sa.Table("leases", sa.MetaData(), *[sa.Column(each.name, each.type) for each in lacking])
    engine = sa.create_engine(f"sqlite:///{path}")
    older.create(engine)
    with engine.begin() as connection:
        connection.execute(older.insert().values(id="1" * 32, owner="ada"))
    engine.dispose()
    for _ in range(2):
        async with opened(path) as database:
            rows = await database.run(lambda c: c.execute(sa.select(leases.c.owner, leases.c.end)).all())
            assert [tuple(row) for row in rows] == [("ada", None)]


async def test_an_older_schema_becomes_this_one(tmp_path: Path) -> None:
    """What this version wrote into a database, the older one that made it refuses to read."""
    async with opened(tmp_path / "a.sqlite") as database:
        older = sa.text("UPDATE schema_version SET version = version - 1")
        await database.run(lambda connection: connection.execute(older))
    async with opened(tmp_path / "a.sqlite") as database:
        found = await database.run(
            lambda connection: connection.execute(sa.text("SELECT version FROM schema_version")).all()
        )
    assert [tuple(row) for row in found] == [(SCHEMA_VERSION,)]


@pytest.mark.parametrize("url", ["", "/var/lib/agentfarm.sqlite", "mysql://u:s3cret@h/d", "sqlite:s3cret"])
def test_a_bad_url_names_the_option(url: str) -> None:
    """A URL that cannot be used names the option, and shows no password."""
    with pytest.raises(ConfigError, match=r"ControllerApp\.db_url") as caught:
        Database(url)
    assert "s3cret" not in str(caught.value)


async def test_messages_name_the_option_of_the_service(tmp_path: Path) -> None:
    """Whose database cannot be used is in every message: the benchmark's is not the controller's."""
    with pytest.raises(ConfigError, match=r"^BenchmarkApp\.db_url must be a URL"):
        Database("mysql://h/d", "BenchmarkApp.db_url")
    (tmp_path / "a.sqlite").write_text("no database " * 100)
    database = Database(f"sqlite:///{tmp_path}/a.sqlite", "BenchmarkApp.db_url")
    with pytest.raises(ConfigError, match=r"^BenchmarkApp\.db_url: "):
        await database.open()
    with pytest.raises(FarmUnavailable, match=r"BenchmarkApp\.db_url is not open yet"):
        await database.run(count)
    await database.aclose()


def test_postgresql_goes_through_psycopg() -> None:
    """The plain form of the URL works with the driver of the `postgresql` extra."""
    assert parse_url("postgresql://u@h/d").drivername == "postgresql+psycopg"


async def test_a_database_that_cannot_be_reached_names_the_option(tmp_path: Path) -> None:
    """A file that is no database and a server that is not there are ConfigErrors without the password."""
    (tmp_path / "a.sqlite").write_text("no database " * 100)
    for url in (f"sqlite:///{tmp_path}/a.sqlite", "postgresql://u:s3cret@127.0.0.1:1/d"):
        database = Database(url)
        with pytest.raises(ConfigError, match=r"ControllerApp\.db_url") as caught:
            await database.open()
        assert "s3cret" not in str(caught.value)
        assert "s3cret" not in repr(database)
        await database.aclose()


async def test_cancelling_undoes_only_what_has_not_begun(tmp_path: Path) -> None:
    """The transaction of a cancelled caller is committed when it had begun, and never begins when it had not."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        begun.set()
        assert go_on.wait(10)
        insert(connection, "n1")

    async with opened(tmp_path / "a.sqlite") as database:
        runs = asyncio.create_task(database.run(slow))
        await asyncio.to_thread(begun.wait, 10)
        waits = asyncio.create_task(database.run(lambda connection: insert(connection, "n2")))
        await asyncio.sleep(0)
        for task in (runs, waits):
            task.cancel()
        await asyncio.wait([runs, waits])
        go_on.set()
        names = await database.run(lambda connection: list(connection.execute(sa.select(node_marks.c.name)).scalars()))
        assert names == ["n1"]


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    """Closing twice is one close; later work is refused with a sentence, and so is work before open."""
    database = Database(f"sqlite:///{tmp_path / 'a.sqlite'}")
    with pytest.raises(FarmUnavailable, match="not open yet"):
        await database.run(count)
    await database.open()
    await database.aclose()
    await database.aclose()
    with pytest.raises(FarmUnavailable, match="closed"):
        await database.run(count)
