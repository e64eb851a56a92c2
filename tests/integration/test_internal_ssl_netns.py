"""internal_ssl between machines: each node has an address of its own, and what goes over the wire is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from cryptography import x509
from hub_process import HubProcess, hub_process
from netns import NetnsFarm, netns_farm
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.netns, pytest.mark.sshd, pytest.mark.timeout(240)]

_ALL_PROTOCOLS = 0x0003
_CONTROL, _MARKER = b"this-goes-in-the-clear", "this-does-not"
CERTIFICATE = """
import os
print(open(os.environ['JUPYTERHUB_SSL_CERTFILE']).read(), end='')
"""


@pytest.fixture
async def farm() -> AsyncIterator[NetnsFarm]:
    """Boot two nodes."""
    manager = netns_farm(2)
    booted = await asyncio.to_thread(manager.__enter__)
    try:
        yield booted
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


@pytest.fixture
async def hub(farm: NetnsFarm) -> AsyncIterator[HubProcess]:
    """Run a Hub with internal_ssl that the nodes call at the bridge's address."""
    environment = {"AGENTFARM_HUB_IP": farm.hub_address, "AGENTFARM_INTERNAL_SSL": "1"}
    async with hub_process([node.spec for node in farm.nodes], **environment) as running:

        async def ready() -> bool:
            return sum(node["eligible"] for node in await running.farm.nodes()) == 2

        await eventually(ready, "both nodes are eligible", timeout=60, interval=0.1)
        yield running


@contextlib.contextmanager
def captured(interface: str) -> Iterator[list[bytes]]:
    """Give a list of all packets of an interface, complete once the block is left."""
    packets: list[bytes] = []
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                packets.append(wire.recv(2**16))

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS)) as wire:
        wire.bind((interface, _ALL_PROTOCOLS))
        wire.settimeout(0.2)
        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield packets
        finally:
            over.set()
            listener.join()


async def say_in_the_clear(address: str) -> None:
    """Send a node's sshd what it does not understand."""
    _, writer = await asyncio.open_connection(address, 22)
    writer.write(_CONTROL + b"\n")
    await writer.drain()
    writer.close()


async def test_nothing_of_a_users_goes_over_the_wire_in_the_clear(farm: NetnsFarm, hub: HubProcess) -> None:
    """A server on each node has its node's certificate; neither its token nor what its kernel prints is readable."""
    token = await hub.add_user("ada")
    with captured(farm.nodes[0].bridge) as packets:
        for node in farm.nodes:
            await say_in_the_clear(node.address)
            await hub.start_server("ada", {"node": node.name}, name=node.name)
            printed = await hub.run_cell(
                "ada", f"import os; print(os.environ['JUPYTERHUB_API_TOKEN'], '{_MARKER}')", node.name
            )
            servers_token, marker = printed.split()
            assert marker == _MARKER
            pem = await hub.run_cell("ada", CERTIFICATE, node.name)
            names = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
            assert [str(name.value) for name in names.value] == [node.address]
            (lease,) = [lease for lease in await hub.farm.leases() if lease.node == node.name]
            assert str(lease.url).startswith(f"https://{node.address}:")
    wire = b"".join(packets)
    assert len(packets) > 100
    assert wire.count(_CONTROL) >= 2, "the capture sees nothing"
    for secret in (_MARKER, token, hub.token, servers_token, "Authorization", "BEGIN PRIVATE KEY"):
        assert secret.encode() not in wire, f"{secret!r} went in the clear"
    for node in farm.nodes:
        await hub.stop_server("ada", node.name)
    assert "plain HTTP" not in hub.log_text()
