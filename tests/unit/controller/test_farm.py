"""The controller from end to end: real noded, real SSH, real HTTP, and a small server on the nodes."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest
from controllers import SERVER, alive, controller, gpu_nodes, order, ready, state
from node_records import request
from waiting import eventually

from jupyterhub_agentfarm.controller import reconcile
from jupyterhub_agentfarm.errors import (
    ConflictError,
    LaunchFailed,
    NodedError,
    NotFoundError,
    RemoteCommandFailed,
    TransportError,
)
from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.spawner.lease_cache import exit_status


async def fetch(url: str | None) -> str:
    """Return what a server answers."""
    assert url is not None
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


def stored_in(directory: Path) -> bytes:
    """Return all that the database's files hold."""
    return b"".join(path.read_bytes() for path in directory.glob("farm.sqlite*"))


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no pass come by itself within a wait: what is done is done because something happened."""
    monkeypatch.setattr(reconcile, "TICK_SECONDS", 30.0)


@pytest.mark.usefixtures("unhurried")
async def test_three_gpus_four_users(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three users get three GPUs on three nodes; the fourth waits at position 1 and starts at once after a stop."""
    caplog.set_level(logging.DEBUG)
    async with gpu_nodes("a", "b", "c") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 3)
        leases = [await farm.client.place(request(f"u{i}", gpus=1)) for i in range(3)]
        assert {lease.node for lease in leases} == {"a", "b", "c"}
        running = await asyncio.gather(*(farm.client.launch(lease.id, order()) for lease in leases))
        seen = [await fetch(lease.url) for lease in running]
        assert seen == [lease.gpus[0] for lease in leases]
        assert len(set(seen)) == 3
        fourth = await farm.client.place(request("u3", gpus=1))
        assert (fourth.state, fourth.position) == ("waiting", 1)
        assert (await farm.client.queue())[0]["lease"] == fourth.id

        stopped = await farm.client.release(leases[1].id, 2)
        assert (stopped.state, stopped.detail) == ("released", "stopped by local")
        assert not alive(running[1])
        granted = await state(farm, fourth, "granted")
        assert (granted.node, granted.gpus) == (leases[1].node, leases[1].gpus)
        assert await fetch((await farm.client.launch(fourth.id, order())).url) == granted.gpus[0]
        assert "serving, secret length 14" in await farm.client.log(fourth.id)
        for lease in [leases[0], leases[2], fourth]:
            await farm.client.release(lease.id, 2)
    stored = stored_in(tmp_path)
    assert stored
    assert b"never-in-a-log" not in stored
    assert "never-in-a-log" not in caplog.text


@pytest.mark.usefixtures("unhurried")
async def test_a_killed_server_releases_its_lease(tmp_path: Path) -> None:
    """A server that is killed frees its GPU at once, the lease says how it ended, and the log can still be read."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
        waiting = await farm.client.place(request("bob", gpus=1))
        assert await fetch(lease.url) == lease.gpus[0]
        assert lease.server is not None
        os.kill(lease.server.pid, signal.SIGKILL)
        ended = await state(farm, lease, "released")
        assert ended.detail == "the server was killed by signal 9"
        assert exit_status(ended) == 128 + 9
        assert (await state(farm, waiting, "granted")).gpus == lease.gpus
        assert "serving" in await farm.client.log(lease.id)
        with pytest.raises(ConflictError, match="cannot be launched: the server was killed by signal 9"):
            await farm.client.launch(lease.id, order())
        await farm.client.release(waiting.id)


async def test_a_servers_exit_status_is_kept(tmp_path: Path) -> None:
    """The lease of a server that ends by itself says with which status: in the event, and afterwards."""
    command = ("{python}", "-c", SERVER.replace("do_GET(self):", "do_GET(self):\n        os._exit(7)"))
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        told: list[Lease] = []
        farm.app.farm.book.on_change = told.append
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order(command))
        with pytest.raises(aiohttp.ClientError):
            await fetch(lease.url)
        ended = await state(farm, lease, "released")
        assert (exit_status(ended), ended.detail) == (7, "the server exited with status 7")
        assert [exit_status(each) for each in told if not each.alive] == [7]


async def test_an_exit_that_nobody_heard_of(tmp_path: Path) -> None:
    """A server that ended while the controller was down has its exit status in the lease all the same."""
    async with gpu_nodes("a") as nodes:
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 1)
            lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
        assert lease.server is not None
        os.kill(lease.server.pid, signal.SIGKILL)
        async with controller(tmp_path, *nodes) as farm:
            assert exit_status(await state(farm, lease, "released")) == 128 + 9


async def test_the_environment_of_servers(tmp_path: Path) -> None:
    """A node tells the versions that its servers start from; a Python without ours is a failure that says so."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    async with gpu_nodes("a", "b", "c") as nodes:
        nodes[1].spec = replace(nodes[1].spec, server_python=str(bare))
        nodes[2].spec = replace(nodes[2].spec, server_python="/bin/echo")
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 3)
            found = await farm.client.environment("a")
            assert (found.python, found.runs) == (platform.python_version(), True)
            assert (found.agentfarm, found.jupyterhub) == (version("jupyterhub-agentfarm"), version("jupyterhub"))
            with pytest.raises(RemoteCommandFailed) as caught:
                await farm.client.environment("b")
            assert (caught.value.node, caught.value.exit_status) == ("b", 1)
            assert "No module named 'jupyterhub_agentfarm'" in caught.value.stderr
            with pytest.raises(TransportError, match="no list of versions"):
                await farm.client.environment("c")


