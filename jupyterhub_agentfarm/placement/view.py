"""What a decision looks at: a node, what is leased there, and what is promised but not visible yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ..models import Gpu, Lease, Node, UserOptions


@dataclass(frozen=True, slots=True)
class Promised:
    """What the leases of a node came to."""

    #: GPUs under a lease.
    gpus: frozenset[str] = frozenset()
    #: Cores that are spoken for: what each lease was guaranteed, and one of each that was guaranteed less.
    spoken_cpus: float = 0
    #: Sum of what all leases were guaranteed.
    cpus: float = 0
    memory_bytes: int = 0
    #: Of these, what was granted so lately that telemetry does not show it yet.
    unseen_spoken_cpus: float = 0
    unseen_cpus: float = 0
    unseen_memory_bytes: int = 0


NOTHING_PROMISED = Promised()


@dataclass(frozen=True, slots=True)
class Held:
    """What of a node is kept for requests further ahead in the line."""

    gpus: frozenset[str] = frozenset()
    cpu: bool = False
    memory: bool = False


NOTHING_HELD = Held()


@dataclass(frozen=True)
class NodeView:
    """One node as a decision sees it. What is worked out from its fields is worked out once."""

    node: Node
    #: Its servers were compared with the leases since it became ready.
    reconciled: bool = True
    #: Its telemetry is young enough to decide by.
    fresh: bool = True
    promised: Promised = NOTHING_PROMISED
    held: Held = NOTHING_HELD

    @cached_property
    def kernels(self) -> frozenset[str] | None:
        """Names of the kernels that a server there has; None: not known."""
        known = self.node.kernels
        return None if known is None else frozenset(kernel.name for kernel in known)

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """The devices that can be leased: a GPU that is split into MIG devices is leased in these parts only."""
        telemetry = self.node.telemetry
        if telemetry is None or not telemetry.gpus:
            return ()
        parents = {gpu.parent_uuid for gpu in telemetry.gpus}
        return tuple(gpu for gpu in telemetry.gpus if gpu.uuid not in parents) if parents != {None} else telemetry.gpus

    @cached_property
    def free_gpus(self) -> tuple[Gpu, ...]:
        """Those that can be leased now, in the order they are picked.

        The smallest goes first, so that large ones stay for those who need them; then by UUID.
        """
        taken = self.promised.gpus | self.held.gpus
        free = [gpu for gpu in self.gpus if gpu.uuid not in taken and not gpu.foreign_pids]
        return tuple(sorted(free, key=lambda gpu: (gpu.memory_total_bytes or 0, gpu.uuid)))

    @cached_property
    def free_cpus(self) -> float:
        """Cores that can be guaranteed: by what leases were promised, and by what is idle."""
        report = self.node.telemetry
        if report is None:
            return 0.0
        idle = report.cpus * (1 - (report.cpu_utilization_ratio or 0)) - self.promised.unseen_cpus
        return max(0.0, min(report.cpus - self.promised.cpus, idle))

    @cached_property
    def free_memory_bytes(self) -> int:
        """Memory that can be guaranteed: by what leases were promised, and by what is available."""
        report = self.node.telemetry
        if report is None:
            return 0
        available = report.memory_available_bytes - self.promised.unseen_memory_bytes
        return max(0, min(report.memory_total_bytes - self.promised.memory_bytes, available))


@dataclass(frozen=True, slots=True)
class OwnerUse:
    """What the owner of a request holds already, and may hold; None: without limit."""

    gpus: int = 0
    max_gpus: int | None = None
    servers: int = 0
    max_servers: int | None = None


@dataclass(frozen=True, slots=True)
class PoolUse:
    """What all members of a group together hold already, and may hold; None: without limit."""

    group: str
    gpus: int = 0
    max_gpus: int | None = None
    servers: int = 0
    max_servers: int | None = None
    #: What of the rest is kept for requests further ahead in the line.
    kept_gpus: int = 0
    kept_servers: int = 0

    def lacks_gpus(self, wanted: int) -> bool:
        """Whether a request for so many GPUs has to wait for others of the group."""
        return bool(wanted) and self.max_gpus is not None and self.gpus + self.kept_gpus + wanted > self.max_gpus

    @property
    def lacks_server(self) -> bool:
        """Whether a request has to wait for others of the group, for the number of servers."""
        return self.max_servers is not None and self.servers + self.kept_servers + 1 > self.max_servers


def matches_model(gpu: Gpu, options: UserOptions) -> bool:
    """Whether the GPU is of the model asked for."""
    return not options.gpu_model or options.gpu_model.casefold() in gpu.name.casefold()


def has_memory(gpu: Gpu, options: UserOptions) -> bool:
    """Whether the GPU has the memory asked for; one that does not tell its memory has none to promise."""
    return (gpu.memory_total_bytes or 0) >= options.gpu_memory_bytes


def matching_gpus(view: NodeView, options: UserOptions) -> list[Gpu]:
    """Return the GPUs of the node that are what is asked for, leased or not."""
    return [gpu for gpu in view.gpus if matches_model(gpu, options) and has_memory(gpu, options)]


def free_gpus(view: NodeView, options: UserOptions) -> list[Gpu]:
    """Return the matching GPUs that can be leased now, in the order they are picked."""
    return [gpu for gpu in view.free_gpus if has_memory(gpu, options) and matches_model(gpu, options)]


def promised(leases: Iterable[Lease], seen_until: float) -> Promised:
    """Add up the leases of one node.

    Parameters
    ----------
    seen_until
        Leases granted after this time do not show in the node's telemetry yet.
    """
    held = [lease for lease in leases if lease.node is not None and lease.alive]
    unseen = [lease for lease in held if (lease.granted_at or 0) > seen_until]
    return Promised(
        gpus=frozenset(gpu for lease in held for gpu in lease.gpus),
        spoken_cpus=_spoken_cpus(held),
        cpus=sum(lease.request.cpus for lease in held),
        memory_bytes=sum(lease.request.memory_bytes for lease in held),
        unseen_spoken_cpus=_spoken_cpus(unseen),
        unseen_cpus=sum(lease.request.cpus for lease in unseen),
        unseen_memory_bytes=sum(lease.request.memory_bytes for lease in unseen),
    )


def _spoken_cpus(leases: Iterable[Lease]) -> float:
    return sum(max(1.0, lease.request.cpus) for lease in leases)
