"""A node that comes back after its servers were given up: they are ended before it takes anything."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from controllers import Controller, alive, controller, gpu_nodes, order, ready, state
from node_records import request
from waiting import eventually

from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.transport.noded_client import NodedClient

FAST = {"Inventory": {"down_after": 0.3}}


async def launched(farm: Controller) -> Lease:
    """Return the lease of ada's server, which holds a GPU and runs."""
    return await farm.client.launch((await farm.client.place(request("ada", gpus=1))).id, order())


def watched(farm: Controller, node: str, old: Lease, seen: list[str], held: asyncio.Event) -> None:
    """Note it whenever placement may choose the node while the old server is alive.

    `held` is set once the comparison with the leases is all that keeps the node from placement.
    """
    placement = farm.app.farm.placement
    tell = placement.tell

    def watching(view: Any, *args: Any) -> None:
        if view.node.name == node and view.node.eligible and alive(old):
            if view.reconciled:
                seen.append("eligible while the old server runs")
            elif view.fresh:
                held.set()
        tell(view, *args)

    placement.tell = watching  # type: ignore[method-assign]


def stops_late(monkeypatch: pytest.MonkeyPatch, held: asyncio.Event) -> None:
    """Have nodes be asked to stop a server only when `held` is set."""
    stop = NodedClient.stop

    async def late(self: NodedClient, lease: str, grace_seconds: float = 10) -> Any:
        async with asyncio.timeout(15):
            await held.wait()
        return await stop(self, lease, grace_seconds)

    monkeypatch.setattr(NodedClient, "stop", late)


@pytest.mark.parametrize("slow_stop", [False, True])
async def test_a_healed_node_ends_the_old_server_before_it_takes_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_stop: bool
) -> None:
    """After the same server was placed elsewhere, the old copy is killed within 5 s of the heal, the new one stays."""
    async with gpu_nodes("a", "b") as nodes, controller(tmp_path, *nodes, config=FAST) as farm:
        await ready(farm, 2)
        old = await launched(farm)
        away = next(node for node in nodes if node.spec.name == old.node)
        await away.stop()
        assert (await state(farm, old, "released", timeout=30)).end == "node_down"
        assert alive(old)
        new = await launched(farm)
        assert new.node != old.node
        assert new.epoch > old.epoch
        seen: list[str] = []
        held = asyncio.Event()
        watched(farm, away.spec.name, old, seen, held)
        if slow_stop:
            stops_late(monkeypatch, held)
        await away.start()
        await eventually(lambda: not alive(old), "the old copy is ended", timeout=15)
        await ready(farm, 2)
        assert seen == []
        assert held.is_set() or not slow_stop
        assert alive(new)
        assert (await farm.client.lease(new.id)).state == "running"
        await farm.client.release(new.id, 1)


async def test_an_older_epoch_on_the_node_is_ended_although_the_lease_is_there(tmp_path: Path) -> None:
    """A server counts as its lease's only with the lease's epoch: one of an earlier grant is ended."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes, config=FAST) as farm:
        await ready(farm, 1)
        lease = await launched(farm)
        await nodes[0].stop()
        await eventually(lambda: farm.app.farm.inventory.node("a").state != "ready", "a is not reached", timeout=20)
        book = farm.app.farm.book
        book._remember(Lease(**{**lease.__dict__, "epoch": lease.epoch + 1}))  # as if it was granted anew
        await nodes[0].start()
        await eventually(lambda: not alive(lease), "the server of the older epoch is ended", timeout=20)
