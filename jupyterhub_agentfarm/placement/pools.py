"""Pools: what all members of a group together hold, beside what the policy lets them.

A pool limits the members together, where `group_max_…` limits each of them. An owner in several groups with a pool must
fit into each; which groups those are is what the lease's request says.
"""

from __future__ import annotations

from collections.abc import Iterable

from .leases import LeaseBook
from .policy import PlacementPolicy
from .pool_book import PoolBook
from .view import PoolUse


class Pools:
    """The pools of the farm.

    Parameters
    ----------
    book
        Who holds what.
    policy
        Its `group_pool_gpus`, `group_pool_servers` and `group_pool_gpu_hours` are read at every question.
    """

    def __init__(self, book: LeaseBook, policy: PlacementPolicy) -> None:
        self._book = book
        self._policy = policy
        self._counted()

    @property
    def groups(self) -> frozenset[str]:
        """The groups that have a pool of whatever kind."""
        policy = self._policy
        return frozenset().union(policy.group_pool_gpus, policy.group_pool_servers, policy.group_pool_gpu_hours)

    def of(self, groups: Iterable[str]) -> tuple[PoolUse, ...]:
        """Return those pools of GPUs and servers that a member of these groups must fit into, by name."""
        policy = self._policy
        if not (policy.group_pool_gpus or policy.group_pool_servers):
            return ()
        counted = self._counted()
        names = {*policy.group_pool_gpus, *policy.group_pool_servers}.intersection(groups)
        return tuple(self._use(name, counted) for name in sorted(names))

    def use(self, group: str) -> PoolUse:
        """Return what the members of a group that has a pool hold."""
        return self._use(group, self._counted())

    def gpu_seconds(self, group: str) -> float:
        """Return the GPU-seconds that the members of a group that has a pool used within the window."""
        return self._counted().usage.gpu_seconds(group, self._book.now())

    def hours_free_at(self, groups: Iterable[str], now: float) -> float | None:
        """Return when no pool of these groups is used up any more; now where none is; None: never."""
        limits = self._policy.group_pool_gpu_hours
        times = [now]
        for group in {*groups}.intersection(limits):
            at = self._counted().usage.frees_at(group, limits[group], now)
            if at is None:
                return None
            times.append(at)
        return max(times)

    def check_gpu_hours(self, groups: Iterable[str]) -> None:
        """Refuse a member of these groups when the hours of one are used up.

        Raises
        ------
        QuotaExceeded
            The limit is reached; it says what was used and when an hour is free again.
        """
        limits = self._policy.group_pool_gpu_hours
        for group in sorted({*groups}.intersection(limits)) if limits else ():
            self._counted().usage.check(group, limits[group], self._book.now(), f"group {group} together")

    def _use(self, group: str, counted: PoolBook) -> PoolUse:
        policy = self._policy
        return PoolUse(
            group,
            counted.gpus[group],
            policy.group_pool_gpus.get(group),
            counted.servers[group],
            policy.group_pool_servers.get(group),
        )

    def _counted(self) -> PoolBook:
        self._book.pools.watch(self.groups, self._book.alive)
        return self._book.pools
