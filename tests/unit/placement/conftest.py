"""An open database of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import postgres
import pytest
import sqlalchemy as sa

from jupyterhub_agentfarm.inventory.database import Database, metadata


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server of the tests' own."""
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def db_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, once for each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/farm.sqlite"
        return
    url = request.getfixturevalue("postgres_url")
    yield url
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An open SQLite database."""
    opened = Database(f"sqlite:///{tmp_path}/farm.sqlite")
    await opened.open()
    yield opened
    await opened.aclose()
