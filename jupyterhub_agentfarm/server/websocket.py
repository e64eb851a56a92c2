"""Kernel WebSockets without Nagle's algorithm.

Jupyter Server sends an answer in several small writes. With Nagle's algorithm the second waits for the peer to
acknowledge the first, which the peer delays by 40 ms: on every cell.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from traitlets import default


class NoDelayWebsocketConnection(ZMQChannelsWebsocketConnection):
    """Jupyter Server's own connection with TCP_NODELAY, and without the limit that drops a large output."""

    @default("limit_rate")
    def _default_limit_rate(self) -> bool:
        return False

    def connect(self) -> Any:
        """Connect to the kernel's channels."""
        self.websocket_handler.set_nodelay(True)
        return super().connect()
