"""Why a lease ended: the word, the sentence, one line of log, one count; and what runs without a lease."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from controllers import Controller, alive, controller, gpu_nodes, order, ready, state
from node_records import request
from ssh_node import SSHNode
from waiting import eventually

from jupyterhub_agentfarm.controller import reconcile
from jupyterhub_agentfarm.controller.endings import end_of
from jupyterhub_agentfarm.metrics import EXIT_CAUSES
from jupyterhub_agentfarm.models import Lease, LeaseEnd, PlacementRequest, ServerExit, ServerStatus
from jupyterhub_agentfarm.noded import procfs
from jupyterhub_agentfarm.noded.orphans import NODED_VARIABLE, noded_mark
from jupyterhub_agentfarm.transport.noded_client import NodedClient

FAST = {"Inventory": {"down_after": 0.3}}
SERVER = ServerStatus("l", 1, "exited", "boot-1", 7, 7, "127.0.0.1", 1, (), 0.0)
LEASE = Lease("l", "ada", "", "running", 1, PlacementRequest("ada", ""), 0.0, node="a", server=SERVER)


def ended(cause: str, **how: int) -> ServerStatus:
    """Return the status of a server that ended on its first boot."""
    return replace(SERVER, exit=ServerExit(cause, 0.0, **how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "boot_id", "end", "said"),
    [
        (ended("exited", code=3), "boot-1", "exited", "exited with status 3"),
        (ended("signal", signal=9), None, "signal", "killed by signal 9"),
        (ended("oom"), "boot-1", "oom", "ran out of memory"),
        (ended("unknown"), "boot-1", "unknown", "not known"),
        (ended("unknown"), "boot-2", "node_restarted", "node a was restarted"),
        (ended("exited", code=0), "boot-2", "exited", "exited with status 0"),
        (None, "boot-1", "unknown", "gone from a"),
        (None, "boot-2", "node_restarted", "node a was restarted"),
        (None, None, "unknown", "gone from a"),
    ],
)
def test_the_word_for_an_end(server: ServerStatus | None, boot_id: str | None, end: LeaseEnd, said: str) -> None:
    """What was seen counts; what nobody saw is the node's restart when it is on another boot, else unknown."""
    word, sentence = end_of(LEASE, server, boot_id)
    assert word == end
    assert said in sentence


async def launched(farm: Controller, owner: str = "ada") -> Lease:
    """Return a lease of a running server without a GPU."""
    return await farm.client.launch((await farm.client.place(request(owner))).id, order())


async def scraped(farm: Controller) -> str:
    """Return the controller's metrics page."""
    url = f"{farm.client._base()}metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as refused:
        assert refused.status in (401, 403)
    async with aiohttp.ClientSession(headers=farm.client._headers()) as session, session.get(url) as answer:
        assert answer.status == 200
        return await answer.text()


async def test_an_exit_is_told_once_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Cause and sentence are in the lease, one line is in the log, and the counter grows by one."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        assert 'agentfarm_server_exits_total{node="a",cause="signal"} 0' in await scraped(farm)
        killed, stopped = await launched(farm), await launched(farm, "bob")
        assert killed.server is not None
        os.kill(killed.server.pid, signal.SIGKILL)
        assert (await state(farm, killed, "released")).end == "signal"
        await farm.client.release(killed.id)
        assert (await farm.client.release(stopped.id, 1)).end == "stopped"
        waiting = await farm.client.place(request("cy", gpus=1))
        assert (await farm.client.release(waiting.id, 1)).end == "stopped"
        text = await scraped(farm)
    for cause in EXIT_CAUSES:
        assert f'{{node="a",cause="{cause}"}} {int(cause in ("signal", "stopped"))}\n' in text
    log = capfd.readouterr().err
    assert log.count(f"lease={killed.id} end=signal") == 1
    assert sum(killed.id in line and "killed by signal 9" in line for line in log.splitlines()) == 1


