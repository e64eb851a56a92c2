"""The tables of tasks in the database.

A task's columns are what tasks are selected by, its request, and in its record the rest. The notebook is in a file.
Records are read as they were written, without the checks of :mod:`~..records`: nobody else writes them. What only grows
is numbered by the database: tasks (in the order of their submission), attempts (their fencing token) and changes (what
followers resume from).
"""

from __future__ import annotations

import sqlalchemy as sa

from ...inventory.database import metadata
from ..models import Change

_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ID = sa.String(16)

tasks_table = sa.Table(
    "agent_tasks",
    metadata,
    sa.Column("number", _number, primary_key=True, autoincrement=True),
    sa.Column("id", _ID, nullable=False, unique=True),
    sa.Column("agent", sa.String(63), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("project", sa.String(255)),
    sa.Column("assignee", sa.String(255)),
    sa.Column("created_by", sa.String(255), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("available_at", sa.Float(53), nullable=False),
    sa.Column("changed_at", sa.Float(53), nullable=False),
    # Who submitted it under which key, and a digest of what: these stay when the task is handed over.
    sa.Column("submitted_for", sa.String(63), nullable=False),
    sa.Column("idempotency_key", sa.String(200)),
    sa.Column("digest", sa.String(64), nullable=False),
    # JSON; all but its priority never changes, and it is decoded only once in a while.
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
    # Of the notebook as it was submitted; null of tasks at a path, and of those from before this was kept.
    sa.Column("notebook_bytes", sa.BigInteger),
    sa.Index("agent_tasks_key", "submitted_for", "idempotency_key", unique=True),
    sa.Index("agent_tasks_state", "state", "available_at"),
    sa.Index("agent_tasks_agent", "agent", "state", "priority"),
    sqlite_autoincrement=True,
)
needs_table = sa.Table(
    "agent_task_needs",
    metadata,
    sa.Column("task", _ID, sa.ForeignKey("agent_tasks.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("needs", _ID, primary_key=True, index=True),
)
attempts_table = sa.Table(
    "agent_attempts",
    metadata,
    sa.Column("fence", _number, primary_key=True, autoincrement=True),
    sa.Column("task", _ID, sa.ForeignKey("agent_tasks.id", ondelete="CASCADE"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
    # Of the notebook as the attempt has executed it.
    sa.Column("notebook_bytes", sa.BigInteger),
    sa.UniqueConstraint("task", "number"),
    sqlite_autoincrement=True,
)
changes_table = sa.Table(
    "agent_task_changes",
    metadata,
    sa.Column("number", _number, primary_key=True, autoincrement=True),
    sa.Column("task", _ID, sa.ForeignKey("agent_tasks.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("reason", sa.String(30), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("by", sa.String(255), nullable=False),
    sqlite_autoincrement=True,
)
artifacts_table = sa.Table(
    "agent_task_artifacts",
    metadata,
    sa.Column("task", _ID, sa.ForeignKey("agent_tasks.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)
#: Bytes of notebooks and artifacts that are kept of all tasks of an agent: the sum of the columns of bytes above.
kept_table = sa.Table(
    "agent_task_bytes",
    metadata,
    sa.Column("agent", sa.String(63), primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
#: What a task is made from, by :func:`task_of`.
TASK_COLUMNS = (tasks_table.c.request, tasks_table.c.record)
#: What an attempt is made from, by :func:`attempt_of`.
ATTEMPT_COLUMNS = (attempts_table.c.fence, attempts_table.c.record.label("attempt"))
CHANGE_COLUMNS = tuple(changes_table.c[name] for name in Change.__dataclass_fields__)
