"""What each owner, and each group that has a pool, uses now and used lately, beside what they may."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..models import OwnerLimits
from ..placement import LeaseBook, OwnerLimitBook, PlacementPolicy, Pools
from ..placement.owner_limits import NO_OWNER_LIMITS, smaller


@dataclass(frozen=True)
class OwnerUsage:
    """One owner's use of the farm; a limit that is None does not exist.

    Limits are the smaller ones of the site's and of the owner's own.
    """

    owner: str
    servers: int
    max_servers: int | None
    gpus: int
    max_gpus: int | None
    #: GPU-seconds within the window, those of running servers included.
    gpu_seconds: float
    max_gpu_seconds: float | None
    #: When the owner, who has used up the hours or whose group has, may start a server with a GPU again if nothing more
    #: is used until then; null: the owner may now, or never will.
    gpu_hours_free_at: float | None = None
    #: What an admin, or the service that registered an agent, allowed this owner; null: nothing of the kind.
    own_limits: OwnerLimits | None = None


@dataclass(frozen=True)
class PoolUsage:
    """What the members of a group use together; a limit that is None does not exist."""

    group: str
    servers: int
    max_servers: int | None
    gpus: int
    max_gpus: int | None
    #: GPU-seconds within the window, those of running servers included.
    gpu_seconds: float
    max_gpu_seconds: float | None


class UsageReport:
    """Adds up what the book knows, beside what the policy allows."""

    def __init__(self, book: LeaseBook, policy: PlacementPolicy, owners: OwnerLimitBook) -> None:
        self._book = book
        self._policy = policy
        self._owners = owners
        self._pools = Pools(book, policy)

    def of(self, owner: str, groups: tuple[str, ...] | None = None) -> OwnerUsage:
        """Return an owner's use.

        Parameters
        ----------
        groups
            Of the owner; None: those of the owner's latest server.
        """
        now, policy = self._book.now(), self._policy
        held = [lease for lease in self._book.of_owner(owner) if lease.state != "waiting"]
        groups = self._book.usage.groups(owner) if groups is None else groups
        own = self._owners.of(owner)
        hours = smaller(policy.max_gpu_hours(groups), own.gpu_hours)
        return OwnerUsage(
            owner=owner,
            servers=len(held),
            max_servers=smaller(policy.max_servers(groups), own.servers),
            gpus=sum(len(lease.gpus) for lease in held),
            max_gpus=smaller(policy.max_gpus(groups), own.gpus),
            gpu_seconds=self._book.usage.gpu_seconds(owner, now),
            max_gpu_seconds=None if hours is None else hours * 3600,
            gpu_hours_free_at=self._free_at(owner, hours, groups),
            own_limits=None if own == NO_OWNER_LIMITS else own,
        )

    def _free_at(self, owner: str, hours: float | None, groups: tuple[str, ...]) -> float | None:
        """Return when the owner may have a GPU again; None: now, or never."""
        now = self._book.now()
        own = now if hours is None else self._book.usage.frees_at(owner, hours, now)
        pool = self._pools.hours_free_at(groups, now)
        return None if own is None or pool is None or max(own, pool) <= now else max(own, pool)

    def of_all(self) -> list[OwnerUsage]:
        """Return the use of everybody who has something, used GPUs within the window or has own limits, by name."""
        known = {*self._owners.owners(), *self._book.usage.owners(self._book.now())}
        known.update(lease.owner for lease in self._book.alive())
        return [self.of(owner) for owner in sorted(known)]

    def pools_of(self, groups: Iterable[str]) -> list[PoolUsage]:
        """Return the use of those of these groups that have a pool, by name."""
        return [self._pool(group) for group in sorted(self._pools.groups.intersection(groups))]

    def all_pools(self) -> list[PoolUsage]:
        """Return the use of every group that has a pool, by name."""
        return self.pools_of(self._pools.groups)

    def _pool(self, group: str) -> PoolUsage:
        use, hours = self._pools.use(group), self._policy.group_pool_gpu_hours.get(group)
        return PoolUsage(
            group=group,
            servers=use.servers,
            max_servers=use.max_servers,
            gpus=use.gpus,
            max_gpus=use.max_gpus,
            gpu_seconds=self._pools.gpu_seconds(group),
            max_gpu_seconds=None if hours is None else hours * 3600,
        )
