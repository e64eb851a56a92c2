"""The listening socket that noded made.

Jupyter Server has no option to listen on an open socket. Two methods of its application choose and bind the port;
:class:`InheritedSocketApp` overrides both, and nothing else of Jupyter Server's inside is relied on. They are the
same in Jupyter Server 2.0 to 2.21.
"""

from __future__ import annotations

import os
import socket

from jupyter_server.serverapp import ServerApp

from jupyterhub_agentfarm.errors import InvalidField

#: Holds the socket's file descriptor.
VARIABLE = "AGENTFARM_SOCKET_FD"


def take_socket() -> socket.socket | None:
    """Return the inherited listening socket, or None when there is none.

    From then on no child gets it: neither the file descriptor nor the variable.

    Raises
    ------
    InvalidField
        The variable does not name a listening TCP socket.
    """
    value = os.environ.pop(VARIABLE, None)
    if value is None:
        return None
    wanted = "the number of a listening TCP socket"
    try:
        sock = socket.socket(fileno=int(value))
    except (ValueError, OSError) as exc:
        raise InvalidField(VARIABLE, wanted, value) from exc
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or not _listens(sock):
        sock.detach()
        raise InvalidField(VARIABLE, wanted, value)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


class InheritedSocketApp(ServerApp):
    """A Jupyter Server that listens on :attr:`inherited_socket` when there is one."""

    inherited_socket: socket.socket | None = None

    def _find_http_port(self) -> None:
        if self.inherited_socket is None:
            super()._find_http_port()
        else:
            self.port = self.inherited_socket.getsockname()[1]

    def _bind_http_server_tcp(self) -> bool:
        if self.inherited_socket is None:
            return bool(super()._bind_http_server_tcp())
        self.http_server.add_sockets([self.inherited_socket])
        return True
