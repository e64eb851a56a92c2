"""A case on a real Jupyter server with the real runs extension."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jupyter_server_process import TOKEN, Server

from jupyterhub_agentfarm.benchmark.cases import CaseOnNode
from jupyterhub_agentfarm.benchmark.suites import Case
from jupyterhub_agentfarm.runs.client import Patience, ServerRuns

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
        node = CaseOnNode("n1", runs, Patience(5, lambda: ""), progress.append, poll_seconds=0.1)
        good = await node.measure(Case("good", "x.ipynb", 60, {"size": 4}), notebook(PUBLISH), "k1")
        bad = await node.measure(Case("bad", "x.ipynb", 60), notebook("x = 1\n1 / 0"), "k2")
        slow = await node.measure(Case("slow", "x.ipynb", 2), notebook("import time; time.sleep(60)"), "k3")
    assert (good.outcome, good.primary_value, good.device) == ("succeeded", 40.0, "cpu")
    assert dict(good.figures) == {"seconds": 0.5, "items_per_second": 40.0}
    assert good.duration_seconds is not None
    assert 0 < good.duration_seconds < 50
    assert bad.outcome == "failed"
    assert bad.error is not None
    assert "line 2: ZeroDivisionError: division by zero" in bad.error.message
    assert "ZeroDivisionError" in bad.error.traceback
    assert slow.outcome == "timed_out"
    assert progress[-1]["case"] == "slow"
