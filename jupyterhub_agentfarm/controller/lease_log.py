"""One line in the log for each state that a lease comes into, here and nowhere else in the controller.

How a lease ended is written by :class:`.endings.ExitCounts`, which counts it too.
"""

from __future__ import annotations

import logging

from ..logs import LogLine, about
from ..models import Lease, LeaseState


class LeaseLog:
    """Remembers the state that each lease was last seen in.

    Parameters
    ----------
    log
        Where the lines go.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._seen: dict[str, LeaseState] = {}

    def note(self, lease: Lease) -> None:
        """Write a line when the lease's state is new."""
        if not lease.alive:
            self._seen.pop(lease.id, None)
            return
        if self._seen.get(lease.id) == lease.state:
            return
        self._seen[lease.id] = lease.state
        self._log.info(_line(lease))


def _line(lease: Lease) -> LogLine:
    match lease.state:
        case "waiting":
            return LogLine("waiting", **about(lease), detail=lease.detail or None)
        case "granted":
            return LogLine("granted", **about(lease), gpus=lease.gpus or None, epoch=lease.epoch)
        case "running":
            return LogLine("running", **about(lease), url=lease.url, pid=lease.server.pid if lease.server else None)
        case _:
            return LogLine(lease.state, **about(lease), detail=lease.detail or None)
