"""Books of tasks for tests: on both databases, at a time that the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import postgres
import sqlalchemy as sa

from jupyterhub_agentfarm.agents.models import Attempt, Task, TaskReason, TaskRequest
from jupyterhub_agentfarm.agents.tasks.book import TaskBook
from jupyterhub_agentfarm.inventory.database import Database

NOTEBOOK = b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


@dataclass
class Clock:
    """Seconds since the epoch, as the test says."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@dataclass
class World:
    """An open book and its clock."""

    book: TaskBook
    clock: Clock
    url: str
    folder: Path

    async def submit(self, agent: str = "bot", by: str = "ada", **request: Any) -> Task:
        """Submit a task with a small notebook and return it."""
        task, _ = await self.book.submit(TaskRequest(notebook={}, **request), agent, by, NOTEBOOK)
        return task

    async def executing(self, agent: str = "bot", **request: Any) -> tuple[Task, Attempt]:
        """Submit a task and claim it."""
        return await self.book.claim((await self.submit(agent, **request)).id)

    async def ended(self, outcome: TaskReason, **request: Any) -> Task:
        """Submit a task, claim it, and end its attempt."""
        _, attempt = await self.executing(**request)
        return await self.book.finish(attempt, outcome, f"it was {outcome}")


@asynccontextmanager
async def opened(url: str, folder: Path, clock: Clock | None = None) -> AsyncIterator[World]:
    """Open a book on a database."""
    clock = clock or Clock()
    database = Database(url)
    book = TaskBook(database, folder / "agent-tasks", clock)
    try:
        await book.open()
        yield World(book, clock, url, folder)
    finally:
        await book.aclose()
        await database.aclose()


def postgres_server() -> Iterator[str]:
    """Give the URL of a PostgreSQL server."""
    with postgres.postgres() as url:
        yield url


def emptied(url: str) -> str:
    """Return the URL of a PostgreSQL database after everything in it is gone."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return url
