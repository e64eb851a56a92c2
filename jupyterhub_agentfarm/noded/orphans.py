"""Processes of servers that noded has no record of: listed, and ended after a grace.

They are what an earlier noded left behind whose records are lost or damaged, and what slipped past the end of its
server. A process is such an orphan when all of this is so::

    its environment names a lease (AGENTFARM_LEASE_ID) that noded has neither a server nor a launch of
    its environment names this very noded (AGENTFARM_NODED): another one of the same account has servers of its own
    it belongs to noded's account, or is in a cgroup or scope that was made for that lease

Nobody else's process is one, whatever it does; what descends from an orphan without its environment is none either.
The controller is the one to say that a lease is nobody's: an orphan is ended when it was seen for the grace, and the
controller has since then asked for the orphans without naming its lease among those that it holds. First SIGTERM; a
round later SIGKILL. Each signal goes by a pidfd, after pid, start time and environment were looked at again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from jupyterhub_agentfarm.logs import LogLine
from jupyterhub_agentfarm.protocol import Orphan

from . import cgroups, procfs
from .isolation.systemd import scope_name

log = logging.getLogger(__name__)

NODED_VARIABLE = procfs.NODED_VARIABLE
#: Longest time between two looks, in seconds.
_LOOK_SECONDS = 5.0
_SHORTEST_LOOK_SECONDS = 0.1


def noded_mark(state_dir: Path) -> str:
    """Return what names the noded of a state directory; it outlasts what is in the directory."""
    named = f"{socket.gethostname()}\0{os.getuid()}\0{state_dir.resolve()}"
    return hashlib.sha256(named.encode()).hexdigest()[:16]


@dataclass
class _Seen:
    """An orphan that is there."""

    orphan: Orphan
    #: By the monotonic clock.
    since: float
    terminated: bool = False


class Orphans:
    """The orphans of one noded.

    Parameters
    ----------
    mark
        What names this noded; see :func:`noded_mark`.
    known
        Returns the leases that noded has servers or launches of.
    grace_seconds
        How long one is left alone.
    """

    def __init__(self, mark: str, known: Callable[[], Collection[str]], grace_seconds: float) -> None:
        self._mark, self._known, self._grace_seconds = mark, known, grace_seconds
        self._seen: dict[tuple[int, int], _Seen] = {}
        #: What the controller holds, and when it said so; before that nothing is ended.
        self._held: frozenset[str] = frozenset()
        self._told_at: float | None = None

    async def listed(self, held: Collection[str]) -> list[Orphan]:
        """Return the orphans there are now; `held` are the leases of this node that the controller has."""
        await self._look()
        self._held, self._told_at = frozenset(held), time.monotonic()
        return [seen.orphan for _, seen in sorted(self._seen.items())]

    async def run(self) -> None:
        """Look for orphans, and end those whose time is over, until cancelled."""
        pause = min(_LOOK_SECONDS, max(_SHORTEST_LOOK_SECONDS, self._grace_seconds / 4))
        while True:
            await self._look()
            await asyncio.to_thread(self._end_old)
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        found = await asyncio.to_thread(_marked, self._mark)
        known, now = set(self._known()), time.monotonic()
        there = {key: lease for key, lease in found.items() if lease not in known}
        self._seen = {key: seen for key, seen in self._seen.items() if key in there}
        for (pid, ticks), lease in there.items():
            if (pid, ticks) not in self._seen:
                log.warning(LogLine("orphan: there is no record of its lease", lease=lease, pid=pid))
                orphan = Orphan(pid, ticks, lease, time.time() - procfs.age_seconds(ticks), time.time())
                self._seen[pid, ticks] = _Seen(orphan, now)

    def _end_old(self) -> None:
        now = time.monotonic()
        for seen in list(self._seen.values()):
            judged = self._told_at is not None and self._told_at > seen.since and seen.orphan.lease not in self._held
            if judged and now - seen.since >= self._grace_seconds and seen.orphan.lease not in self._known():
                self._end(seen)

    def _end(self, seen: _Seen) -> None:
        orphan = seen.orphan
        if believed_mark(orphan.pid) != (orphan.lease, self._mark):
            return
        number = signal.SIGKILL if seen.terminated else signal.SIGTERM
        seen.terminated, facts = True, {"lease": orphan.lease, "pid": orphan.pid, "signal": number.name}
        try:
            sent = procfs.send_signal(orphan.pid, orphan.pid_start_ticks, number)
        except PermissionError as exc:  # it has changed its account
            log.warning(LogLine("orphan could not be ended", **facts, detail=exc.strerror))
            return
        if sent:
            log.warning(LogLine("orphan ended: nobody holds its lease", **facts))


def _marked(mark: str) -> dict[tuple[int, int], str]:
    """Return the lease of every living process that this noded's servers left, by pid and start time."""
    found = {}
    for process in procfs.scan().values():
        named = None if process.zombie or process.pid == os.getpid() else believed_mark(process.pid)
        if named is not None and named[1] == mark:
            found[process.pid, process.start_ticks] = named[0]
    return found


def believed_mark(pid: int) -> tuple[str, str] | None:
    """Return the lease and the noded that a process names, when noded may believe it."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        if procfs.MARKER.encode() not in environment:
            return None
        entries = dict(entry.partition(b"=")[::2] for entry in environment.split(b"\0"))
        lease = entries.get(procfs.MARKER.encode(), b"").decode(errors="replace")
        mark = entries.get(NODED_VARIABLE.encode(), b"").decode(errors="replace")
        if not (lease and mark):
            return None
        own = Path(f"/proc/{pid}").stat().st_uid == os.getuid()
        groups = () if own else Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace").splitlines()
        believed = own or any(group.endswith(_cgroups_of(lease)) for group in groups)
    except OSError:
        return None
    return (lease, mark) if believed else None


def _cgroups_of(lease: str) -> tuple[str, ...]:
    """Return what the cgroups of a lease's server end with: one that noded made, and a scope of systemd's."""
    return f"/{cgroups.FOLDER}/{lease}", f"/{scope_name(lease)}"
