"""A server of a few milliseconds instead of Jupyter's seconds, for tests that need many.

It takes the listening socket that noded made, as :mod:`jupyterhub_agentfarm.server` does, and answers with the same
identity (``X-JupyterHub-Version``, ``X-AgentFarm-Lease``), so lease, launch, readiness, route, proxy, exit and stop are
the real ones; what it lacks is Jupyter: kernels, log-in, reports of activity. Its paths, below the server's base URL:

=============  =====================================================================================
api…           ``{"version": …}``
echo           a WebSocket that sends every text message back
exit/N         the process exits with status N
hog            the process takes memory until it is killed
anything else  host name, pid, GPUs and lease as JSON
=============  =====================================================================================

Started as ``python -I -S stand_in_server.py jupyterhub_agentfarm.server HUB_VERSION …``: the spawner hands the socket
over to commands that name that module.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import sys
import threading
from typing import BinaryIO

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BASE = "/" + os.environ["JUPYTERHUB_SERVICE_URL"].split("/", 3)[3]


def head(status: str, *lines: str) -> bytes:
    """Return the beginning of an answer."""
    identity = (f"X-JupyterHub-Version: {sys.argv[2]}", f"X-AgentFarm-Lease: {os.environ['AGENTFARM_LEASE_ID']}")
    return "\r\n".join((f"HTTP/1.1 {status}", *identity, *lines, "", "")).encode()


def send(sock: socket.socket, body: object) -> None:
    """Answer with JSON."""
    data = json.dumps(body).encode()
    sock.sendall(head("200 OK", "Content-Type: application/json", f"Content-Length: {len(data)}") + data)


def echo(sock: socket.socket, stream: BinaryIO, key: bytes) -> None:
    """Be a WebSocket until the peer goes."""
    accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest()).decode()
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}")
    sock.sendall(head("101 Switching Protocols", *upgrade))
    while len(start := stream.read(2)) == 2:
        kind, length = start[0] & 15, start[1] & 127
        if length == 126:
            length = int.from_bytes(stream.read(2), "big")
        mask = stream.read(4)
        text = bytes(byte ^ mask[i % 4] for i, byte in enumerate(stream.read(length)))
        answer = {9: 10}.get(kind, kind)
        size = bytes([length]) if length < 126 else bytes([126]) + length.to_bytes(2, "big")
        sock.sendall(bytes([128 | answer]) + size + text)
        if kind == 8:
            return


def serve(sock: socket.socket) -> None:
    """Answer the requests of one connection."""
    stream = sock.makefile("rb")
    while request := stream.readline().split():
        path = request[1].decode().split("?")[0]
        headers: dict[bytes, bytes] = {}
        while (line := stream.readline().strip()) and b":" in line:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        stream.read(int(headers.get(b"content-length", 0)))
        rest = path.removeprefix(BASE)
        if rest == "echo":
            return echo(sock, stream, headers[b"sec-websocket-key"])
        if rest.startswith("exit/"):
            os._exit(int(rest[5:]))
        if rest == "hog":
            hog()
        if rest.startswith("api"):
            send(sock, {"version": sys.argv[2]})
        else:
            gpus, lease = os.environ["CUDA_VISIBLE_DEVICES"], os.environ["AGENTFARM_LEASE_ID"]
            send(sock, {"host": socket.gethostname(), "pid": os.getpid(), "gpus": gpus, "lease": lease})
    return None


def hog() -> None:
    """Take memory."""
    taken = []
    while True:
        taken.append(bytearray(os.urandom(2**20)))


def main() -> None:
    """Serve until killed."""
    listener = socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"]))
    listener.setblocking(True)
    print("serving", BASE, flush=True)  # noqa: T201 - the server's log
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=quietly, args=(sock,), daemon=True).start()


def quietly(sock: socket.socket) -> None:
    """Serve a connection; one that breaks is the peer's business."""
    try:
        with sock:
            serve(sock)
    except (OSError, KeyError, ValueError):
        pass


main()
