"""Ports for a kernel, kept for it from before its start until it is no more.

A kernel is told which ports to bind. If they are merely free when they are chosen, as jupyter_client has it, the system
may give one to somebody else before the kernel binds it, or while it is being restarted: to another user's kernel, when
many start at once. Who connects in that time meets the wrong program; libzmq does not try again after it met a socket
of a kind that does not fit, as a subscriber that met a shell channel.

A port is *held* by a socket that is bound to it and does not listen. Linux gives such a port to nobody who leaves the
choice to the system, whether for listening or as the near end of a connection. Who names it can bind it and listen all
the same, if both sockets have SO_REUSEADDR (socket(7)), which libzmq's have.
"""

from __future__ import annotations

import contextlib
import socket


class HeldPorts:
    """Ports of one address that the system gives to nobody.

    Parameters
    ----------
    address
        The address of this machine, IPv4 or IPv6.
    count
        How many ports.

    Attributes
    ----------
    numbers
        The ports, all different.

    Raises
    ------
    OSError
        The address is not this machine's, or there are no more ports.
    """

    def __init__(self, address: str, count: int) -> None:
        with contextlib.ExitStack() as opened:
            sockets = [opened.enter_context(_bound(address, 0)) for _ in range(count)]
            self.numbers: tuple[int, ...] = tuple(sock.getsockname()[1] for sock in sockets)
            self._sockets = opened.pop_all()

    def close(self) -> None:
        """Let the ports go; whoever has bound one keeps it. A second call does nothing."""
        self._sockets.close()


def is_taken(address: str, port: int) -> bool:
    """Return whether somebody listens on a port, or has it in a way that allows nobody to."""
    try:
        _bound(address, port).close()
    except OSError:
        return True
    return False


def _bound(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock
