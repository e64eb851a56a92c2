"""Nagle's algorithm is off at both ends of a kernel's WebSocket, where it would cost 40 ms on every cell."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jupyter_server_process import TOKEN, Server
from waiting import eventually

from jupyterhub_agentfarm.server.websocket import NoDelayWebsocketConnection

_PIDFD_GETFD = 438
OURS = f"{NoDelayWebsocketConnection.__module__}.{NoDelayWebsocketConnection.__name__}"
THEIRS = "jupyter_server.services.kernels.connection.channels.ZMQChannelsWebsocketConnection"


@pytest.mark.parametrize(("connection", "expected"), [(OURS, True), (THEIRS, False)], ids=["ours", "jupyter's"])
async def test_both_ends_send_at_once(tmp_path: Path, connection: str, expected: bool) -> None:
    """The server's end by our class, where Jupyter's own leaves it on; the client's by asyncio, which always does."""
    server = Server(tmp_path)
    server.config["ServerApp"] = {"kernel_websocket_connection_class": connection}
    server.start()
    try:
        await server.ready()
        async with aiohttp.ClientSession(headers={"Authorization": f"token {TOKEN}"}) as http:
            async with http.post(f"{server.url}api/kernels", json={"name": "python3"}) as answer:
                kernel = (await answer.json())["id"]
            async with http.ws_connect(f"{server.url}api/kernels/{kernel}/channels") as websocket:
                client: socket.socket = websocket.get_extra_info("socket")
                assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert server.process is not None
                process = server.process.pid
                await eventually(lambda: _sends_at_once(process, client) == expected, "the kernel is connected")
    finally:
        server.stop()


def _sends_at_once(process: int, client: Any) -> bool:
    """Return whether a process has TCP_NODELAY on its end of a connection."""
    pidfd = os.pidfd_open(process)
    try:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            if str(entry.readlink()).startswith("socket:"):
                copy = ctypes.CDLL(None).syscall(_PIDFD_GETFD, pidfd, int(entry.name), 0)
                with socket.socket(fileno=copy) as end:
                    if end.family == socket.AF_INET and _peer(end) == client.getsockname():
                        return bool(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    finally:
        os.close(pidfd)
    raise AssertionError("the process has no such connection")


def _peer(end: socket.socket) -> Any:
    try:
        return end.getpeername()
    except OSError:
        return None
