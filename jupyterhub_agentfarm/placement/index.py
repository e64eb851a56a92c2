"""NodeIndex: the nodes, kept so that a decision looks only at those that can take the request.

Nodes that labels, kernels and GPUs cannot tell apart (the same labels and kernels, the same models and sizes, as many
of each free) form a :class:`Group`. Within a group every request finds the same GPUs, so what is left to compare is the
part of the score that the node has of its own, and the group keeps its nodes in that order. Both change only when a
node reports or a lease on it changes, and are worked out then, by the same pure functions that the full pipeline is
made of.

Nodes that can take nothing now (cordoned, silent, …) are in no group.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

from ..models import PlacementRequest
from .filters import Limits, disk, eligible, gpus, kernel, labels, telemetry
from .scores import ANYTHING, Weighing
from .view import NodeView

#: For filters that look at the node alone.
NO_LIMITS = Limits()
#: Answers that are kept for each state of a node's GPUs, and states that answers are kept for.
MAX_ANSWERS = 256
MAX_ANSWERED = 1024


class Group:
    """Nodes that labels, kernels and GPUs cannot tell apart."""

    __slots__ = ("_answers", "ranked")

    def __init__(self, answers: dict[Hashable, float | None]) -> None:
        #: Own part of the score times -1, name, entry: the best is first.
        self.ranked: list[tuple[float, str, Entry]] = []
        #: What `asked` came to, by what was asked of GPUs; groups with the same GPUs and other labels share it.
        self._answers = answers

    def open_to(self, request: PlacementRequest) -> bool:
        """Whether labels and kernels let the request in; groups whose first part of the key is equal say the same."""
        options, example = request.options, self.ranked[0][2].view
        if options.labels and labels(example, request, NO_LIMITS) is not None:
            return False
        return not options.kernel or kernel(example, request, NO_LIMITS) is None

    def asked(self, request: PlacementRequest, key: Hashable, weighing: Weighing) -> float | None:
        """Return the part of the score that the request gives these nodes; None: their GPUs refuse it.

        Parameters
        ----------
        request
            Any of those with this `key`.
        key
            See :func:`gpus_wanted`.
        weighing
            The scorers.
        """
        try:
            return self._answers[key]
        except KeyError:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            example = self.ranked[0][2].view
            refused = gpus(example, request, NO_LIMITS) is not None
            answer = self._answers[key] = None if refused else weighing.asked(example, request)
            return answer


def gpus_wanted(request: PlacementRequest) -> Hashable:
    """Return all of a request that the filter and the scorer of GPUs look at."""
    options = request.options
    return options.gpus, options.gpu_model, options.gpu_memory_bytes


class Snapshot:
    """The nodes of an index as they were at one moment, at no cost until one of them changes.

    Parameters
    ----------
    entries
        The index's nodes, which go on changing; the index says what a node was before it does.
    """

    __slots__ = ("__weakref__", "_before", "_entries")

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        #: What the nodes that changed since were; None: they were not there.
        self._before: dict[str, NodeView | None] = {}

    def note(self, name: str, before: Entry | None) -> None:
        """Keep what a node was, unless it changed earlier already."""
        self._before.setdefault(name, None if before is None else before.view)

    def views(self) -> Iterator[NodeView]:
        """Return every node as it was."""
        before = self._before
        for name, entry in self._entries.items():
            view = before.get(name) if name in before else entry.view
            if view is not None:
                yield view
        for name, view in before.items():
            if view is not None and name not in self._entries:
                yield view


@dataclass(slots=True)
class Entry:
    """A node in the index."""

    view: NodeView
    #: See `_facts`.
    facts: Hashable
    #: The part of the score that does not depend on the request.
    own: float = 0
    key: tuple[Hashable, Hashable] | None = None
    #: When its telemetry becomes too old, in seconds since the epoch.
    fresh_until: float = float("inf")


@dataclass
class NodeIndex:
    """Every node by name, and the groups of those that are open to requests."""

    weighing: Weighing
    #: For the filters that are not about a request.
    limits: Limits = NO_LIMITS
    #: Grows when something changed that a request may wait for, cores and memory excepted.
    version: int = 0
    #: Grows with every change.
    load_version: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    #: By what labels and kernels look at, and what GPUs do; see `_group_key`.
    groups: dict[tuple[Hashable, Hashable], Group] = field(default_factory=dict)
    _answers: dict[Hashable, dict[Hashable, float | None]] = field(default_factory=dict)
    _expiries: list[tuple[float, str]] = field(default_factory=list)
    _snapshots: WeakSet[Snapshot] = field(default_factory=WeakSet)

    def put(self, view: NodeView, fresh_until: float = float("inf")) -> None:
        """Add a node or replace what is known of it."""
        name = view.node.name
        entry = Entry(view, _facts(view, self.limits), fresh_until=fresh_until)
        before = self.entries.get(name)
        self._changes(name, before)
        if before is not None:
            self._ungroup(name, before)
        self.entries[name] = entry
        self.load_version += 1
        if before is None or before.facts != entry.facts:
            self.version += 1
        if view.fresh and fresh_until < float("inf"):
            heapq.heappush(self._expiries, (fresh_until, name))
        if eligible(view, ANYTHING, NO_LIMITS) is None and telemetry(view, ANYTHING, NO_LIMITS) is None:
            entry.own, entry.key = self.weighing.own(view), _group_key(view)
            insort(self._group(entry.key).ranked, (-entry.own, name, entry), key=_rank)

    def remove(self, name: str) -> None:
        """Forget a node."""
        entry = self.entries.get(name)
        if entry is not None:
            self._changes(name, entry)
            del self.entries[name]
            self._ungroup(name, entry)
            self.version += 1
            self.load_version += 1

    def expire(self, now: float) -> None:
        """Mark the nodes whose telemetry has become too old."""
        while self._expiries and self._expiries[0][0] < now:
            fresh_until, name = heapq.heappop(self._expiries)
            entry = self.entries.get(name)
            if entry is not None and entry.fresh_until == fresh_until and entry.view.fresh:
                self.put(replace(entry.view, fresh=False))

    def views(self) -> Iterator[NodeView]:
        """Return every node."""
        return (entry.view for entry in self.entries.values())

    def snapshot(self) -> Snapshot:
        """Return the nodes as they are now."""
        made = Snapshot(self.entries)
        self._snapshots.add(made)
        return made

    def _changes(self, name: str, before: Entry | None) -> None:
        for snapshot in self._snapshots:
            snapshot.note(name, before)

    def _group(self, key: tuple[Hashable, Hashable]) -> Group:
        group = self.groups.get(key)
        if group is None:
            if len(self._answers) >= MAX_ANSWERED and key[1] not in self._answers:
                self._answers.clear()
            group = self.groups[key] = Group(self._answers.setdefault(key[1], {}))
        return group

    def _ungroup(self, name: str, entry: Entry) -> None:
        if entry.key is None:
            return
        group = self.groups.get(entry.key)
        if group is not None:
            del group.ranked[bisect_left(group.ranked, (-entry.own, name), key=_rank)]
            if not group.ranked:
                del self.groups[entry.key]


def _rank(item: Any) -> tuple[float, str]:
    return item[0], item[1]


def _group_key(view: NodeView) -> tuple[Hashable, Hashable]:
    """Return what the filters of labels and kernels look at, and what the filter and the scorer of GPUs do."""
    report = view.node.telemetry
    free = {gpu.uuid for gpu in view.free_gpus}
    devices = sorted((gpu.name, gpu.memory_total_bytes or 0, gpu.uuid in free) for gpu in view.gpus)
    readable = report is not None and report.gpu_health not in ("hanging", "failed")
    return (frozenset(view.node.spec.labels.items()), view.kernels), (readable, tuple(devices))


def _facts(view: NodeView, limits: Limits) -> Hashable:
    """Return what may end a wait, but for idle cores and available memory: these change with every report."""
    node = view.node
    report = node.telemetry
    return (
        (repr(node.spec), node.state, node.cordon, node.drain, view.reconciled, view.fresh, view.promised.gpus),
        (view.kernels, node.kernels_error),
        report and (report.gpu_health, report.gpu_error),
        tuple((gpu.uuid, gpu.name, gpu.memory_total_bytes, gpu.foreign_pids) for gpu in view.gpus),
        disk(view, ANYTHING, limits),
    )
