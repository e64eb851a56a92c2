"""noded's lines about servers: one for each that is launched, adopted, told to stop, or has ended."""

from __future__ import annotations

import logging
import socket

from jupyterhub_agentfarm.logs import LogLine
from jupyterhub_agentfarm.models import LaunchSpec, ServerStatus

log = logging.getLogger(__name__)


class ServerLines:
    """Writes the lines; knows the names of the servers that this noded launched."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def launched(self, spec: LaunchSpec, status: ServerStatus) -> None:
        """Note that a server was started."""
        _, _, rest = spec.base_url.strip("/").partition("user/")
        owner, _, name = rest.partition("/")
        self._names[spec.lease] = f"{spec.owner or owner}/{name}"
        log.info(self.line("launched", spec.lease, pid=status.pid, port=status.port, gpus=spec.gpus or None))

    def adopted(self, status: ServerStatus) -> None:
        """Note that a server of an earlier noded goes on."""
        log.info(self.line("adopted", status.lease, pid=status.pid, port=status.port))

    def stopping(self, lease: str, grace_seconds: float) -> None:
        """Note that a server is told to end."""
        log.info(self.line("stopping", lease, grace_seconds=grace_seconds))

    def exited(self, status: ServerStatus) -> None:
        """Note that a server ended."""
        ended = status.exit
        if ended is not None:
            fields = {"cause": ended.cause, "code": ended.code, "signal": ended.signal}
            log.info(self.line("exited", status.lease, pid=status.pid, **fields))
        self._names.pop(status.lease, None)

    def line(self, words: str, lease: str, **fields: object) -> LogLine:
        """Return a line about a server."""
        return LogLine(words, node=socket.gethostname(), server=self._names.get(lease), lease=lease, **fields)
