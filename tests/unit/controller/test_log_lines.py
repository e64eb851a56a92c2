"""What the controller and noded write about one server, from its request to its end: one line for each event."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from controllers import controller, gpu_nodes, order, ready, state
from node_records import request

pytestmark = pytest.mark.timeout(120)


def text_of(folder: str, pattern: str) -> str:
    """Return what the files of a folder hold."""
    return "".join(path.read_text() for path in Path(folder).glob(pattern))


async def test_one_line_for_each_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A start, a wait, a drain and two ends: each once, with node, server and lease, and no secret in any line."""
    caplog.set_level(logging.DEBUG)
    async with gpu_nodes("n1") as nodes, controller(tmp_path, *nodes) as farm:
        farm.app.log.propagate = True
        await ready(farm, 1)
        lease = await farm.client.place(request("ada", gpus=1))
        waiting = await farm.client.place(request("bob", gpus=1))
        running = await farm.client.launch(lease.id, order())
        assert running.server is not None
        await farm.client.cordon("n1", 'for "tests"')
        await farm.client.uncordon("n1")
        await farm.client.release(waiting.id)
        await farm.client.release(lease.id, 0)
        await state(farm, lease, "released")
        noded = text_of(nodes[0].state_dir, "*.log")
        token = text_of(farm.app.runtime_dir, "token").strip()
    ada, bob = f"server=ada/ lease={lease.id}", f"server=bob/ lease={waiting.id}"
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    wanted = {
        f"granted node=n1 {ada} gpus={lease.gpus[0]} epoch=": 1,
        f"waiting {bob} detail=": 1,
        f"running node=n1 {ada} url={running.url} pid={running.server.pid}": 1,
        f"stopping node=n1 {ada} detail=": 1,
        f"released node=n1 {ada} end=stopped detail=": 1,
        f"released {bob} end=withdrawn detail=": 1,
        'cordon node=n1 by=local reason="for \\"tests\\""': 1,
        "uncordon node=n1 by=local": 1,
        "node ready node=n1": 1,
    }
    found = {start: sum(line.startswith(start) for line in lines) for start in wanted}
    assert found == wanted, "\n".join(lines)
    assert sum(lease.id in line for line in lines) == 4, "\n".join(lines)
    everything = "\n".join(record.getMessage() for record in caplog.records) + noded
    assert "never-in-a-log" not in everything
    assert token not in everything
    for words in ("launched", "stopping", "exited"):
        assert len(re.findall(rf"\b{words} node=\S+ {ada}", noded)) == 1, noded
