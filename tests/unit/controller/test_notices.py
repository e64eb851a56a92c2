"""Servers are told of a drain before it stops them: when it begins, when it changes, when it is taken back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from controllers import controller, gpu_nodes, order, ready
from node_records import request
from waiting import eventually

from jupyterhub_agentfarm.controller.notices import notice_of
from jupyterhub_agentfarm.models import Lease, Mark, Node, NodeSpec

pytestmark = [pytest.mark.timeout(120)]


def notice_path(lease: Lease) -> Path:
    """Return where the lease's server finds its notice, as it was told itself."""
    assert lease.server is not None
    environment = Path(f"/proc/{lease.server.pid}/environ").read_bytes().split(b"\0")
    folder = next(entry for entry in environment if entry.startswith(b"AGENTFARM_SERVER_DIR="))
    return Path(folder.partition(b"=")[2].decode(), "notice.json")


def notice(path: Path) -> dict[str, Any] | None:
    """Return what is written there."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


async def test_a_drain_is_told_changed_and_taken_back(tmp_path: Path) -> None:
    """The file in the server's own directory follows the drain, with a new controller too; others cannot read it."""
    async with gpu_nodes("n1") as nodes:
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 1)
            lease = await farm.client.place(request("ada", gpus=1))
            running = await farm.client.launch(lease.id, order())
            path = notice_path(running)
            assert notice(path) is None
            await farm.client.drain("n1", "kernel upgrade", None)
            await farm.client.drain("n1", "kernel upgrade", 600)
            first = await eventually(lambda: notice(path), "the server is told")
            assert first["message"] == "n1 is drained (kernel upgrade)"
            assert 590 < first["deadline_at"] - time.time() <= 600
            assert path.stat().st_mode & 0o777 == 0o600
            await farm.client.drain("n1", "kernel upgrade", 1200)
            await eventually(lambda: (notice(path) or first)["deadline_at"] > first["deadline_at"] + 500, "it changes")
        async with controller(tmp_path, *nodes) as farm:
            await ready_or_draining(farm)
            await farm.client.uncordon("n1")
            await eventually(lambda: notice(path) is None, "it is taken back")
            await farm.client.drain("n1", "", 0)
            await eventually(lambda: not Path(f"/proc/{running.server.pid}").exists(), "the server is stopped")
            await eventually(lambda: not path.parent.exists(), "its directory is gone")


async def ready_or_draining(farm: Any) -> None:
    """Wait until the node is reached."""

    async def reached() -> bool:
        return all(node["state"] == "ready" for node in await farm.client.nodes())

    await eventually(reached, "the node is reached", timeout=30)


def test_what_a_notice_says() -> None:
    """A drain with a deadline is a notice, with a reason that is cut where it is long; anything else is none."""
    node = Node(NodeSpec("n1", "h"), "ready", "", 0.0)
    assert notice_of(node) is None
    marked = Node(NodeSpec("n1", "h"), "ready", "", 0.0, drain=Mark("x" * 200, 5.0, "root"))
    assert notice_of(marked) is None
    dated = Node(NodeSpec("n1", "h"), "ready", "", 0.0, drain=Mark("x" * 200, 5.0, "root", 9.0))
    made = notice_of(dated)
    assert made is not None
    assert (len(made.message), made.at, made.deadline_at) == (len("n1 is drained ()") + 60, 5.0, 9.0)
    bare = notice_of(Node(NodeSpec("n1", "h"), "ready", "", 0.0, drain=Mark("", 5.0, "root", 9.0)))
    assert bare is not None
    assert bare.message == "n1 is drained"
