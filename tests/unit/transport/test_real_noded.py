"""The transport with the real noded behind the embedded SSH server."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from link_listening import linked, up
from ssh_node import noded_pid, ssh_node
from waiting import eventually

from jupyterhub_agentfarm.errors import GpuBusy, LaunchFailed, NodedError
from jupyterhub_agentfarm.models import LaunchSpec


def sleeper(lease: str, gpus: tuple[str, ...], program: str = sys.executable) -> LaunchSpec:
    """A server that sleeps."""
    return LaunchSpec(lease, 1, (program, "-c", "import time; time.sleep(600)"), {}, gpus, "127.0.0.1", "/")


async def test_real_noded_is_started_launches_and_is_adopted() -> None:
    """Noded is started over SSH, launches on a GPU once, survives its own death with the server, and stops it."""
    async with ssh_node(python=sys.executable, simulated_gpus=1) as node, linked(node.spec) as (a_link, heard):
        await up(heard)
        report = await a_link.client.telemetry()
        (gpu,) = report.gpus
        assert gpu.simulated
        status = await a_link.client.launch(sleeper("a" * 32, (gpu.uuid,)))
        assert status.state in {"starting", "running"}
        with pytest.raises(GpuBusy):
            await a_link.client.launch(sleeper("b" * 32, (gpu.uuid,)))
        with pytest.raises(LaunchFailed):
            await a_link.client.launch(sleeper("c" * 32, (), "/nonexistent"))
        with pytest.raises(NodedError):
            await a_link.client.logs("d" * 32)

        killed = node.kill_noded()
        await up(heard, 2)
        assert noded_pid(node.state_dir) != killed
        (adopted,) = [server for server in heard.servers if server.lease == "a" * 32]
        assert (adopted.pid, adopted.state) == (status.pid, "running")

        stopped = await a_link.client.stop("a" * 32, 1)
        assert stopped.gone
        assert stopped.gpus_free
        await eventually(lambda: heard.exits, "the exit is told")


async def test_noded_is_started_anew_under_its_servers() -> None:
    """A restart ends noded and starts it with the node's options; servers go on, and the link comes back by itself."""
    async with ssh_node(python=sys.executable, simulated_gpus=1) as node:
        spec = replace(node.spec, noded_args=("--telemetry-interval=0.25", "--NodedApp.mountpoints=/proc"))
        async with linked(spec) as (a_link, heard):
            await up(heard)
            assert [disk.mountpoint for disk in (await a_link.client.telemetry()).filesystems] == ["/proc"]
            assert await a_link.client.subscribe() == 0.25
            server = await a_link.client.launch(sleeper("a" * 32, ()))
            before = noded_pid(node.state_dir)
            after = await a_link.restart_noded()
            assert after not in (0, before)
            await up(heard, 2)
            assert noded_pid(node.state_dir) == after
            (kept,) = await a_link.client.servers()
            assert (kept.pid, kept.state) == (server.pid, "running")
            await a_link.client.stop("a" * 32, 0)
