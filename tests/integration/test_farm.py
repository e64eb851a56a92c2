"""A farm of separate hosts: OpenSSH nodes in network namespaces, a real Hub, people, admins and faults."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio
from hub_process import HubProcess, hub_process
from netns import NetnsFarm, NetnsNode, netns_farm
from waiting import eventually

from jupyterhub_agentfarm.models import Lease

pytestmark = [
    *(pytest.mark.hub, pytest.mark.netns, pytest.mark.sshd, pytest.mark.timeout(240)),
    pytest.mark.asyncio(loop_scope="module"),
]

WHERE = "import os, socket; print(socket.gethostname(), os.environ['CUDA_VISIBLE_DEVICES'])"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[NetnsFarm]:
    """Boot four nodes with one simulated GPU each; the Hub is told of three."""
    manager = netns_farm(4)
    booted = await asyncio.to_thread(manager.__enter__)
    try:
        yield booted
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _shared_hub(farm: NetnsFarm) -> AsyncIterator[HubProcess]:
    """Run a Hub that the first three nodes belong to."""
    specs = [node.spec for node in farm.nodes[:3]]
    async with hub_process(specs, AGENTFARM_HUB_IP=farm.hub_address) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def hub(_shared_hub: HubProcess) -> AsyncIterator[HubProcess]:
    """Give the Hub that the tests share, without users and servers, its three nodes ready."""
    await status_is(_shared_hub, "ready", "gpu01", "gpu02", "gpu03")
    yield _shared_hub
    await _shared_hub.emptied()


async def status_is(hub: HubProcess, status: str, *names: str, timeout: float = 30) -> None:
    """Wait until these nodes have this status."""
    seen: dict[str, str] = {}

    async def reached() -> bool:
        nodes = {node["name"]: node for node in await hub.farm.nodes()}
        seen.update((name, nodes[name]["detail"]) for name in names if name in nodes)
        return all(name in nodes and nodes[name]["status"] == status for name in names)

    try:
        await eventually(reached, f"{', '.join(names)} {status}", timeout, interval=0.1)
    except AssertionError as exc:
        raise AssertionError(f"{exc}; {seen}") from None


async def lease_of(hub: HubProcess, owner: str) -> Lease:
    """Return the one lease of a user."""
    (lease,) = [lease for lease in await hub.farm.leases() if lease.owner == owner]
    return lease


async def agentfarm(hub: HubProcess, *argv: str) -> tuple[int, str, str]:
    """Run the command as the Hub's account would; return exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyterhub_agentfarm.cli", *argv),
        env=hub.environment,
        cwd=hub.directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_three_people_get_three_nodes_and_gpus_and_the_fourth_waits(hub: HubProcess) -> None:
    """One GPU per node: three servers on three hosts with three GPUs; the fourth is first in line, then served."""
    people = ("ada", "bob", "cy")
    for person in (*people, "dan"):
        await hub.add_user(person)
    await asyncio.gather(*(hub.start_server(person, {"gpus": 1}) for person in people))
    seen = [(await hub.run_cell(person, WHERE)).split() for person in people]
    assert {host for host, _ in seen} == {"gpu01", "gpu02", "gpu03"}
    assert len({gpu for _, gpu in seen}) == 3

    await hub.request_server("dan", {"gpus": 1})
    waiting = await eventually(lambda: _waiting(hub, "dan"), "dan waits in line")
    assert waiting.position == 1
    freed = await lease_of(hub, "ada")
    await hub.stop_server("ada")
    await hub.ready("dan")
    granted = await lease_of(hub, "dan")
    released = next(lease for lease in await hub.farm.leases(all=True) if lease.id == freed.id)
    assert granted.granted_at is not None
    assert released.released_at is not None
    assert granted.granted_at - released.released_at < 1
    assert granted.server is not None
    assert granted.server.started_at - released.released_at < 1  # the node's clock is this machine's
    assert (await hub.run_cell("dan", WHERE)).split() == [freed.node, freed.gpus[0]]


