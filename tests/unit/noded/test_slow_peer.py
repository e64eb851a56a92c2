"""A connection whose peer does not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from jupyterhub_agentfarm.noded.connection import Connection


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Connection, asyncio.StreamReader]]:
    """A subscribed connection and its peer's end, which nobody reads until the test does."""
    folder = Path(tempfile.mkdtemp(prefix="af"))
    served: list[Connection] = []

    async def dispatch(*_: Any) -> None:
        return None

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(Connection(reader, writer, dispatch))
        served[0].subscribed = True
        await served[0].serve()

    server = await asyncio.start_unix_server(connected, str(folder / "s"))
    reader, writer = await asyncio.open_unix_connection(str(folder / "s"), limit=2**16)
    connection = await eventually(lambda: served and served[0], "the connection is served")
    yield connection, reader
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    await eventually(lambda: len(asyncio.all_tasks()) == 1, "no task is left")
    shutil.rmtree(folder)


async def test_it_loses_the_oldest_telemetry_and_no_exit(pair: tuple[Connection, asyncio.StreamReader]) -> None:
    """What waits for a peer that does not read stays small; the newest report and every exit still come."""
    connection, reader = pair
    reports, exits = 3000, 20
    for number in range(reports):
        connection.event("telemetry", {"number": number, "ballast": "x" * 5000})
        if number % (reports // exits) == 0:
            connection.event("server_exited", {"number": number})
        await asyncio.sleep(0)
    seen: dict[str, list[int]] = {"telemetry": [], "server_exited": []}
    async with asyncio.timeout(20):
        while seen["telemetry"][-1:] != [reports - 1]:
            message = json.loads(await reader.readline())
            seen[message["event"]].append(message["data"]["number"])
    assert len(seen["telemetry"]) < 300
    assert seen["telemetry"] == sorted(seen["telemetry"])
    assert len(seen["server_exited"]) == exits


async def test_too_many_exits_end_the_connection(pair: tuple[Connection, asyncio.StreamReader]) -> None:
    """What may not be lost is not piled up without end either: the connection ends, to be made anew."""
    connection, reader = pair
    for number in range(2000):
        connection.event("server_exited", {"number": number, "ballast": "x" * 5000})
        await asyncio.sleep(0)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            while await reader.readline():
                continue
    assert reader.at_eof() or reader.exception()
