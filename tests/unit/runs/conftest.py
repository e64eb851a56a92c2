"""Real Jupyter servers with the extension as installing enables it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_server_process import Server

MakeServer = Callable[..., Awaitable[Server]]


def text_of(cell: dict[str, Any], name: str = "stdout") -> str:
    """Return what a cell wrote to one stream."""
    return "".join(output["text"] for output in cell["outputs"] if output.get("name") == name)


def processes_of(run_id: str) -> list[psutil.Process]:
    """Return the living processes that were started in a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AGENTFARM_RUN_ID") == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="session")
def _shared_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), interrupt_grace="1s")
    made.start(CUDA_VISIBLE_DEVICES="GPU-of-the-lease")
    yield made
    made.stop()


@pytest.fixture
async def server(_shared_process: Server) -> Server:
    """A server that all tests share."""
    await _shared_process.ready()
    return _shared_process


@pytest.fixture
async def make_server(tmp_path: Path) -> AsyncIterator[MakeServer]:
    """Start a server of the test's own; the options are those of RunBook."""
    made: list[Server] = []

    async def make(**config: Any) -> Server:
        folder = tmp_path / f"server{len(made)}"
        folder.mkdir()
        made.append(Server(folder, **config))
        made[-1].start()
        await made[-1].ready()
        return made[-1]

    yield make
    for server in made:
        server.stop()
