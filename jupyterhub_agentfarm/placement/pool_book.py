"""PoolBook: what the members of a group hold and used lately, all together, counted as leases change.

Only groups that have a pool are counted: where none has, a lease costs nothing here. A lease counts for the groups that
its request names, from its grant to its release; one that waits holds nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..models import Lease
from .usage import WEEK_SECONDS, UsageBook, Used, used_by


class PoolBook:
    """What is held and used from the pools.

    Parameters
    ----------
    groups
        Those that are counted.
    window_seconds
        How far back GPU-hours are asked for.
    """

    def __init__(self, groups: frozenset[str] = frozenset(), window_seconds: float = WEEK_SECONDS) -> None:
        self.groups = groups
        #: GPU-hours, with groups in place of owners.
        self.usage = UsageBook(window_seconds)
        #: GPUs and servers held, by group.
        self.gpus: Counter[str] = Counter()
        self.servers: Counter[str] = Counter()
        #: Groups and GPUs of each lease that is counted.
        self._counted: dict[str, tuple[frozenset[str], int]] = {}

    def watch(self, groups: frozenset[str], alive: Callable[[], Iterable[Lease]]) -> None:
        """Count these groups too; of one that is new, GPU-hours of what is `alive` only.

        A group that was counted once stays so: otherwise it would have to be read again.
        """
        if groups <= self.groups:
            return
        self.groups |= groups
        for lease in alive():
            self.note(lease)
            used = used_by(lease)
            if used is not None:
                self.note_use(used)

    def note(self, lease: Lease) -> None:
        """Take in a lease that is new or changed; the same again changes nothing."""
        if not self.groups:
            return
        before = self._counted.pop(lease.id, None)
        if before is not None:
            self._count(*before, sign=-1)
        groups = self.groups.intersection(lease.request.groups)
        if groups and lease.alive and lease.state != "waiting":
            self._counted[lease.id] = groups, len(lease.gpus)
            self._count(groups, len(lease.gpus), sign=1)

    def note_use(self, used: Used) -> None:
        """Take in a grant or a release for GPU-hours; see :meth:`.usage.UsageBook.note`."""
        for group in self.groups.intersection(used.groups):
            self.usage.note(replace(used, owner=group, groups=()))

    def _count(self, groups: Iterable[str], gpus: int, sign: int) -> None:
        for group in groups:
            self.gpus[group] += sign * gpus
            self.servers[group] += sign
