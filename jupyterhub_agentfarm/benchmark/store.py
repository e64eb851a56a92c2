"""Runs, results, samples and events in a database, so that they outlive the service.

The tables are reached through :class:`~..inventory.database.Database`: SQLite by default, PostgreSQL by URL, all work
on a thread of its own in the order in which it was asked. What a long run leaves is read in parts, and thinned or
added up by the database where a whole is not needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..errors import ConflictError, FarmUnavailable, NotFoundError
from ..inventory.database import Database
from ..records import from_json, to_json
from .models import GOING, BenchmarkRun, CaseResult, Cursor, RunEvent, Sample
from .tables import events_table, notebooks_table, results_table, runs_table, samples_table, upgrade

#: What an unusable database raises.
STORE_ERRORS = (sa.exc.SQLAlchemyError, OSError, FarmUnavailable)
#: Rows that are read at once.
CHUNK_ROWS = 2000
_RUN_COLUMNS = ("id", "suite", "state", "created_at")
_RESULT_COLUMNS = ("node", "phase", "lane", "repetition", "case", "warm_up", "outcome", "duration_seconds")


class BenchmarkStore:
    """The database of the benchmark service.

    Parameters
    ----------
    database
        SQLite or PostgreSQL; opened and closed here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self) -> list[tuple[BenchmarkRun, Cursor | None]]:
        """Make the tables; return the runs that were going when the service ended, and where they were.

        Raises
        ------
        ConfigError
            The database cannot be opened.
        """
        await self._database.open()
        await self._database.run(upgrade)
        query = sa.select(runs_table.c.record, runs_table.c.cursor).where(runs_table.c.state.in_(GOING))
        rows = await self._read(query.order_by(runs_table.c.created_at))
        return [(_run(row.record), from_json(Cursor, row.cursor) if row.cursor else None) for row in rows]

    async def close(self) -> None:
        """Finish what was asked and close; a second call does nothing."""
        await self._database.aclose()

    # ---- runs ----

    async def add(self, run: BenchmarkRun, cursor: Cursor | None = None) -> None:
        """Keep a new run.

        Raises
        ------
        ConflictError
            A run that is going has some of its nodes.
        """
        nodes = {node.name for node in run.taking_part}

        def _add(connection: Connection) -> None:
            going = sa.select(runs_table.c.record).where(runs_table.c.state.in_(GOING))
            for row in connection.execute(going):
                other = _run(row.record)
                if both := nodes & {node.name for node in other.taking_part}:
                    raise ConflictError(
                        f"run {other.id} of suite {other.suite} has {', '.join(sorted(both))}: wait for it, cancel it, "
                        "or name other nodes"
                    )
            connection.execute(runs_table.insert().values(**_run_row(run), cursor=_json(cursor)))

        await self._database.run(_add)

    async def save(self, run: BenchmarkRun) -> None:
        """Replace what is kept of a run; one that has ended is nowhere any more."""
        row = {**_run_row(run), **({} if run.going else {"cursor": sa.null()})}
        await self._write(runs_table.update().where(runs_table.c.id == run.id).values(**row))

    async def save_cursor(self, run_id: str, cursor: Cursor) -> None:
        """Replace where a run is."""
        update = runs_table.update().where(runs_table.c.id == run_id, runs_table.c.state.in_(GOING))
        await self._write(update.values(cursor=to_json(cursor)))

    async def runs(self, limit: int = 100) -> list[BenchmarkRun]:
        """Return the newest runs, the newest first."""
        query = sa.select(runs_table.c.record).order_by(runs_table.c.created_at.desc()).limit(limit)
        return [_run(row.record) for row in await self._read(query)]

    async def run(self, run_id: str) -> BenchmarkRun:
        """Return one run.

        Raises
        ------
        NotFoundError
            There is none with this id.
        """
        rows = await self._read(sa.select(runs_table.c.record).where(runs_table.c.id == run_id))
        if not rows:
            raise NotFoundError(f"there is no benchmark run {run_id!r}")
        return _run(rows[0].record)

    async def ended(self) -> list[tuple[str, str]]:
        """Return suite and state of every run that has ended."""
        query = sa.select(runs_table.c.suite, runs_table.c.state).where(runs_table.c.state.not_in(GOING))
        return [(row.suite, row.state) for row in await self._read(query)]

    # ---- notebooks ----

    async def add_notebook(self, content: bytes) -> str:
        """Keep a notebook and return its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()

        def _add(connection: Connection) -> None:
            known = sa.select(notebooks_table.c.sha256).where(notebooks_table.c.sha256 == sha256)
            if connection.execute(known).first() is None:
                connection.execute(notebooks_table.insert().values(sha256=sha256, content=content))

        await self._database.run(_add)
        return sha256

    async def notebook(self, sha256: str) -> bytes:
        """Return a notebook.

        Raises
        ------
        NotFoundError
            There is none with this hash.
        """
        rows = await self._read(sa.select(notebooks_table.c.content).where(notebooks_table.c.sha256 == sha256))
        if not rows:
            raise NotFoundError(f"there is no notebook {sha256}")
        return bytes(rows[0].content)

    # ---- results ----

    async def add_result(self, run_id: str, result: CaseResult) -> bool:
        """Keep one result; return False when there is one of its case, repetition, lane, phase and node already."""
        row = {"run": run_id, **{name: getattr(result, name) for name in _RESULT_COLUMNS}, "record": to_json(result)}
        key = [results_table.c[name] == row[name] for name in ("run", "node", "phase", "lane", "repetition", "case")]

        def _add(connection: Connection) -> bool:
            if connection.execute(sa.select(results_table.c.number).where(*key)).first() is not None:
                return False
            connection.execute(results_table.insert().values(**row))
            return True

        return await self._database.run(_add)

    async def results(self, run_id: str, newest: int | None = None) -> list[CaseResult]:
        """Return the results of a run in the order in which they came: all, or so many of the newest."""
        query = sa.select(results_table.c.record).where(results_table.c.run == run_id)
        if newest is None:
            rows = await self._read(query.order_by(results_table.c.number))
        else:
            rows = (await self._read(query.order_by(results_table.c.number.desc()).limit(newest)))[::-1]
        return [from_json(CaseResult, row.record) for row in rows]

    async def each_result(self, run_id: str | None = None) -> AsyncIterator[tuple[str, CaseResult]]:
        """Give the suite of every result, of one run or of all, and the result without what only reports need."""
        columns = (results_table.c.number, runs_table.c.suite, *(results_table.c[name] for name in _RESULT_COLUMNS))
        query = sa.select(*columns).join_from(results_table, runs_table)
        if run_id is not None:
            query = query.where(results_table.c.run == run_id)
        async for row in self._each(query, results_table.c.number):
            yield row.suite, CaseResult(**{name: getattr(row, name) for name in _RESULT_COLUMNS})

    async def positions(self, run_id: str, phase: str) -> dict[tuple[str, int], int]:
        """Return how many results each node and lane has in a phase."""
        key = (results_table.c.node, results_table.c.lane)
        query = sa.select(*key, sa.func.count()).where(results_table.c.run == run_id, results_table.c.phase == phase)
        return {(row[0], row[1]): row[2] for row in await self._read(query.group_by(*key))}

    async def outcomes(self, run_id: str) -> list[dict[str, Any]]:
        """Return how often each case came to each outcome on each node in each phase, and the seconds it took."""
        names = ("phase", "node", "case", "warm_up", "outcome")
        columns = [results_table.c[name] for name in names]
        seconds = sa.func.sum(results_table.c.duration_seconds)
        query = sa.select(*columns, sa.func.count().label("results"), seconds.label("seconds"))
        query = query.where(results_table.c.run == run_id).group_by(*columns).order_by(*columns)
        return [dict(row._mapping) for row in await self._read(query)]  # noqa: SLF001 - SQLAlchemy's public name

    # ---- samples and events ----

    async def add_samples(self, run_id: str, samples: Sequence[Sample]) -> None:
        """Keep samples."""
        if samples:
            rows = [{"run": run_id, **to_json(sample)} for sample in samples]
            await self._write(samples_table.insert(), rows)

    async def samples(self, run_id: str, most: int | None = None) -> list[Sample]:
        """Return the samples of a run in the order of time.

        Parameters
        ----------
        most
            Of each node, role and the farm about so many, spread evenly; None: all.
        """
        return [sample async for sample in self.each_sample(run_id, most)]

    async def each_sample(self, run_id: str, most: int | None = None) -> AsyncIterator[Sample]:
        """Give the samples of a run in the order of time; `most` as for :meth:`samples`."""
        query = sa.select(samples_table).where(samples_table.c.run == run_id)
        number: Any = samples_table.c.number
        if most is not None:
            query, number = await self._thinned(run_id, most)
        async for row in self._each(query, number):
            yield Sample(row.at, row.scope, row.name, {k: float(v) for k, v in row.values.items()})

    async def _thinned(self, run_id: str, most: int) -> tuple[Any, Any]:
        """Return a query of every n-th sample of each name, the first and the last among them, and its number."""
        of_run = samples_table.c.run == run_id
        same = (samples_table.c.scope, samples_table.c.name)
        place = sa.func.row_number().over(order_by=samples_table.c.number, partition_by=same).label("place")
        count = sa.func.count().over(partition_by=same).label("count")
        numbered = sa.select(samples_table, place, count).where(of_run).subquery()
        rounds = sa.select(sa.func.max(numbered.c.count))
        every = max(1, -(-((await self._read(rounds))[0][0] or 0) // max(1, most)))
        kept = sa.or_((numbered.c.place - 1) % every == 0, numbered.c.place == numbered.c.count)
        return sa.select(numbered).where(kept), numbered.c.number

    async def add_event(self, run_id: str, event: RunEvent) -> None:
        """Keep an event."""
        await self._write(events_table.insert().values(run=run_id, record=to_json(event)))

    async def events(self, run_id: str) -> list[RunEvent]:
        """Return the events of a run in the order in which they came."""
        query = sa.select(events_table.c.record).where(events_table.c.run == run_id).order_by(events_table.c.number)
        return [from_json(RunEvent, row.record) for row in await self._read(query)]

    # ---- inside ----

    async def _write(self, statement: Any, rows: list[dict[str, Any]] | None = None) -> None:
        await self._database.run(lambda connection: connection.execute(statement, rows))

    async def _read(self, statement: Any) -> list[Any]:
        return await self._database.run(lambda connection: list(connection.execute(statement)))

    async def _each(self, query: Any, number: Any) -> AsyncIterator[Any]:
        """Give the rows of a query in the order of `number`, read in parts."""
        after = -1
        while True:
            rows = await self._read(query.where(number > after).order_by(number).limit(CHUNK_ROWS))
            for row in rows:
                yield row
            if len(rows) < CHUNK_ROWS:
                return
            after = rows[-1].number


def _run(record: Mapping[str, Any]) -> BenchmarkRun:
    return from_json(BenchmarkRun, dict(record))


def _json(cursor: Cursor | None) -> Any:
    return sa.null() if cursor is None else to_json(cursor)


def _run_row(run: BenchmarkRun) -> Mapping[str, Any]:
    return {name: getattr(run, name) for name in _RUN_COLUMNS} | {"record": to_json(run)}
