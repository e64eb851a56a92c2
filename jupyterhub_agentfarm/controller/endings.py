"""How servers ended: the cause that programs and metrics use, the sentence that people read, and the count of both.

A server whose record on the node is of another boot, or is gone together with that boot, went down with its node; one
that had ended before the restart keeps the cause that was seen.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from ..logs import LogLine, about
from ..metrics import EXIT_CAUSES, METRICS, head_lines, sample_line
from ..models import Lease, LeaseEnd, ServerStatus

#: Ends that somebody asked for.
_ASKED_FOR = {"stopped", "drained", "withdrawn"}
_EXITS = "agentfarm_server_exits_total"


def exit_sentence(server: ServerStatus) -> str:
    """Say how a server ended."""
    return server.exit.sentence() if server.exit is not None else "the server is gone; how it ended is not known"


def end_of(lease: Lease, server: ServerStatus | None, boot_id: str | None) -> tuple[LeaseEnd, str]:
    """Return why the server of a lease ended, as a word and as a sentence.

    Parameters
    ----------
    lease
        The lease that it ran under.
    server
        What its node's noded says of it; None: it knows no such server.
    boot_id
        The node's present boot; None: it is not known.
    """
    known = server or lease.server
    unseen = server is None or server.exit is None or server.exit.cause == "unknown"
    if unseen and known is not None and boot_id is not None and known.boot_id != boot_id:
        return "node_restarted", f"node {lease.node} was restarted"
    if server is None:
        return "unknown", f"the server is gone from {lease.node}"
    return "unknown" if server.exit is None else server.exit.cause, exit_sentence(server)


class ExitCounts:
    """How many servers ended, by node and cause, since this controller began.

    Parameters
    ----------
    log
        Where each end is written.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, lease: Lease) -> None:
        """Log the end of a lease, here and nowhere else, and count it when it had a server."""
        level = logging.INFO if lease.end in _ASKED_FOR else logging.WARNING
        self._log.log(level, LogLine("released", **about(lease), end=lease.end, detail=lease.detail))
        if lease.node is not None and lease.end in EXIT_CAUSES and (lease.server is not None or lease.url is not None):
            self._counts[lease.node, str(lease.end)] += 1

    def text(self, nodes: Iterable[str]) -> str:
        """Return the metric in Prometheus' text format; causes that never came about are 0 for each of `nodes`."""
        names = sorted({*nodes, *(node for node, _ in self._counts)})
        lines = [
            sample_line(_EXITS, {"node": node, "cause": cause}, self._counts[node, cause])
            for node in names
            for cause in EXIT_CAUSES
        ]
        return head_lines(METRICS[_EXITS]) + "".join(f"{line}\n" for line in lines)