@pytest.mark.usefixtures("unhurried")
async def test_a_restart_of_the_controller(tmp_path: Path) -> None:
    """A new controller on the same database finds the running server, can stop it, and goes on with the line."""
    async with gpu_nodes("a") as nodes:
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 1)
            lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
            waiting = await farm.client.place(request("bob", gpus=1))
        assert await fetch(lease.url) == lease.gpus[0]
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 1)
            assert await farm.client.lease(lease.id) == lease
            assert await farm.client.launch(lease.id, order()) == lease
            assert (await farm.client.lease(waiting.id)).position == 1
            assert (await farm.client.release(lease.id, 2)).state == "released"
            assert not alive(lease)
            await state(farm, waiting, "granted")
            await farm.client.release(waiting.id)


async def test_what_ended_meanwhile(tmp_path: Path) -> None:
    """What changed while no controller ran is found: dead servers release, servers without a lease are stopped."""
    async with gpu_nodes("a", "b") as nodes:
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 2)
            dead, stray = [
                await farm.client.launch((await farm.client.place(request(name, gpus=1))).id, order())
                for name in ("ada", "bob")
            ]
            await farm.app.farm.book.release(stray.id, "given up, as for a node that is down")
        assert dead.server is not None
        os.kill(dead.server.pid, signal.SIGKILL)
        assert alive(stray)
        async with controller(tmp_path, *nodes) as farm:
            assert (await state(farm, dead, "released", timeout=30)).detail == "the server was killed by signal 9"
            await ready(farm, 2)
            assert not alive(stray)


#: The tests' server, which only a KILL ends.
STUBBORN = ("{python}", "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + SERVER)


async def test_a_stop_is_hurried(tmp_path: Path) -> None:
    """A release without a grace ends a server at once, also while another release gives it minutes."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order(STUBBORN))
        assert await fetch(lease.url) == lease.gpus[0]
        patient = asyncio.create_task(farm.client.release(lease.id, 300))
        await state(farm, lease, "stopping")
        async with asyncio.timeout(20):
            assert (await farm.client.release(lease.id, 0)).state == "released"
            assert (await patient).state == "released"
        assert not alive(lease)


async def test_a_stop_behind_a_launch_is_hurried(tmp_path: Path) -> None:
    """Releases that have to wait for the launch stop the server with the smallest grace of them all."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order(STUBBORN))
        assert await fetch(lease.url) == lease.gpus[0]
        async with farm.app.farm.servers._locked(lease.id) as held:
            patient = asyncio.create_task(farm.client.release(lease.id, 300))
            await eventually(lambda: held.users >= 2, "the first waits")
            hurried = asyncio.create_task(farm.client.release(lease.id, 0))
            await eventually(lambda: held.grace_seconds == 0, "the second waits")
            assert alive(lease)
        async with asyncio.timeout(20):
            assert [each.state for each in await asyncio.gather(patient, hurried)] == ["released"] * 2


async def test_stop_while_unreachable(tmp_path: Path) -> None:
    """A stop on a node that does not answer is durable: it stays stopping and is finished when the node is back."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
        await nodes[0].stop()
        assert (await farm.client.release(lease.id, 1)).state == "stopping"
        assert (await farm.client.release(lease.id, 1)).state == "stopping"
        successor = await farm.client.place(request(gpus=1))
        assert successor.state == "waiting"
        assert alive(lease)
        await nodes[0].start()
        await state(farm, lease, "released", timeout=20)
        assert not alive(lease)
        await state(farm, successor, "granted", timeout=5)
        await farm.client.release(successor.id)


async def test_a_node_that_is_down(tmp_path: Path) -> None:
    """The leases of a node that is down are released; when it is back its servers are stopped before it is used."""
    fast = {"Inventory": {"down_after": 0.3}}
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes, config=fast) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
        await nodes[0].stop()
        assert (await state(farm, lease, "released", timeout=20)).detail == "node a is down"
        waiting = await farm.client.place(request("bob", gpus=1))
        assert waiting.state == "waiting"
        assert alive(lease)
        await nodes[0].start()
        granted = await state(farm, waiting, "granted", timeout=20)
        assert not alive(lease)
        assert granted.epoch > lease.epoch
        await farm.client.release(waiting.id)


async def test_launch_that_fails(tmp_path: Path) -> None:
    """A program that does not exist is said so; the lease can be released and its GPU leased again."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.place(request(gpus=1))
        with pytest.raises((LaunchFailed, NodedError), match="no-such-program"):
            await farm.client.launch(lease.id, order(("/no-such-program",)))
        assert (await farm.client.release(lease.id)).state == "released"
        assert (await farm.client.place(request("bob", gpus=1))).state == "granted"


async def test_grant_timeout(tmp_path: Path) -> None:
    """A lease that is granted and never launched is given back."""
    short = {"Farm": {"grant_timeout": 0.2}}
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes, config=short) as farm:
        await ready(farm, 1)
        lease = await farm.client.place(request(gpus=1))
        assert (await state(farm, lease, "released")).detail == "no server was started within 0.2 s"


