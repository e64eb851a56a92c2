"""Which processes belong to which server.

Everything of a server = its cgroup, its session, what descends from them, the processes of its account whose
environment names the lease and no other noded, and whatever was once seen to be one of these. Kernels make sessions of
their own and daemons leave the tree; no single one of the five finds them all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from . import cgroups, procfs


@dataclass(frozen=True)
class Identity:
    """What names a server's processes."""

    lease: str
    pid: int
    start_ticks: int
    cgroups: tuple[str, ...] = ()
    #: The end of the session's leader was watched, so that its session id cannot mean somebody else's session.
    end_was_watched: bool = False
    #: User id of its account; None: noded's own.
    uid: int | None = None
    #: What names the noded whose server it is; "": any noded's.
    noded: str = ""
    #: Processes that were seen to belong to it, as pid and start time.
    seen: tuple[tuple[int, int], ...] = ()


class Census:
    """All processes of the node at one moment."""

    def __init__(self) -> None:
        self.processes = procfs.scan()
        self._children: dict[int, list[int]] = {}
        self._marks: dict[int, procfs.Mark] = {}
        for process in self.processes.values():
            self._children.setdefault(process.ppid, []).append(process.pid)
            mark = procfs.mark_of(process.pid)
            if mark is not None:
                self._marks[process.pid] = mark

    def members(self, identity: Identity) -> list[procfs.Process]:
        """Return the living processes of a server, noded itself never among them."""
        found: set[int] = set()
        todo = list(self._seeds(identity))
        while todo:
            pid = todo.pop()
            if pid not in found and pid != os.getpid() and pid in self.processes:
                found.add(pid)
                todo += self._children.get(pid, [])
        return [self.processes[pid] for pid in sorted(found) if not self.processes[pid].zombie]

    def _seeds(self, identity: Identity) -> Iterable[int]:
        leader = self.processes.get(identity.pid)
        is_it = leader is not None and leader.start_ticks == identity.start_ticks
        if is_it:
            yield identity.pid
        if is_it or (leader is None and identity.end_was_watched):
            yield from (p.pid for p in self.processes.values() if p.session == identity.pid)
        yield from cgroups.pids_in(identity.cgroups)
        for pid, ticks in identity.seen:
            if pid in self.processes and self.processes[pid].start_ticks == ticks:
                yield pid
        yield from self._marked(identity.lease, identity.uid, identity.noded)

    def _marked(self, lease: str, uid: int | None, noded: str) -> Iterable[int]:
        # Until it takes on its account, a server's process is noded's.
        accounts = (uid, os.getuid())
        return (
            pid
            for pid, mark in self._marks.items()
            if mark.lease == lease and mark.uid in accounts and (not noded or mark.noded in ("", noded))
        )

    def leader_of(self, lease: str, uid: int | None = None) -> procfs.Process | None:
        """Return the first process of a lease that leads a session: the server's own process."""
        marked = (self.processes[pid] for pid in self._marked(lease, uid, ""))
        leaders = [process for process in marked if process.session == process.pid and not process.zombie]
        return min(leaders, key=lambda process: process.start_ticks, default=None)
