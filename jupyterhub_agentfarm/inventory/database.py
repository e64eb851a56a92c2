"""Database: the one database of a service, used from one thread, in transactions.

``await database.run(work)`` calls ``work(connection)`` on the database's own thread inside a transaction: committed
when it returns, rolled back when it raises. Work from many tasks is done one after the other, in the order of the
calls, so that what one transaction reads is still true when it writes.

SQLite runs with a write-ahead log and begins every transaction as a writer (``BEGIN IMMEDIATE``), so a second process
waits instead of failing half-way. Its file has mode 0600, and its connection is kept: taking one from the pool and
giving it back is a tenth of a small transaction. PostgreSQL is reached through psycopg.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.url import URL

from jupyterhub_agentfarm.errors import ConfigError, FarmUnavailable

T = TypeVar("T")

#: Tables of every part; a part that has some adds them at import.
metadata = sa.MetaData()
#: Grows when a table, or a record in one, changes in a way that older code cannot read.
SCHEMA_VERSION = 4
#: How long a transaction waits for another process's, in seconds.
BUSY_SECONDS = 10

_schema = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True))


def parse_url(text: str, option: str = "ControllerApp.db_url") -> URL:
    """Return the database's URL.

    Parameters
    ----------
    text
        SQLAlchemy URL.
    option
        Name of the option that it comes from, for messages.

    Raises
    ------
    ConfigError
        It is no URL, or one of a database that is not supported.
    """
    wanted = f"{option} must be a URL such as sqlite:////var/lib/agentfarm/agentfarm.sqlite"
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as exc:
        # The text itself may hold a password.
        raise ConfigError(f"{wanted} or postgresql://user@host/name; this one cannot be parsed") from exc
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ConfigError(f"{wanted}, or one of PostgreSQL; {backend} is not supported")
    return url


class Database:
    """The database of the controller, or of another service.

    Parameters
    ----------
    url
        SQLAlchemy URL of SQLite or PostgreSQL.
    option
        Name of the option that the URL comes from, for messages.

    Raises
    ------
    ConfigError
        The URL cannot be used.
    """

    def __init__(self, url: str, option: str = "ControllerApp.db_url") -> None:
        self._option = option
        self._url = parse_url(url, option)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agentfarm-database")
        self._engine: Engine | None = None
        #: SQLite's; PostgreSQL's are looked at before each transaction, because its server may have been restarted.
        self._kept: Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"Database({self._url.render_as_string(hide_password=True)!r})"

    async def open(self) -> None:
        """Connect, make the tables that are missing, and check the schema.

        Raises
        ------
        ConfigError
            The database cannot be used, or was made by a newer version.
        """
        await self._on_thread(self._open)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Return what `work(connection)` returns, called on the database's thread in a transaction.

        A caller that is cancelled does not undo a transaction that has begun: it ends on its thread. One that still
        waits for the thread then never begins.

        Raises
        ------
        FarmUnavailable
            The database is not open.
        """
        return await self._on_thread(lambda: self._transaction(work))

    async def aclose(self) -> None:
        """Finish what was asked for and disconnect; may be called again."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._dispose)
        self._thread.shutdown(wait=False)

    async def _on_thread(self, call: Callable[[], T]) -> T:
        if self._closed:
            raise FarmUnavailable(f"the database of {self._option} is closed: the service is stopping")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    # ---- on the database's thread -------------------------------------------------------------------------------

    def _transaction(self, work: Callable[[Connection], T]) -> T:
        if self._engine is None:
            raise FarmUnavailable(f"the database of {self._option} is not open yet")
        if self._kept is not None:
            with self._kept.begin():
                # Not by an event of the engine: SQLAlchemy then looks for listeners at every step of every statement.
                self._kept.exec_driver_sql("BEGIN IMMEDIATE")
                return work(self._kept)
        with self._engine.begin() as connection:
            return work(connection)

    def _open(self) -> None:
        if self._engine is not None:
            return
        try:
            self._engine = self._make_engine()
            if self._url.get_backend_name() == "sqlite":
                self._kept = self._engine.connect()
            self._transaction(self._prepare_schema)
        except ModuleNotFoundError as exc:
            raise ConfigError(
                f"{self._option} needs {exc.name}: pip install 'jupyterhub-agentfarm[postgresql]'"
            ) from exc
        except (sa.exc.SQLAlchemyError, OSError) as exc:
            self._dispose()
            cause = getattr(exc, "orig", None) or exc
            raise ConfigError(f"{self._option}: {self!r} cannot be used: {cause}") from exc
        except ConfigError:
            self._dispose()
            raise

    def _make_engine(self) -> Engine:
        if self._url.get_backend_name() != "sqlite":
            return sa.create_engine(self._url, pool_pre_ping=True, pool_size=1, max_overflow=0)
        if self._url.database and self._url.database != ":memory:":
            _private_file(Path(self._url.database))
        engine = sa.create_engine(self._url, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _on_sqlite_connect)
        return engine

    def _prepare_schema(self, connection: Connection) -> None:
        _schema.create(connection, checkfirst=True)
        found = connection.execute(sa.select(sa.func.max(_schema.c.version))).scalar()
        if found is not None and found > SCHEMA_VERSION:
            raise ConfigError(
                f"the database at {self._option} was made by a newer jupyterhub-agentfarm (schema {found}, this one "
                f"reads up to {SCHEMA_VERSION}): install the newer version again, or restore a backup from before it"
            )
        metadata.create_all(connection)
        _add_columns(connection)
        if found is None:
            connection.execute(_schema.insert().values(version=SCHEMA_VERSION))
        elif found < SCHEMA_VERSION:
            connection.execute(_schema.update().values(version=SCHEMA_VERSION))

    def _dispose(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def _add_columns(connection: Connection) -> None:
    """Add the columns that tables of an earlier version lack; those that came later may be empty."""
    found = sa.inspect(connection)
    for table in metadata.sorted_tables:
        known = {column["name"] for column in found.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known and column.nullable:
                definition = sa.schema.CreateColumn(column).compile(connection)
                name = connection.dialect.identifier_preparer.format_table(table)
                connection.execute(sa.DDL(f"ALTER TABLE {name} ADD COLUMN {definition}"))


def _private_file(path: Path) -> None:
    """Make the file before SQLite does, so that its log files take over the mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def _on_sqlite_connect(dbapi_connection: Any, _record: object) -> None:
    # The driver's own transactions begin too late for a read that is followed by a write.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
