"""The leases of this Hub's servers as last heard of, and who is told when one changes.

::

    put, forget ──▶ the cache that `poll` reads
             ├────▶ starts that wait for their lease to change
             └────▶ `poll_and_notify` of a server that ended: its route is gone at once
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import NotFoundError
from ..models import Lease
from ..tasks import OwnedTasks

_ORDER = {"waiting": 0, "granted": 1, "running": 2, "stopping": 3, "released": 4}
_PENDING_INTERVAL_SECONDS = 0.2


def ended(lease: Lease) -> bool:
    """Whether the lease's server is gone, or never came."""
    return lease.state == "released" or (lease.server is not None and lease.server.exit is not None)


def exit_status(lease: Lease) -> int:
    """Return what a shell would say of the end of the lease's server: 1 when it is not known."""
    end = lease.server.exit if lease.server is not None else None
    if end is None:
        return 1
    if end.signal is not None:
        return 128 + end.signal
    return 1 if end.code is None else end.code


class LeaseCache:
    """What is known of the leases. A lease that has ended is kept for as long as somebody wants to know of it.

    Parameters
    ----------
    tasks
        Own the work of telling the Hub that servers ended.
    """

    def __init__(self, tasks: OwnedTasks) -> None:
        self._tasks = tasks
        self._leases: dict[str, Lease] = {}
        self._gone: set[str] = set()
        self._spawners: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}

    # ---- who wants to know ----

    def attach(self, lease_id: str, spawner: Any) -> None:
        """Tell `spawner` when the server of the lease ends."""
        self._spawners[lease_id] = spawner

    def detach(self, lease_id: str) -> None:
        """Forget who holds the lease, and the lease when it has ended."""
        self._spawners.pop(lease_id, None)
        self._gone.discard(lease_id)
        if (lease := self._leases.get(lease_id)) is not None and not lease.alive:
            del self._leases[lease_id]

    def wanted(self, lease_id: str) -> bool:
        """Whether a spawner holds the lease, or a start waits for it."""
        return lease_id in self._spawners or lease_id in self._waiters

    # ---- what is known ----

    def get(self, lease_id: str) -> Lease | None:
        """Return the lease as last heard of, or None when nothing was heard of it."""
        return self._leases.get(lease_id)

    def status(self, lease_id: str) -> int | None:
        """Return the exit status of the lease's server; None while it runs, and while that is not known."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return 1 if lease_id in self._gone else None
        return exit_status(lease) if ended(lease) else None

    async def until(self, lease_id: str, wanted: Callable[[Lease], bool]) -> Lease:
        """Return the lease when it is as `wanted`; the deadline is the caller's.

        Raises
        ------
        NotFoundError
            The controller knows no such lease.
        """
        while True:
            if lease_id in self._gone:
                raise NotFoundError("the controller lost the request: start the server again")
            lease = self._leases.get(lease_id)
            if lease is not None and wanted(lease):
                return lease
            change = asyncio.get_running_loop().create_future()
            waiters = self._waiters.setdefault(lease_id, set())
            waiters.add(change)
            try:
                await change
            finally:
                waiters.discard(change)
                if not waiters:
                    self._waiters.pop(lease_id, None)

    # ---- what is heard ----

    def remember(self, lease: Lease) -> None:
        """Take over a lease that a request was answered with, unless the events told of a later state already."""
        known = self._leases.get(lease.id)
        if known is None or (known.epoch, _ORDER[known.state]) <= (lease.epoch, _ORDER[lease.state]):
            self.put(lease)

    def take(self, leases: Iterable[Lease]) -> set[str]:
        """Replace what is known by a snapshot; return the leases that are wanted and not in it."""
        snapshot = {lease.id: lease for lease in leases}
        for lease_id in [*self._leases]:
            if lease_id not in snapshot and self._leases[lease_id].alive and lease_id not in self._spawners:
                del self._leases[lease_id]
        for lease in snapshot.values():
            self.put(lease)
        return {*self._spawners, *self._waiters} - snapshot.keys()

    def put(self, lease: Lease) -> None:
        """Take over a lease as the controller tells of it; one that has ended stays ended."""
        known = self._leases.get(lease.id)
        if known is not None and not known.alive and lease.alive:
            return
        if lease.alive or self.wanted(lease.id):
            self._leases[lease.id] = lease
        else:
            self._leases.pop(lease.id, None)
        self._changed(lease.id)

    def forget(self, lease_id: str) -> None:
        """Note that the controller knows no such lease."""
        self._leases.pop(lease_id, None)
        if self.wanted(lease_id):
            self._gone.add(lease_id)
        self._changed(lease_id)

    def _changed(self, lease_id: str) -> None:
        for waiter in self._waiters.get(lease_id, ()):
            if not waiter.done():
                waiter.set_result(None)
        spawner = self._spawners.get(lease_id)
        if spawner is not None and not spawner.starting and self.status(lease_id) is not None:
            self._tasks.start(_notify(spawner, lease_id), f"telling the Hub that lease {lease_id} ended")


async def _notify(spawner: Any, lease_id: str) -> None:
    """Have the Hub notice the end, unless it stops the server itself.

    While it still checks the server it has nobody to tell.
    """
    while True:
        if spawner.pending not in {"spawn", "check"}:
            break
        await asyncio.sleep(_PENDING_INTERVAL_SECONDS)
    if spawner.pending is None and spawner.lease_id == lease_id:
        await spawner.poll_and_notify()