async def test_drain_with_deadline(tmp_path: Path) -> None:
    """A drained node takes nothing new; after the deadline its servers are stopped, with the reason."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
        begun = time.time()
        node = await farm.client.drain("a", "new disks", 0.3)
        assert (node["status"], node["eligible"]) == ("draining", False)
        assert (await farm.client.place(request("bob", gpus=1))).detail == "a: is draining: new disks"
        ended = await state(farm, lease, "released", timeout=20)
        assert ended.detail == "node a was drained: new disks"
        assert time.time() - begun >= 0.3
        assert (await farm.client.uncordon("a"))["status"] == "ready"


async def test_a_node_is_kept_for_one_owner(tmp_path: Path) -> None:
    """It is emptied of all others by the deadline, takes what the owner asks of it by name, and is given back."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        lease = await farm.client.launch((await farm.client.place(request("ada", gpus=1))).id, order())
        node = await farm.client.keep("a", "benchmark", "run 7", 0.1)
        assert (node["status"], node["drain"]["kept_for"]) == ("draining", "benchmark")
        assert (await state(farm, lease, "released", timeout=20)).detail == "node a was drained: run 7"
        assert (await farm.client.place(request("bob", gpus=1))).state == "waiting"
        ours = await farm.client.place(request("benchmark", node="a", gpus=1))
        assert ours.state == "granted"
        await farm.client.launch(ours.id, order())
        farm.app.farm._reconciler.wake()
        assert (await farm.client.give_back("a", "benchmark"))["eligible"]
        assert (await farm.client.lease(ours.id)).state == "running"


async def test_add_and_remove_a_node(tmp_path: Path) -> None:
    """A node added at run time is used without a restart; it cannot be removed while it holds a lease."""
    async with gpu_nodes("a") as nodes, controller(tmp_path) as farm:
        spec = nodes[0].spec
        assert (await farm.client.scan(spec.host, spec.port))["host_key"] == spec.host_key
        added = await farm.client.add_node(spec)
        assert "ssh_keyfile" not in added["spec"]
        with pytest.raises(ConflictError):
            await farm.client.add_node(spec)
        await ready(farm, 1)
        lease = await farm.client.place(request(gpus=1))
        with pytest.raises(ConflictError, match=r"node a holds 1 leases \(ada\): drain it first"):
            await farm.client.remove_node("a")
        await farm.client.release(lease.id)
        await farm.client.remove_node("a")
        with pytest.raises(NotFoundError):
            await farm.client.node("a")
        assert await farm.client.nodes() == []


async def test_events(tmp_path: Path) -> None:
    """A follower gets a snapshot, then telemetry, leases in their states, and the line."""
    async with gpu_nodes("a") as nodes, controller(tmp_path, *nodes) as farm:
        await ready(farm, 1)
        events = farm.client.events()
        name, snapshot = await anext(events)
        assert name == "snapshot"
        assert [node["name"] for node in snapshot["nodes"]] == ["a"]
        lease = await farm.client.place(request(gpus=1))
        await farm.client.place(request("bob", gpus=1))
        seen: dict[str, object] = {}
        async with asyncio.timeout(10):
            while not {"node", "lease", "queue"} <= set(seen) or not seen["queue"]:
                event, data = await anext(events)
                seen[event] = data
        gpu = seen["node"]["telemetry"]["gpus"][0]  # type: ignore[index]
        assert (gpu["leased"], gpu["lease"], gpu["owner"], gpu["simulated"]) == (True, lease.id, "ada", True)
        await events.aclose()
