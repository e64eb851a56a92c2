"""Fairness: whose turn it is among those of one priority; the rule is in :mod:`.line`.

What an owner holds and has ahead is read from the leases at every question, so that it cannot be wrong. How often an
owner's first request was overtaken is counted here, since the controller's start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from ..models import Lease, PlacementRequest
from .leases import LeaseBook
from .line import Rank, arrival, ranks
from .policy import PlacementPolicy

#: What counts as held: a server that is being stopped is as good as gone.
HELD = ("granted", "running")


class Fairness:
    """The order of the line.

    Parameters
    ----------
    book
        Who holds and who waits.
    policy
        Its `fairness` and `max_overtaken` are read at every question.
    """

    def __init__(self, book: LeaseBook, policy: PlacementPolicy) -> None:
        self._book = book
        self._policy = policy
        self._overtaken: Counter[str] = Counter()
        #: Ids of those who wait for a quota, and the groups whose pool it is: only their members overtake them. For an
        #: owner's own quota there are none: nobody does.
        self._unable: dict[str, frozenset[str]] = {}

    def order(self) -> list[Lease]:
        """Return the leases that wait in the order in which they are served."""
        waiting = self._book.waiting()
        ranked = self.ranks(waiting)
        return sorted(waiting, key=lambda lease: ranked[lease.id])

    def ranks(self, waiting: Collection[Lease]) -> Mapping[str, Rank]:
        """Return the rank of each of these leases, by its id: the smallest is next."""
        if self._policy.fairness == "none":
            return {lease.id: arrival(lease) for lease in waiting}
        overdue = {name for name, count in self._overtaken.items() if count >= self._policy.max_overtaken}
        if not self._policy.max_overtaken:
            overdue = {lease.id for lease in waiting}
        return ranks(waiting, self._held(waiting), overdue)

    def ahead_of(self, request: PlacementRequest) -> set[str]:
        """Return the ids of those who are served before a request that arrives now."""
        waiting = self._book.waiting()
        ranked, priority = self.ranks(waiting), request.options.priority
        newcomer: Rank = (-priority, 1, 0, float("inf"), "")
        if self._policy.fairness == "owner":
            mine = [lease.request.options.priority for lease in waiting if lease.owner == request.owner]
            turn = self._holds(request.owner) + sum(each >= priority for each in mine)
            late = not self._policy.max_overtaken and priority not in mine
            newcomer = (-priority, 0 if late else 1, 0 if late else turn, float("inf"), "")
        return {name for name, rank in ranked.items() if rank < newcomer}

    def waits(self, lease_id: str, *, for_quota: bool, pools: frozenset[str] = frozenset()) -> None:
        """Note what somebody in the line waits for; `pools` are groups whose pool it is."""
        if for_quota or pools:
            self._unable[lease_id] = pools
        else:
            self._unable.pop(lease_id, None)

    def granted(self, lease: Lease) -> bool:
        """Note a grant; return whether somebody was overtaken for the last time by it, so that the order is another."""
        self.left(lease.id)
        limit = self._policy.max_overtaken
        if self._policy.fairness == "none" or not limit:
            return False
        waiting, reached = self._book.waiting(), False
        self._forget_others({each.id for each in waiting})
        for head in heads(waiting):
            pools = self._unable.get(head.id)
            if _overtakes(lease, head) if pools is None else _overtakes_in(pools, lease, head):
                self._overtaken[head.id] += 1
                reached = reached or self._overtaken[head.id] == limit
        return reached

    def left(self, lease_id: str) -> None:
        """Note that somebody left the line."""
        self._overtaken.pop(lease_id, None)
        self._unable.pop(lease_id, None)

    def _forget_others(self, waiting: set[str]) -> None:
        """Forget those who left the line without a word, as by a release."""
        for name in self._unable.keys() - waiting:
            del self._unable[name]
        for name in self._overtaken.keys() - waiting:
            del self._overtaken[name]

    def _held(self, waiting: Iterable[Lease]) -> dict[str, int]:
        return {owner: self._holds(owner) for owner in {lease.owner for lease in waiting}}

    def _holds(self, owner: str) -> int:
        return sum(lease.state in HELD for lease in self._book.of_owner(owner))


def heads(waiting: Iterable[Lease]) -> Iterable[Lease]:
    """Return each owner's first lease of each priority."""
    found: dict[tuple[str, int], Lease] = {}
    for lease in waiting:
        key = lease.owner, lease.request.options.priority
        if key not in found or arrival(lease) < arrival(found[key]):
            found[key] = lease
    return found.values()


def _overtakes(granted: Lease, head: Lease) -> bool:
    """Whether a lease was granted before one that came earlier, of that priority, and that asks for such things."""
    mine, theirs = granted.request, head.request
    if not _is_later(granted, head) or theirs.options.node not in (None, granted.node):
        return False
    pairs = (
        (mine.options.gpus, theirs.options.gpus),
        (mine.cpus, theirs.cpus),
        (mine.memory_bytes, theirs.memory_bytes),
    )
    return any(ours and others for ours, others in pairs)


def _overtakes_in(pools: frozenset[str], granted: Lease, head: Lease) -> bool:
    """Whether a lease was granted to a member of the same pool before one that came earlier and waits for the pool."""
    return bool(pools.intersection(granted.request.groups)) and _is_later(granted, head)


def _is_later(granted: Lease, head: Lease) -> bool:
    """Whether a lease is another owner's of that priority that came later."""
    if granted.owner == head.owner or granted.request.options.priority != head.request.options.priority:
        return False
    return (granted.created_at, granted.id) > (head.created_at, head.id)
