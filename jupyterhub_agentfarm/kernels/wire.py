"""Lines of JSON, some with file descriptors, over the socket of one kernel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

#: What asks a zygote for a kernel.
FORK = b"k"
#: Descriptors that come with it: the channel, and the three standard streams.
FORK_DESCRIPTORS = 4
_CHUNK_BYTES = 65536

Message = dict[str, Any]


def encode(message: Mapping[str, Any]) -> bytes:
    """Return the line of a message."""
    return json.dumps(message).encode() + b"\n"


def send(sock: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> bool:
    """Send a message; return false when nobody is there to read it."""
    try:
        socket.send_fds(sock, [encode(message)], list(descriptors))
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def receive(sock: socket.socket) -> Message | None:
    """Wait for one message and return it; None: the other side is gone."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = sock.recv(_CHUNK_BYTES)
        if not chunk:
            return None
        data += chunk
    message: Message = json.loads(data)
    return message


class Channel:
    """The server's end of a kernel's channel. It does not block.

    Attributes
    ----------
    descriptors
        What came with the messages so far.
    closed
        Nothing more will come.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket, self._data = sock, b""
        self.descriptors: list[int] = []
        self.closed = False

    def close(self) -> None:
        """Close it; a second call does nothing."""
        self.closed = True
        self._socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    def fileno(self) -> int:
        """Return what can be waited for."""
        return self._socket.fileno()

    def next(self) -> Message | None:
        """Return a message that has come; None: there is none."""
        while b"\n" not in self._data and not self.closed:
            try:
                chunk, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK_BYTES, 1)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                chunk, descriptors = b"", []
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            self.descriptors += descriptors
            self._data += chunk
            self.closed = not chunk
        line, newline, rest = self._data.partition(b"\n")
        if not newline:
            return None
        self._data = rest
        message: Message = json.loads(line)
        return message

    async def wait(self) -> Message | None:
        """Wait for a message; None: nothing more will come."""
        while (message := self.next()) is None and not self.closed:
            await _readable(self._socket)
        return message

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; one that nobody is there for is dropped, and nothing will come."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await asyncio.get_running_loop().sock_sendall(self._socket, encode(message))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, tell)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
