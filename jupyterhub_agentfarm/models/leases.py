"""Leases: what users ask for, what one owner may have, and what was decided and given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import InvalidField
from .names import LeaseEnd, LeaseState, Restart, check_avoided, check_kernel_name, check_labels, check_node_name
from .servers import ServerStatus

#: No GPU has more memory: a petabyte.
_MOST_BYTES = 2**50
#: No machine has more cores, and no owner more servers or GPUs.
_MOST_CPUS = 100_000
_MOST_HELD = 100_000
_MOST_GPU_HOURS = 1e9


@dataclass(frozen=True)
class UserOptions:
    """What a user may ask for: the form's and the REST API's `user_options`, validated once."""

    #: Name of the one node wanted.
    node: str | None = None
    #: Labels that the node must have, all of them.
    labels: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    #: Least memory of each GPU.
    gpu_memory_bytes: int = 0
    #: A part of the GPU's name, compared without case, as in "a100"; "" takes any.
    gpu_model: str = ""
    #: Higher goes first in the line.
    priority: int = 0
    restart: Restart = "never"
    #: Name of a kernelspec that the node must have, as in "ir"; "" is any.
    kernel: str = ""
    #: Cores and memory that must be free on the node; the larger of these and of what the site guarantees counts.
    cpus: float = 0
    memory_bytes: int = 0
    #: Names of nodes that are chosen only when no other one can take it now.
    avoid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no farm can give."""
        if self.node is not None:
            check_node_name(self.node, "node")
        if not 0 <= self.gpus <= 16:
            raise InvalidField("gpus", "a whole number from 0 to 16", self.gpus)
        if not 0 <= self.gpu_memory_bytes <= _MOST_BYTES:
            raise InvalidField("gpu_memory_bytes", f"a number of bytes from 0 to {_MOST_BYTES}", self.gpu_memory_bytes)
        if not -100 <= self.priority <= 100:
            raise InvalidField("priority", "a whole number from -100 to 100", self.priority)
        if len(self.gpu_model) > 100:
            raise InvalidField("gpu_model", "at most 100 characters", self.gpu_model)
        check_labels(self.labels)
        if self.kernel:
            check_kernel_name(self.kernel)
        if not 0 <= self.cpus <= _MOST_CPUS:
            raise InvalidField("cpus", f"a number of cores from 0 to {_MOST_CPUS}", self.cpus)
        if not 0 <= self.memory_bytes <= _MOST_BYTES:
            raise InvalidField("memory_bytes", f"a number of bytes from 0 to {_MOST_BYTES}", self.memory_bytes)
        check_avoided(self.avoid)


@dataclass(frozen=True)
class OwnerLimits:
    """What one owner may have, beside what the site allows everybody: the smaller of both counts.

    None and nothing named: without limit of the owner's own.
    """

    #: Servers at a time; 0: none.
    servers: int | None = None
    #: GPUs at a time.
    gpus: int | None = None
    #: GPU-hours within `PlacementPolicy.gpu_hours_window`.
    gpu_hours: float | None = None
    #: Labels that every node of the owner's servers must have, as if each request named them.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Kernels that requests may name; none named here: any.
    kernels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        for name in ("servers", "gpus"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _MOST_HELD:
                raise InvalidField(name, f"a whole number from 0 to {_MOST_HELD}, or null", value)
        if self.gpu_hours is not None and not 0 <= self.gpu_hours <= _MOST_GPU_HOURS:
            raise InvalidField("gpu_hours", f"a number of hours from 0 to {_MOST_GPU_HOURS:g}, or null", self.gpu_hours)
        check_labels(self.labels)
        if len(self.kernels) > 100:
            raise InvalidField("kernels", "at most 100 names of kernelspecs", f"{len(self.kernels)} names")
        for index, name in enumerate(self.kernels):
            check_kernel_name(name, f"kernels[{index}]")


@dataclass(frozen=True)
class PlacementRequest:
    """What the spawner asks the controller for."""

    #: Hub user whose server it is.
    owner: str
    #: Name of the server; "" is the default one.
    server_name: str
    options: UserOptions = field(default_factory=UserOptions)
    #: Cores and memory that must be free on the node: the larger of the options' and of Spawner.cpu_guarantee and
    #: mem_guarantee.
    cpus: float = 0
    memory_bytes: int = 0
    #: Groups of the owner, for quotas.
    groups: tuple[str, ...] = ()
    #: Nodes not to choose: the server could not be started there.
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One node's part in a decision: its score, or why it was refused."""

    node: str
    #: One of `placement.filters.REFUSALS`, or None when the node could take the request.
    refusal: str | None = None
    #: The refusal for people: "needs 2 GPUs, 1 is free".
    detail: str = ""
    #: The node could take it when something it lacks now becomes free.
    later: bool = False
    #: Weighted sum of `scores`, 0-1.
    score: float | None = None
    #: Each scorer's part, 0-1.
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """Why a request went where it went; kept with the lease."""

    decided_at: float
    chosen: str | None
    #: The best ones and some of the refused ones; at most 200.
    candidates: tuple[Candidate, ...] = ()
    #: Nodes that were looked at, also those that are not in `candidates`.
    considered: int = 0
    #: For each refusal, how many nodes were refused with it.
    refusals: Mapping[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """Say the choice to the user."""
        if self.chosen is None:
            return "no node can take it now"
        best = next(c for c in self.candidates if c.node == self.chosen)
        parts = ", ".join(f"{name} {value:.2f}" for name, value in sorted(best.scores.items()))
        fit = max(self.considered, len(self.candidates)) - sum(self.refusals.values())
        of = f"best of {fit} nodes that fit" if fit > 1 else "the only node that fits"
        return f"{self.chosen} scored {best.score:.2f} ({parts}), {of}"


@dataclass(frozen=True)
class Lease:
    """A request and, once granted, the exclusive hold of its GPUs."""

    #: Random, 32 hex digits.
    id: str
    owner: str
    server_name: str
    state: LeaseState
    #: Grows with every grant in the farm: what a node compares to fence an older holder.
    epoch: int
    request: PlacementRequest
    created_at: float
    #: None while waiting.
    node: str | None = None
    gpus: tuple[str, ...] = ()
    #: 1 is next; None unless waiting.
    position: int | None = None
    #: Why it waits, or why it ended.
    detail: str = ""
    granted_at: float | None = None
    released_at: float | None = None
    why: Explanation | None = None
    #: Where the server is to be reached, as in "http://10.0.0.11:41001"; None before it was launched.
    url: str | None = None
    server: ServerStatus | None = None
    #: Why it ended, or is being stopped; `detail` says it to people.
    end: LeaseEnd | None = None

    @property
    def alive(self) -> bool:
        """Whether it holds, or waits for, something."""
        return self.state != "released"