async def test_a_node_that_is_down_and_a_stop_that_it_never_heard_of(tmp_path: Path) -> None:
    """Servers of a node that is down end as `node_down`; the one that was being stopped was stopped."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes, config={"Inventory": {"down_after": 2}}) as farm:
        await ready(farm, 1)
        lost, stopped = await launched(farm), await launched(farm, "bob")
        await nodes[0].stop()
        await eventually(lambda: farm.app.farm.inventory.node("a").state != "ready", "a is unreachable", timeout=20)
        assert (await farm.client.release(stopped.id)).state == "stopping"
        assert (await state(farm, lost, "released", timeout=20)).end == "node_down"
        assert (await state(farm, stopped, "released")).end == "stopped"
        await nodes[0].start()
        await eventually(lambda: not alive(lost) and not alive(stopped), "both are stopped", timeout=20)


def of_another_boot(record: Path) -> None:
    """Let a record of noded's be of the boot before the present one."""
    data = json.loads(record.read_text())
    data["status"]["boot_id"] = "the boot before"
    record.write_text(json.dumps(data))


async def test_a_node_that_was_restarted(tmp_path: Path) -> None:
    """A server that went down with its node's boot ended as `node_restarted`, also in the next controller's life."""
    async with gpu_nodes("a") as nodes:
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 1)
            lease = await launched(farm)
        assert lease.server is not None
        nodes[0].kill_noded()
        os.kill(lease.server.pid, signal.SIGKILL)
        of_another_boot(Path(nodes[0].state_dir, "servers", f"{lease.id}.json"))
        async with controller(tmp_path, *nodes) as farm:
            after = await state(farm, lease, "released", timeout=20)
            assert (after.end, after.detail) == ("node_restarted", "node a was restarted")


async def test_a_drain_says_so(tmp_path: Path) -> None:
    """What a drain's deadline stopped ended as `drained`, with the admin's reason."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await launched(farm)
        await farm.client.drain("a", "new disks", 0)
        after = await state(farm, lease, "released", timeout=30)
        assert after.end == "drained"
        assert "new disks" in after.detail


# ---- what runs without a lease -------------------------------------------------------------------------------------


@asynccontextmanager
async def sweeping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *noded_args: str
) -> AsyncIterator[tuple[SSHNode, Controller]]:
    """Run a node and a controller that looks for strays all the time."""
    monkeypatch.setattr(reconcile, "SWEEP_SECONDS", 0.2)
    async with gpu_nodes("a") as nodes:
        nodes[0].spec = replace(nodes[0].spec, noded_args=noded_args)
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 1)
            yield nodes[0], farm


def counted_looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by a node's name whenever its servers were listed."""
    looks: list[str] = []
    servers = NodedClient.servers

    async def counted(self: NodedClient) -> tuple[ServerStatus, ...]:
        found = await servers(self)
        looks.append(self.node)
        return found

    monkeypatch.setattr(NodedClient, "servers", counted)
    return looks


async def test_a_server_without_a_lease_is_stopped_while_the_node_stays_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not only when a node is reached that servers are compared with the leases; others go on."""
    looks = counted_looks(monkeypatch)
    async with sweeping(tmp_path, monkeypatch) as (_, farm):
        kept, lost = await launched(farm), await launched(farm, "bob")
        await farm.app.farm.book.release(lost.id, "as if it had slipped past")
        await eventually(lambda: not alive(lost), "the server without a lease is stopped")
        done = len(looks)
        await eventually(lambda: len(looks) > done + 2, "the node is looked at some more")
        assert alive(kept)
        assert (await farm.client.lease(kept.id)).state == "running"
        await farm.client.release(kept.id, 1)


async def test_an_orphan_is_listed_and_reaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that noded has no record of is listed with its lease; it ends when the controller has no such lease."""
    async with sweeping(tmp_path, monkeypatch, "--orphan-grace=1") as (node, farm):
        held = (await farm.client.place(request("ada"))).id
        mark = {NODED_VARIABLE: noded_mark(Path(node.state_dir))}
        sleep = (sys.executable, "-c", "import time; time.sleep(600)")
        processes = [
            await asyncio.create_subprocess_exec(*sleep, env=os.environ | mark | {procfs.MARKER: lease})
            for lease in (held, "0" * 32)
        ]
        try:

            async def listed() -> bool:
                found = (await farm.client.strays("a"))["processes"]
                return {(each["pid"], each["lease"]) for each in found} == {
                    (processes[0].pid, held),
                    (processes[1].pid, "0" * 32),
                }

            await eventually(listed, "both are listed")
            async with asyncio.timeout(10):
                assert await processes[1].wait() == -signal.SIGTERM
            assert processes[0].returncode is None
            await farm.client.release(held, 1)
            async with asyncio.timeout(10):
                assert await processes[0].wait() == -signal.SIGTERM
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
