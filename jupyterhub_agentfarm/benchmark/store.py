"""Runs, results and samples in a database, so that they outlive the service.

The tables are reached through :class:`~..inventory.database.Database`: SQLite by default, PostgreSQL by URL, all work
on a thread of its own in the order in which it was asked. A run that was going when its service was killed is marked
`interrupted` at the next start; its results and samples stay.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..errors import ConflictError, FarmUnavailable, NotFoundError
from ..inventory.database import Database, metadata
from ..records import from_json, to_json
from .models import GOING, BenchmarkRun, CaseResult, Sample

#: What an unusable database raises.
STORE_ERRORS = (sa.exc.SQLAlchemyError, OSError, FarmUnavailable)
_RUN_COLUMNS = ("id", "suite", "state", "created_at")
runs_table = sa.Table(
    "benchmark_runs",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("suite", sa.String(63), nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("created_at", sa.Float, nullable=False, index=True),
    sa.Column("record", sa.JSON, nullable=False),
)
results_table = sa.Table(
    "benchmark_results",
    metadata,
    sa.Column("run", sa.String(40), sa.ForeignKey("benchmark_runs.id"), primary_key=True),
    sa.Column("node", sa.String(63), primary_key=True),
    sa.Column("case", sa.String(63), primary_key=True),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("duration_seconds", sa.Float),
    sa.Column("record", sa.JSON, nullable=False),
)
samples_table = sa.Table(
    "benchmark_samples",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.String(40), sa.ForeignKey("benchmark_runs.id"), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("scope", sa.String(10), nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("values", sa.JSON, nullable=False),
)


class BenchmarkStore:
    """The database of the benchmark service.

    Parameters
    ----------
    database
        SQLite or PostgreSQL; opened and closed here.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self) -> list[BenchmarkRun]:
        """Make the tables; mark runs that were going as interrupted, and return them.

        Raises
        ------
        ConfigError
            The database cannot be opened.
        """
        await self._database.open()
        query = sa.select(runs_table.c.record).where(runs_table.c.state.in_(GOING))
        left = [from_json(BenchmarkRun, row.record) for row in await self._read(query)]
        marked = [interrupted(run, "the benchmark service ended in the middle of the run") for run in left]
        for run in marked:
            await self.save(run)
        return marked

    async def close(self) -> None:
        """Finish what was asked and close; a second call does nothing."""
        await self._database.aclose()

    async def add(self, run: BenchmarkRun) -> None:
        """Keep a new run.

        Raises
        ------
        ConflictError
            Another run is going: there is one at a time.
        """

        def _add(connection: Connection) -> None:
            going = sa.select(runs_table.c.id).where(runs_table.c.state.in_(GOING))
            if (other := connection.execute(going).scalar()) is not None:
                raise ConflictError(f"run {other} is going, and there is one at a time: wait for it or cancel it")
            connection.execute(runs_table.insert().values(**_run_row(run)))

        await self._database.run(_add)

    async def save(self, run: BenchmarkRun) -> None:
        """Replace what is kept of a run."""
        await self._write(runs_table.update().where(runs_table.c.id == run.id).values(**_run_row(run)))

    async def add_result(self, run_id: str, result: CaseResult) -> None:
        """Keep one result."""
        row: dict[str, Any] = {"run": run_id, "node": result.node, "case": result.case, "outcome": result.outcome}
        row |= {"duration_seconds": result.duration_seconds, "record": to_json(result)}
        await self._write(results_table.insert().values(**row))

    async def add_samples(self, run_id: str, samples: list[Sample]) -> None:
        """Keep samples."""
        if samples:
            rows = [{"run": run_id, **to_json(sample)} for sample in samples]
            await self._write(samples_table.insert(), rows)

    async def _write(self, statement: Any, rows: list[dict[str, Any]] | None = None) -> None:
        await self._database.run(lambda connection: connection.execute(statement, rows))

    async def _read(self, statement: Any) -> list[Any]:
        return await self._database.run(lambda connection: list(connection.execute(statement)))

    async def runs(self, limit: int = 100) -> list[BenchmarkRun]:
        """Return the newest runs, the newest first."""
        query = sa.select(runs_table.c.record).order_by(runs_table.c.created_at.desc()).limit(limit)
        return [from_json(BenchmarkRun, row.record) for row in await self._read(query)]

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
        return from_json(BenchmarkRun, rows[0].record)

    async def results(self, run_id: str) -> list[CaseResult]:
        """Return the results of a run."""
        query = sa.select(results_table.c.record).where(results_table.c.run == run_id)
        return [from_json(CaseResult, row.record) for row in await self._read(query)]

    async def samples(self, run_id: str) -> list[Sample]:
        """Return the samples of a run in the order of time."""
        columns = (samples_table.c.at, samples_table.c.scope, samples_table.c.name, samples_table.c["values"])
        query = sa.select(*columns).where(samples_table.c.run == run_id).order_by(samples_table.c.number)
        rows = await self._read(query)
        return [Sample(row[0], row[1], row[2], {k: float(v) for k, v in row[3].items()}) for row in rows]

    async def totals(self) -> tuple[list[tuple[BenchmarkRun, CaseResult]], list[BenchmarkRun]]:
        """Return every result with its run, and every ended run: what counters start from."""
        joined = sa.select(runs_table.c.record, results_table.c.record).join_from(results_table, runs_table)
        pairs = [(from_json(BenchmarkRun, row[0]), from_json(CaseResult, row[1])) for row in await self._read(joined)]
        ended = await self._read(sa.select(runs_table.c.record).where(runs_table.c.state.not_in(GOING)))
        return pairs, [from_json(BenchmarkRun, row.record) for row in ended]


def interrupted(run: BenchmarkRun, detail: str) -> BenchmarkRun:
    """Return `run` as interrupted now."""
    return from_json(BenchmarkRun, {**to_json(run), "state": "interrupted", "detail": detail, "ended_at": time.time()})


def _run_row(run: BenchmarkRun) -> Mapping[str, Any]:
    return {name: getattr(run, name) for name in _RUN_COLUMNS} | {"record": to_json(run)}
