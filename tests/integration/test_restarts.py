"""Every part between the Hub and a server is killed under the running server: it keeps answering and stays ours."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress

import psutil
import pytest
from hub_process import HubProcess, hub_process
from openssh import openssh_node, why_no_sshd
from ssh_node import noded_pid
from waiting import eventually

from jupyterhub_agentfarm.models import Lease

pytestmark = [pytest.mark.hub, pytest.mark.sshd, pytest.mark.timeout(240)]


async def test_servers_outlive_noded_sshd_and_the_controller() -> None:
    """After each death the server answers throughout, and then it is stopped through the new parts."""
    if reason := why_no_sshd():
        pytest.skip(f"sshd: {reason}")
    async with (
        openssh_node("n1", sys.executable, simulated_gpus=1) as node,
        hub_process([node.spec]) as hub,
    ):
        await eventually(lambda: ready(hub), "n1 is ready", timeout=60, interval=0.1)
        await hub.add_user("ada")
        await hub.start_server("ada", {"gpus": 1})
        before = await only_lease(hub)

        old = node.kill_noded()
        await answers(hub)
        await eventually(lambda: noded_pid(node.state_dir) not in (0, old), "noded runs again", timeout=30)

        await node.stop()
        await answers(hub)
        await eventually(lambda: unreachable(hub), "the controller knows that n1 is unreachable", timeout=15)
        await answers(hub)
        await node.start()
        await eventually(lambda: ready(hub), "n1 is ready again", timeout=30, interval=0.1)

        controller = the_controller(hub)
        controller.send_signal(signal.SIGKILL)
        await answers(hub)
        await eventually(lambda: another_controller(hub, controller.pid), "the Hub starts a new controller", timeout=10)
        await eventually(lambda: ready(hub), "the new controller reaches n1", timeout=30, interval=0.1)

        after = await only_lease(hub)
        assert (after.id, after.epoch, after.gpus) == (before.id, before.epoch, before.gpus)
        assert before.server is not None
        assert after.server is not None
        assert after.server.pid == before.server.pid
        assert (await hub.run_cell("ada", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")).strip()
        await hub.stop_server("ada")
        await eventually(lambda: not psutil.pid_exists(after.server.pid), "the server's process is gone")
        assert await hub.farm.leases() == []


async def test_a_new_hub_ends_the_services_of_a_killed_one() -> None:
    """After the Hub's SIGKILL and restart there is one controller, on the port, and the old one has ended."""
    if reason := why_no_sshd():
        pytest.skip(f"sshd: {reason}")
    async with openssh_node("n1", sys.executable) as node, hub_process([node.spec]) as hub:
        await eventually(lambda: ready(hub), "n1 is ready", timeout=60, interval=0.1)
        old = the_controller(hub)
        await hub.kill()
        assert old.is_running()
        await hub.start()
        await eventually(lambda: not old.is_running(), "the old controller has ended", timeout=20)
        await eventually(lambda: another_controller(hub, old.pid), "a new controller runs", timeout=20)
        await eventually(lambda: ready(hub), "it reaches n1", timeout=30, interval=0.1)


async def ready(hub: HubProcess) -> bool:
    """Whether n1 takes servers."""
    with suppress(Exception):
        return bool((await hub.farm.node("n1"))["eligible"])
    return False


async def unreachable(hub: HubProcess) -> bool:
    """Whether the controller has lost n1."""
    return bool((await hub.farm.node("n1"))["status"] == "unreachable")


async def only_lease(hub: HubProcess) -> Lease:
    """Return the one lease there is."""
    (lease,) = await hub.farm.leases()
    return lease


async def answers(hub: HubProcess) -> None:
    """Check that ada's server answers through the proxy."""
    async with asyncio.timeout(10):
        async with hub.http.get(f"{hub.url}/user/ada/api/status", headers=hub.headers()) as answer:
            assert answer.status == 200


def controllers(hub: HubProcess) -> list[psutil.Process]:
    """Return this Hub's controller processes."""
    found = []
    for process in hub.processes():
        with suppress(psutil.Error):
            if "jupyterhub_agentfarm.controller" in process.cmdline():
                found.append(process)
    return found


def the_controller(hub: HubProcess) -> psutil.Process:
    """Return the one controller."""
    (only,) = controllers(hub)
    assert only.pid != os.getpid()
    return only


def another_controller(hub: HubProcess, old: int) -> bool:
    """Whether exactly one controller runs, and not the old one."""
    pids = [process.pid for process in controllers(hub)]
    return len(pids) == 1 and pids != [old]
