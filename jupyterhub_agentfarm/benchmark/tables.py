"""The tables of the benchmark's database, and how those of an earlier version become these.

A result is one case in one repetition of one lane of a node in a phase of a run; keeping it twice keeps it once.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ..inventory.database import metadata

runs_table = sa.Table(
    "benchmark_runs",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("suite", sa.String(63), nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("created_at", sa.Float(53), nullable=False, index=True),
    sa.Column("record", sa.JSON, nullable=False),
    #: Where it is, for a service that is started anew; null when it has ended.
    sa.Column("cursor", sa.JSON),
)
results_table = sa.Table(
    "benchmark_case_results",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.String(40), sa.ForeignKey("benchmark_runs.id"), nullable=False),
    sa.Column("node", sa.String(63), nullable=False),
    sa.Column("phase", sa.String(63), nullable=False),
    sa.Column("lane", sa.Integer, nullable=False),
    sa.Column("repetition", sa.Integer, nullable=False),
    sa.Column("case", sa.String(63), nullable=False),
    sa.Column("warm_up", sa.Boolean, nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("duration_seconds", sa.Float(53)),
    sa.Column("record", sa.JSON, nullable=False),
    sa.UniqueConstraint("run", "node", "phase", "lane", "repetition", "case"),
)
samples_table = sa.Table(
    "benchmark_samples",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.String(40), sa.ForeignKey("benchmark_runs.id"), nullable=False, index=True),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("scope", sa.String(10), nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("values", sa.JSON, nullable=False),
)
events_table = sa.Table(
    "benchmark_events",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.String(40), sa.ForeignKey("benchmark_runs.id"), nullable=False, index=True),
    sa.Column("record", sa.JSON, nullable=False),
)
#: The notebooks of runs, as they were when the run was started.
notebooks_table = sa.Table(
    "benchmark_notebooks",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

#: Results as they were kept when a run had each case once on a node.
_OLD_RESULTS = "benchmark_results"


def upgrade(connection: Connection) -> None:
    """Move the results of an earlier version into the table of this one."""
    if not sa.inspect(connection).has_table(_OLD_RESULTS):
        return
    old = sa.Table(_OLD_RESULTS, sa.MetaData(), autoload_with=connection)
    same = ("run", "node", "case", "outcome", "duration_seconds", "record")
    given = {"phase": sa.literal(""), "lane": sa.literal(0), "repetition": sa.literal(1), "warm_up": sa.false()}
    chosen = sa.select(*(old.c[name] for name in same), *given.values()).order_by(old.c.run, old.c.node, old.c.case)
    connection.execute(results_table.insert().from_select([*same, *given], chosen))
    old.drop(connection)
