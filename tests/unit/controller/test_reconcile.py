"""What the controller does unasked when the database or a node fails in the middle of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from controllers import Controller, alive, controller, gpu_nodes, order, ready, state
from node_records import request
from ssh_node import noded_pid
from waiting import eventually

from jupyterhub_agentfarm.controller import reconcile
from jupyterhub_agentfarm.controller.launching import is_loopback
from jupyterhub_agentfarm.errors import NodeUnreachable
from jupyterhub_agentfarm.models import Lease, NodeSpec
from jupyterhub_agentfarm.records import to_json

FAST = {"Inventory": {"down_after": 0.3}}


def before_the_first_release(
    farm: Controller, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[None]]
) -> None:
    """Let something happen when the book is asked for its first release from now on."""
    book, asked = farm.app.farm.book, []
    release = book.release

    async def _release(*args: Any, **kwargs: Any) -> Lease:
        asked.append(args)
        if len(asked) == 1:
            await happens()
        return await release(*args, **kwargs)

    monkeypatch.setattr(book, "release", _release)


async def database_fails() -> None:
    """Fail as a database that is locked or away does."""
    raise sa.exc.OperationalError("UPDATE leases", {}, Exception("database is locked"))


async def launched(farm: Controller, owner: str) -> Lease:
    """Return a lease of a running server without a GPU."""
    return await farm.client.launch((await farm.client.place(request(owner))).id, order())


async def test_an_exit_that_could_not_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database fails at the exit of a server, its lease is released a moment later all the same."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
        before_the_first_release(farm, monkeypatch, database_fails)
        assert lease.server is not None
        os.kill(lease.server.pid, signal.SIGKILL)
        assert (await state(farm, lease, "released")).detail == "the server was killed by signal 9"


async def test_a_node_that_could_not_be_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the database fails as a node goes down, its leases are released a moment later all the same."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes, config=FAST) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
        before_the_first_release(farm, monkeypatch, database_fails)
        await farm.app.farm.inventory.link("a").aclose()  # no further attempts, whose reasons would be news of the node
        farm.app.farm.inventory.link_down("a", NodeUnreachable("a", "gone"))
        assert (await state(farm, lease, "released")).detail == "node a is down"


async def test_a_node_that_comes_back_while_it_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not released by then is kept; the server of what was being released just then is stopped."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes, config=FAST) as farm:
        await ready(farm, 1)
        first, second = [await launched(farm, owner) for owner in ("ada", "bob")]

        async def comes_back() -> None:
            await nodes[0].start()
            await ready(farm, 1)

        before_the_first_release(farm, monkeypatch, comes_back)
        await nodes[0].stop()
        assert (await state(farm, first, "released", timeout=30)).detail == "node a is down"
        await eventually(lambda: not alive(first), "the server without a lease is stopped")
        assert (await farm.client.lease(second.id)).state == "running"
        assert alive(second)
        await farm.client.release(second.id, 1)


async def test_old_leases_are_forgotten_while_the_controller_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease that was released longer ago than the history goes without a restart."""
    monkeypatch.setattr(reconcile, "FORGET_SECONDS", 0.1)
    short = {"Farm": {"history": 0.2}}
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes, config=short) as farm:
        await ready(farm, 1)
        lease = await farm.client.place(request(gpus=1))
        assert (await farm.client.release(lease.id)).state == "released"

        async def gone() -> bool:
            return await farm.client.leases(all=True) == []

        await eventually(gone, "the lease is forgotten")


async def test_restart_of_noded(tmp_path: Path) -> None:
    """The answer comes when the new noded is reached; the server and its lease are as they were."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
        before = noded_pid(nodes[0].state_dir)
        node = await farm.client.restart_noded("a")
        assert node["state"] == "ready"
        assert node["facts"]["pid"] == noded_pid(nodes[0].state_dir) != before
        assert alive(lease)
        assert await farm.client.lease(lease.id) == lease
        await ready(farm, 1)
        assert (await farm.client.release(lease.id, 1)).state == "released"


@pytest.mark.parametrize(
    ("hosts", "times"), [(("127.0.0.1", "localhost"), 0), (("127.0.0.1", "192.0.2.1", "192.0.2.2"), 1)]
)
async def test_plain_http_is_said_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], hosts: tuple[str, ...], times: int
) -> None:
    """A farm with nodes elsewhere is told once that their servers are reached by plain HTTP; one at home is not."""
    nodes = [to_json(NodeSpec(name=f"n{index}", host=host, port=1)) for index, host in enumerate(hosts)]
    async with controller(tmp_path, config={"Inventory": {"nodes": nodes}}):
        await asyncio.sleep(0)
    assert capfd.readouterr().err.count("plain HTTP") == times


def test_loopback() -> None:
    """Only literals and the name localhost are known as this machine's own."""
    assert [is_loopback(host) for host in ("127.1.2.3", "::1", "localhost", "10.0.0.1", "gpu1")] == [True] * 3 + [
        False
    ] * 2
