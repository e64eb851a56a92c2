"""Filters say whether a node could take a request, now, later or never.

A filter is a pure function of a node and a request. It returns nothing when the node passes, or a :class:`Refusal`
with one of the names in :data:`REFUSALS`, a sentence for people, and whether the refusal may end by itself: a busy GPU
becomes free (later), a missing label does not appear (never). A node that fails several filters is refused for the
one that never ends, because that is the one to know about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ..models import PlacementRequest
from .view import NodeView, OwnerUse, PoolUse, free_gpus, has_memory, matches_model, matching_gpus

REFUSALS = (
    "node",
    "avoided",
    "not_eligible",
    "labels",
    "kernel",
    "gpus",
    "gpu_memory",
    "gpu_model",
    "cpu",
    "memory",
    "disk",
    "quota",
    "stale_telemetry",
    "foreign_process",
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node does not take a request."""

    #: One of :data:`REFUSALS`.
    name: str
    #: For people, without the node's name: "needs 2 GPUs, 1 is free".
    detail: str
    #: It may end without an admin changing the node.
    later: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """What filters need beyond node and request."""

    owner: OwnerUse = field(default_factory=OwnerUse)
    #: Bytes that must be available, for each of these filesystems that a node has.
    min_disk_bytes: int = 0
    mountpoints: tuple[str, ...] = ("/",)
    #: Of the owner's groups, those whose members together are limited.
    pools: tuple[PoolUse, ...] = ()


_KEPT = ", and what is free is kept for an earlier request"

Filter = Callable[[NodeView, PlacementRequest, Limits], Refusal | None]


