"""A kernel's ports are given to nobody else: not before it has bound them, and not while it comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.connect import port_names
from kernel_ways import WARM, kernel, warm_kernels

from jupyterhub_agentfarm.kernels.ports import HeldPorts, is_taken
from jupyterhub_agentfarm.kernels.process import KernelProcess
from jupyterhub_agentfarm.kernels.warm import WarmKernels

pytestmark = pytest.mark.timeout(120)

#: ip(7): of which ports the system may choose for this socket; Linux 6.3.
_IP_LOCAL_PORT_RANGE = 51


def _asked(port: int) -> socket.socket:
    """Return a socket for which the system has only this port to choose."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, struct.pack("I", port << 16 | port))
    except OSError:
        sock.close()
        pytest.skip("this Linux cannot be asked for a port out of a range")
    return sock


def given_to_listen(port: int, *, reuse: bool = False) -> bool:
    """Return whether the system gives a port to somebody who wants to listen on any."""
    with _asked(port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            sock.bind(("127.0.0.1", 0))
        except OSError:
            return False
        return True


def given_to_connect(port: int) -> bool:
    """Return whether the system gives a port to a connection, as its near end."""
    with socket.create_server(("127.0.0.1", 0)) as far, _asked(port) as sock:
        try:
            sock.connect(far.getsockname())
        except OSError:
            return False
        # Otherwise the port would be kept for a minute.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return True


WAYS: dict[str, Callable[[int], bool]] = {
    "listen": given_to_listen,
    "listen, and share": lambda port: given_to_listen(port, reuse=True),
    "connect": given_to_connect,
}


@pytest.mark.parametrize("given", WAYS.values(), ids=WAYS)
def test_nobody_is_given_a_port_that_is_held(given: Callable[[int], bool]) -> None:
    """Neither before it is bound, nor while somebody has it, nor afterwards; once let go, it is like any other."""
    held = HeldPorts("127.0.0.1", 5)
    assert len(set(held.numbers)) == 5
    port = held.numbers[2]
    with contextlib.closing(held):
        assert not given(port)
        with socket.create_server(("127.0.0.1", port)):
            assert not given(port)
        assert not given(port)
    held.close()
    assert given(port)


def test_libzmq_binds_a_port_that_is_held() -> None:
    """It is reached there, and once it has let the port go the next one can bind it."""
    with contextlib.closing(HeldPorts("127.0.0.1", 1)) as held:
        (port,) = held.numbers
        for _ in range(2):
            assert not is_taken("127.0.0.1", port)
            with zmq.Context() as context, context.socket(zmq.ROUTER) as near, context.socket(zmq.DEALER) as far:
                near.bind(f"tcp://127.0.0.1:{port}")
                assert is_taken("127.0.0.1", port)
                far.connect(f"tcp://127.0.0.1:{port}")
                far.send(b"heard")
                assert near.recv_multipart()[-1] == b"heard"


def test_an_address_of_another_machine() -> None:
    """Nothing is held there, and nothing is left open."""
    with pytest.raises(OSError, match="assign"):
        HeldPorts("192.0.2.1", 5)


@pytest.mark.parametrize("enabled", [True, False], ids=["warm", "cold"])
async def test_a_kernel_keeps_its_ports(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    """From before its start until after its last restart nobody is given one, whether it is forked or not."""
    begin = WarmKernels.start
    looked: list[int] = []

    def look(ports: Sequence[int]) -> None:
        looked.extend(ports)
        assert not [(way, port) for port in ports for way, given in WAYS.items() if given(port)]

    async def start(kernels: WarmKernels, command: Sequence[str], options: Mapping[str, Any]) -> KernelProcess:
        told = json.loads(await asyncio.to_thread(Path(command[-1]).read_text))
        look([told[name] for name in port_names])
        return await begin(kernels, command, options)

    monkeypatch.setattr(WarmKernels, "start", start)
    with warm_kernels(enabled=enabled):
        async with kernel(WARM) as started:
            ports = started.manager.ports
            for newports in (False, True):
                await started.manager.restart_kernel(now=True, newports=newports)
                await started.client.wait_for_ready(60)
                look(started.manager.ports)
            assert await started.output("print(1)") == "1\n"
    assert looked == ports * 5