async def _waiting(hub: HubProcess, owner: str) -> Lease | None:
    with suppress(ValueError):
        lease = await lease_of(hub, owner)
        return lease if lease.state == "waiting" else None
    return None


async def test_an_admin_adds_a_node_and_drains_one_while_the_hub_runs(hub: HubProcess, farm: NetnsFarm) -> None:
    """A fourth node is enrolled by its fingerprint and used at once; a drained one is emptied."""
    fourth = farm.nodes[3]
    await hub.add_user("ada")
    wrong = await agentfarm(hub, *add(fourth), "--fingerprint", "SHA256:" + "A" * 43)
    assert wrong[0] != 0
    assert "has the host key SHA256:" in wrong[2]
    assert len(await hub.farm.nodes()) == 3

    fingerprint = host_fingerprint(fourth)
    status, out, err = await agentfarm(hub, *add(fourth), "--fingerprint", fingerprint)
    assert status == 0, out + err
    await hub.start_server("ada", {"node": "gpu04", "gpus": 1})
    assert (await hub.run_cell("ada", WHERE)).split()[0] == "gpu04"

    status, out, err = await agentfarm(hub, "nodes", "drain", "gpu04", "--reason", "new disk", "--deadline", "0s")
    assert status == 0, out + err

    async def empty() -> bool:
        return not await hub.farm.leases()

    await eventually(empty, "gpu04 is empty", timeout=30)
    node = await hub.farm.node("gpu04")
    assert (node["status"], node["drain"]["reason"]) == ("draining", "new disk")
    status, out, err = await agentfarm(hub, "nodes", "remove", "gpu04")
    assert status == 0, out + err
    assert len(await hub.farm.nodes()) == 3


def add(node: NetnsNode) -> list[str]:
    """Return the command line that enrols a node."""
    spec = node.spec
    return [
        *("nodes", "add", spec.name, spec.host, "--user", "root", "--python", spec.python),
        *("--ssh-keyfile", str(spec.ssh_keyfile), "--state-dir", str(spec.state_dir), "--simulated-gpus", "1"),
    ]


def host_fingerprint(node: NetnsNode) -> str:
    """Return the fingerprint as an admin reads it on the node's console."""
    key = str(node.directory / "host_key.pub")
    return subprocess.run(["ssh-keygen", "-lf", key], check=True, capture_output=True, text=True).stdout.split()[1]


@pytest_asyncio.fixture(loop_scope="module")
async def changed(hub: HubProcess, farm: NetnsFarm) -> AsyncIterator[NetnsNode]:
    """Give a node that the Hub reached, and that was started anew with another host key; it gets its own back."""
    node = farm.nodes[0]
    key, public = node.directory / "host_key", node.directory / "host_key.pub"
    kept = key.read_bytes(), public.read_bytes()
    await asyncio.to_thread(node.kill)
    key.unlink()
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    node.start()
    yield node
    await asyncio.to_thread(node.kill)
    key.write_bytes(kept[0])
    public.write_bytes(kept[1])
    node.start()


@pytest.mark.usefixtures("changed")
async def test_a_node_with_another_host_key_is_refused(hub: HubProcess) -> None:
    """A node that comes back with a key that is not the pinned one gets nothing, and the admin reads why."""

    async def refused() -> bool:
        seen = await hub.farm.node("gpu01")
        return seen["status"] != "ready" and "host key" in seen["detail"]

    await eventually(refused, "gpu01 is refused for its host key", timeout=40, interval=0.2)
    await hub.add_user("ada")
    status, body = await hub.api("POST", "/users/ada/server", {"node": "gpu01"})
    if status in (201, 202):  # it waits: the key may be put right
        assert (await lease_of(hub, "ada")).state == "waiting"
    else:
        assert "gpu01" in body["message"]
