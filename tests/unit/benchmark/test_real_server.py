"""A case on a real Jupyter server with the real runs extension."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jupyter_server_process import TOKEN, Server

from jupyterhub_agentfarm.benchmark.cases import CaseOnNode, Order, body_of
from jupyterhub_agentfarm.benchmark.suites import Case
from jupyterhub_agentfarm.runs.client import ServerRuns

PUBLISH = """
from IPython.display import display
display({"application/vnd.agentfarm.result+json": {
    "status": "ok", "device": "cpu", "seconds": 0.5, "primary": "items_per_second", "items_per_second": 10.0 * size,
    "title": "text", "right": True}, "text/plain": "done"}, raw=True)
"""


def cell(source: str, *tags: str) -> dict[str, Any]:
    """Return a code cell."""
    return {"cell_type": "code", "id": f"c{hash(source) % 10**8}", "metadata": {"tags": list(tags)}, "source": source}


def notebook(*sources: str) -> dict[str, Any]:
    """Return a notebook with a cell of parameters and `sources`."""
    cells = [cell("size = 1", "parameters"), *map(cell, sources)]
    blank = {"outputs": [], "execution_count": None}
    return {"cells": [one | blank for one in cells], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


class Asks:
    """Asks a server once."""

    leaving = False

    def __init__(self, runs: ServerRuns) -> None:
        self._runs = runs

    async def ask(self, question: Any) -> Any:
        """Return its answer."""
        return await question(self._runs)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A running server."""
    server = Server(tmp_path)
    server.start()
    try:
        await server.ready()
        yield server
    finally:
        server.stop()


async def test_cases_on_a_real_server(server: Server) -> None:
    """Parameters reach the notebook and figures come back; a fault tells its cell; a deadline is kept."""
    progress: list[Mapping[str, Any]] = []
    headers = {"Authorization": f"token {TOKEN}"}
    async with aiohttp.ClientSession(headers=headers, cookie_jar=aiohttp.DummyCookieJar()) as session:
        runs = ServerRuns(session, server.url, "n1")
        node = CaseOnNode("n1", Asks(runs), progress.append, 0.1, lambda: 1000.0)
        begun = time.time()
        order = Order(Case("good", "x.ipynb", 60, {"size": 4}), notebook(PUBLISH), "k1", "p", 1, 2)
        good = await node.measure(order)
        bad = await node.measure(Order(Case("bad", "x.ipynb", 60), notebook("x = 1\n1 / 0"), "k2"))
        slow = await node.measure(Order(Case("slow", "x.ipynb", 2), notebook("import time; time.sleep(60)"), "k3"))
        # Whoever comes after a restart finds the same run again, until its result is kept and it is forgotten.
        known = (await runs.submit(body_of(order)))["id"]
        await node.forget(order)
        assert (await runs.submit(body_of(order)))["id"] != known
    assert (good.outcome, good.primary_value, good.device) == ("succeeded", 40.0, "cpu")
    assert dict(good.figures) == {"seconds": 0.5, "items_per_second": 40.0}
    assert good.duration_seconds is not None
    assert 0 < good.duration_seconds < 50
    assert (good.phase, good.lane, good.repetition) == ("p", 1, 2)
    # The node's own times, in the service's clock.
    assert good.started_at is not None
    assert good.ended_at is not None
    assert 1000 + begun - 1 < good.started_at < good.ended_at < 1060 + begun
    assert good.ended_at - good.started_at == pytest.approx(good.duration_seconds, abs=0.1)
    assert bad.outcome == "failed"
    assert bad.error is not None
    assert "line 2: ZeroDivisionError: division by zero" in bad.error.message
    assert "ZeroDivisionError" in bad.error.traceback
    assert slow.outcome == "timed_out"
    assert progress[-1]["case"] == "slow"
