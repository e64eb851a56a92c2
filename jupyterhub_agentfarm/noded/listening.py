"""Listening sockets for servers.

In the mode "inherit" noded binds and listens, and the server inherits the socket: between the choice of the port
and the server's first request nobody else can take it. In the mode "port" the server binds, and the port is only
likely to be free.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import random
import socket
from collections.abc import Iterable

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.models import LaunchSpec

_BACKLOG = 128
#: A free port may be lost again between bind and listen.
_TRIES = 3


def listen(address: str, port_range: tuple[int, ...] | None) -> socket.socket:
    """Return a socket that listens on `address` and a port of the range, or any free port.

    Raises
    ------
    LaunchFailed
        The address is not one of this node, is a name for its loopback, or every port of the range is taken.
    """
    family, place = _resolve(address)
    for port in _ports(port_range):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((place, port))
            sock.listen(_BACKLOG)
        except OSError as exc:
            sock.close()
            if exc.errno != errno.EADDRINUSE:
                raise failed(f"cannot listen on {address}:{port}: {exc.strerror}") from exc
        else:
            return sock
    raise failed(f"every port of {port_range or 'those tried'} on {address} is taken")


def free_port(address: str, port_range: tuple[int, ...] | None) -> int:
    """Return a port that nobody listened on a moment ago.

    Raises
    ------
    LaunchFailed
        As :func:`listen`.
    """
    with listen(address, port_range) as sock:
        return int(sock.getsockname()[1])


def service_url(spec: LaunchSpec, port: int) -> str:
    """Return JUPYTERHUB_SERVICE_URL: where the server is to be reached."""
    host = f"[{spec.address}]" if ":" in spec.address else spec.address
    return f"{spec.protocol}://{host}:{port}{spec.base_url}"


def failed(message: str, log_tail: str = "") -> LaunchFailed:
    """Return the error that a launch is answered with."""
    return LaunchFailed(message, "launch_failed", {"log_tail": log_tail})


def _resolve(address: str) -> tuple[socket.AddressFamily, str]:
    try:
        family, _, _, _, place = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise failed(f"{address} is no address to listen on: {exc.strerror}") from exc
    _check_reachable(address, str(place[0]))
    return family, str(place[0])


def _check_reachable(address: str, found: str) -> None:
    """Refuse the loopback behind a name: Debian's /etc/hosts has the node's own name there."""
    # Who writes 127.0.0.1 or localhost means it: the Hub is on the same machine.
    if address in (found, "localhost") or not ipaddress.ip_address(found.partition("%")[0]).is_loopback:
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(address).is_loopback:
            return
    raise failed(
        f"on the node the name {address} means {found}, where nobody else reaches a server: "
        "set the node's `address` to the one that the Hub reaches"
    )


def _ports(port_range: tuple[int, ...] | None) -> Iterable[int]:
    if port_range is None:
        return [0] * _TRIES
    first, last = port_range
    ports = list(range(first, last + 1))
    start = random.randrange(len(ports))  # noqa: S311 - spreads the servers, guards nothing
    return ports[start:] + ports[:start]