def named_node(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse every node but the one asked for by name."""
    if request.options.node in (None, view.node.name):
        return None
    return Refusal("node", f"the node {request.options.node} was asked for", later=False)


def avoided(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse the nodes on which the same start failed a moment ago, and those that the owner would rather not have.

    Of the latter the request is cleared where no other node can take it now: see :meth:`.Placement.place`.
    """
    name = view.node.name
    if name in request.avoid:
        return Refusal("avoided", "could not start the server a moment ago", later=False)
    if name in request.options.avoid:
        return Refusal("avoided", "is to be avoided as long as another node can take it", later=True)
    return None


def eligible(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse a node that is not ready, is cordoned or draining, or whose servers are not known yet.

    A node that was drained for the owner takes what the owner asks of it by name.
    """
    node = view.node
    if not node.eligible and not (request.options.node == node.name and node.kept_for(request.owner)):
        mark = node.drain or node.cordon
        why = mark.reason if node.state == "ready" and mark is not None else ""
        return Refusal("not_eligible", f"is {node.status}" + (f": {why}" if why else ""), later=True)
    if not view.reconciled:
        return Refusal("not_eligible", "its servers are being checked", later=True)
    return None


def labels(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse a node that lacks one of the labels."""
    if not request.options.labels:
        return None
    have = view.node.spec.labels
    missing = [f"{key}={value}" for key, value in request.options.labels.items() if have.get(key) != value]
    return Refusal("labels", f"has no label {', '.join(sorted(missing))}", later=False) if missing else None


def kernel(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse a node whose servers do not have the kernel, or that has not told which they have."""
    wanted, have = request.options.kernel.lower(), view.kernels
    if not wanted or (have is not None and wanted in have):
        return None
    if have is None:
        why = f": {view.node.kernels_error}" if view.node.kernels_error else ""
        return Refusal("kernel", f"has not told its kernels yet{why}", later=True)
    listed = ", ".join(sorted(have)) or "none"
    return Refusal("kernel", f"has no kernel {wanted}, it has {listed}", later=False)


def telemetry(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse a node that has not reported for some time."""
    if view.node.telemetry is None:
        return Refusal("stale_telemetry", "has not reported yet", later=True)
    return None if view.fresh else Refusal("stale_telemetry", "has not reported lately", later=True)


def gpus(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse a node without enough GPUs of the wanted kind, or without enough free ones."""
    options, report = request.options, view.node.telemetry
    if not options.gpus or report is None:
        return None
    if report.gpu_health in ("hanging", "failed"):
        return Refusal("gpus", f"its GPUs cannot be read: {report.gpu_error or report.gpu_health}", later=True)
    kind = _wrong_kind(view, request)
    if kind is not None:
        return kind
    if len(free_gpus(view, options)) >= options.gpus:
        return None
    return _busy(view, request)


def _wrong_kind(view: NodeView, request: PlacementRequest) -> Refusal | None:
    """Compare with what the node has in total: this does not end by waiting."""
    options, all_gpus = request.options, view.gpus
    if len(all_gpus) < options.gpus:
        return Refusal("gpus", f"needs {_count(options.gpus)}, it has {len(all_gpus) or 'none'}", later=False)
    model = [gpu for gpu in all_gpus if matches_model(gpu, options)]
    if len(model) < options.gpus:
        names = ", ".join(sorted({gpu.name for gpu in all_gpus}))
        return Refusal("gpu_model", f"needs {_count(options.gpus)} {options.gpu_model!r}, it has {names}", later=False)
    if sum(has_memory(gpu, options) for gpu in model) < options.gpus:
        most = max(gpu.memory_total_bytes or 0 for gpu in model)
        wanted = f"needs {_count(options.gpus)} with {_gib(options.gpu_memory_bytes)}"
        return Refusal("gpu_memory", f"{wanted}, its largest has {_gib(most)}", later=False)
    return None


def _busy(view: NodeView, request: PlacementRequest) -> Refusal:
    """Say what the matching GPUs are busy with."""
    matching = matching_gpus(view, request.options)
    unleased = [gpu for gpu in matching if gpu.uuid not in view.promised.gpus]
    needs = f"needs {_count(request.options.gpus)}"
    if len(unleased) < request.options.gpus:
        return Refusal("gpus", f"{needs}, {_free(len(unleased))}", later=True)
    foreign = [gpu for gpu in unleased if gpu.foreign_pids]
    if len(unleased) - len(foreign) < request.options.gpus:
        pids = ", ".join(str(pid) for gpu in foreign for pid in gpu.foreign_pids[:3])
        return Refusal("foreign_process", f"{needs}, processes from outside the farm use one (pid {pids})", later=True)
    return Refusal("gpus", f"{needs}, what is free is kept for an earlier request", later=True)


def cpu(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse a node without the guaranteed cores: by what its leases were promised, and by what is idle."""
    report, wanted = view.node.telemetry, request.cpus
    if wanted <= 0 or report is None:
        return None
    free = view.free_cpus
    if wanted <= free and not view.held.cpu:
        return None
    kept = "what is free is kept for an earlier request" if wanted <= free else f"{free:.1f} are free"
    return Refusal("cpu", f"needs {wanted:g} of {report.cpus} cores, {kept}", later=wanted <= report.cpus)


def memory(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse a node without the guaranteed memory: by what its leases were promised, and by what is available."""
    report, wanted = view.node.telemetry, request.memory_bytes
    if wanted <= 0 or report is None:
        return None
    free = view.free_memory_bytes
    if wanted <= free and not view.held.memory:
        return None
    kept = "what is free is kept for an earlier request" if wanted <= free else f"{_gib(free)} are free"
    detail = f"needs {_gib(wanted)} of {_gib(report.memory_total_bytes)} memory, {kept}"
    return Refusal("memory", detail, later=wanted <= report.memory_total_bytes)


def disk(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse a node with a full disk: a server there could not even write its log."""
    report = view.node.telemetry
    for filesystem in report.filesystems if report is not None else ():
        if filesystem.mountpoint in limits.mountpoints and filesystem.avail_bytes < limits.min_disk_bytes:
            where = f"{_gib(filesystem.avail_bytes)} are free in {filesystem.mountpoint}"
            return Refusal("disk", f"needs {_gib(limits.min_disk_bytes)} of disk, {where}", later=True)
    return None


def quota(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Refuse every node when the owner, or a group of the owner's, would hold more than allowed."""
    own = over_owner(request, limits.owner)
    if not limits.pools:
        return own
    found = [own] if own is not None else []
    for pool in limits.pools:
        found += over_pool(request, pool)
    return min(found, key=lambda each: each.later, default=None)


def over_owner(request: PlacementRequest, use: OwnerUse) -> Refusal | None:
    """Refuse a request with which its owner would hold more than allowed."""
    wanted = request.options.gpus
    if use.max_gpus is not None and wanted and use.gpus + wanted > use.max_gpus:
        detail = f"{request.owner} may hold {_count(use.max_gpus)} and holds {use.gpus}"
        return Refusal("quota", detail, later=wanted <= use.max_gpus)
    if use.max_servers is not None and use.servers + 1 > use.max_servers:
        detail = f"{request.owner} may have {_servers(use.max_servers)} and has {use.servers}"
        return Refusal("quota", detail, later=use.max_servers > 0)
    return None


def over_pool(request: PlacementRequest, pool: PoolUse) -> Iterator[Refusal]:
    """Refuse a request with which the members of a group together would hold more than allowed, for each limit."""
    wanted = request.options.gpus
    if pool.max_gpus is not None and pool.lacks_gpus(wanted):
        detail = f"group {pool.group} may hold {_count(pool.max_gpus)} together and holds {pool.gpus}"
        kept = _KEPT if pool.gpus + wanted <= pool.max_gpus else ""
        yield Refusal("quota", detail + kept, later=wanted <= pool.max_gpus)
    if pool.max_servers is not None and pool.lacks_server:
        kept = _KEPT if pool.servers < pool.max_servers else ""
        detail = f"group {pool.group} may have {_servers(pool.max_servers)} together and has {pool.servers}"
        yield Refusal("quota", detail + kept, later=pool.max_servers > 0)


FILTERS: Mapping[str, Filter] = {
    "node": named_node,
    "avoided": avoided,
    "labels": labels,
    "kernel": kernel,
    "eligible": eligible,
    "telemetry": telemetry,
    "quota": quota,
    "gpus": gpus,
    "cpu": cpu,
    "memory": memory,
    "disk": disk,
}


def refusal(view: NodeView, request: PlacementRequest, limits: Limits) -> Refusal | None:
    """Return why the node does not take the request, or None when it does."""
    first: Refusal | None = None
    for each in FILTERS.values():
        found = each(view, request, limits)
        if found is not None:
            if not found.later:
                return found
            first = first or found
    return first


def _count(number: int) -> str:
    return f"{number} GPU" if number == 1 else f"{number} GPUs"


def _servers(number: int) -> str:
    return f"{number} server" if number == 1 else f"{number} servers"


def _free(number: int) -> str:
    return f"{number or 'none'} {'are' if number > 1 else 'is'} free"


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
