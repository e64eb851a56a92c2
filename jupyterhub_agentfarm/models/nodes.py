"""Nodes: as an admin declares them, as they report themselves, and as the controller knows them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InvalidField
from ..isolation import Enforcement, Isolation
from .names import GpuHealth, NodeState, Role, check_host, check_node_name

#: Options of noded that a node may be given: those that are fields of a node are not among them.
NODED_OPTION = re.compile(r"--(?!state-dir=|simulated-gpus=)[A-Za-z][A-Za-z0-9_.-]*=.*", re.DOTALL)


@dataclass(frozen=True)
class NodeSpec:
    """A node as an admin declares it, in `c.Inventory.nodes` or with `agentfarm nodes add`."""

    #: Name in every list, label and metric.
    name: str
    #: Address that SSH connects to.
    host: str
    #: Port of the node's sshd.
    port: int = 22
    #: Account on the node that noded and the servers run as; None: the account of the controller.
    user: str | None = None
    role: Role = "microserver"
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Address that servers listen on and the Hub's proxy reaches. None: the address that the SSH connection goes to;
    #: `host` where that is not known.
    address: str | None = None
    #: The node's pinned public host key, as in known_hosts without the host: "ssh-ed25519 AAAA…".
    #: None: it is looked up in `SSHPool.known_hosts`.
    host_key: str | None = None
    #: Private key to log in with, a path on the controller's machine; None: `SSHPool.client_keys`.
    ssh_keyfile: str | None = None
    #: Python on the node that has jupyterhub-agentfarm[noded]; noded is started with it.
    python: str = "python3"
    #: Python on the node that servers start from (jupyterhub-agentfarm[server]); None: same as `python`.
    server_python: str | None = None
    #: noded's state directory on the node; None: $XDG_STATE_HOME/agentfarm or ~/.local/state/agentfarm.
    state_dir: str | None = None
    #: Simulated GPUs that noded declares, for demos and tests; they are marked in every listing.
    simulated_gpus: int = 0
    #: First and last port servers may listen on; None: any free port.
    port_range: tuple[int, ...] | None = None
    #: Further options for noded, as in ("--telemetry-interval=5", "--NodedApp.mountpoints=/data"). A noded that runs
    #: already keeps its own until `agentfarm nodes restart-noded`.
    noded_args: tuple[str, ...] = ()
    #: How its servers are kept apart; None: `Inventory.isolation`.
    isolation: Isolation | None = None

    def __post_init__(self) -> None:
        """Refuse what no node can be."""
        check_node_name(self.name)
        check_host(self.host)
        if self.address is not None:
            check_host(self.address, "address")
        if not 0 < self.port < 65536:
            raise InvalidField("port", "a TCP port, 1-65535", self.port)
        if not 0 <= self.simulated_gpus <= 16:
            raise InvalidField("simulated_gpus", "a whole number from 0 to 16", self.simulated_gpus)
        if self.port_range is not None and (
            len(self.port_range) != 2 or not 0 < self.port_range[0] <= self.port_range[1] < 65536
        ):
            raise InvalidField("port_range", "the first and the last port, as in [40000, 40999]", self.port_range)
        if not all(NODED_OPTION.fullmatch(argument) for argument in self.noded_args):
            wanted = 'options of noded as in ["--telemetry-interval=5"], without those that are fields of a node'
            raise InvalidField("noded_args", wanted, self.noded_args)


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG device, as NVML reports it."""

    #: NVML's UUID, "GPU-…" or "MIG-…"; what leases and CUDA_VISIBLE_DEVICES name.
    uuid: str
    name: str
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    #: Share of the last sample period in which a kernel ran, 0-1.
    utilization_ratio: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    temperature_celsius: float | None = None
    #: Process ids that have a context on the device.
    pids: tuple[int, ...] = ()
    #: Of `pids`, those that do not belong to the server that holds the device: somebody works past the farm.
    foreign_pids: tuple[int, ...] = ()
    #: UUID of the GPU that a MIG device is a part of.
    parent_uuid: str | None = None
    #: Declared by `simulated_gpus`: there is no such device.
    simulated: bool = False


@dataclass(frozen=True)
class Filesystem:
    """One mounted filesystem."""

    mountpoint: str
    size_bytes: int
    avail_bytes: int


@dataclass(frozen=True)
class WarmStarts:
    """Whether servers of a node start warm: forked from a process that has imported what they need."""

    #: "off", "cold" (nothing is warm yet, or can be), "warming", or "warm".
    state: Literal["off", "cold", "warming", "warm"] = "off"
    #: Why it is not "warm", a sentence; "" where it is.
    why: str = ""
    #: Servers that were started warm since noded began.
    warm: int = 0
    #: Servers that were started cold since then, by reason.
    cold: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Telemetry:
    """One report of a node."""

    #: The node's own clock when the sample was taken.
    time: float
    cpus: int
    #: Share of all cores that was busy since the previous sample, 0-1; None in the first sample.
    cpu_utilization_ratio: float | None
    load1: float
    load5: float
    load15: float
    memory_total_bytes: int
    memory_available_bytes: int
    boot_at: float
    uptime_seconds: float
    filesystems: tuple[Filesystem, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_health: GpuHealth = "absent"
    #: Why `gpu_health` is "hanging" or "failed".
    gpu_error: str | None = None
    #: None: a noded that does not tell.
    warm_starts: WarmStarts | None = None


@dataclass(frozen=True)
class NodeFacts:
    """What does not change while a node is up; noded's answer to ``hello``."""

    protocol: int
    #: Version of jupyterhub-agentfarm on the node.
    version: str
    hostname: str
    #: /proc/sys/kernel/random/boot_id: another one means that the node was restarted.
    boot_id: str
    os: str
    arch: str
    python: str
    #: The node's clock.
    time: float
    #: Process id of noded.
    pid: int
    driver_version: str | None = None
    #: What can keep servers apart and within limits here.
    enforcement: Enforcement = field(default_factory=Enforcement)


@dataclass(frozen=True)
class Kernel:
    """A kernelspec of what a node's servers start from."""

    #: What requests and notebooks call it, as in "ir".
    name: str
    #: As in "R".
    language: str = ""
    #: What JupyterLab calls it.
    display_name: str = ""


@dataclass(frozen=True)
class Mark:
    """A cordon or a drain: who, when, why."""

    reason: str
    at: float
    by: str
    #: When a drain stops what is still there; None: it waits for the servers to end.
    deadline_at: float | None = None
    #: Owner whose servers a drained node is kept for, where they ask for it by name; "": nobody's.
    kept_for: str = ""


@dataclass(frozen=True)
class Node:
    """A node as the controller knows it."""

    spec: NodeSpec
    state: NodeState
    #: Why it is in that state.
    detail: str
    since_at: float
    #: "config": from `c.Inventory.nodes`; "added": at run time.
    origin: Literal["config", "added"] = "config"
    cordon: Mark | None = None
    drain: Mark | None = None
    facts: NodeFacts | None = None
    telemetry: Telemetry | None = None
    #: The controller's clock when the last report arrived.
    reported_at: float | None = None
    #: Controller's clock minus the node's.
    clock_skew_seconds: float | None = None
    #: The newest error's fixed reason while the node is not ready, as in "host_key"; "" is none.
    reason: str = ""
    #: Kernels that its servers have, by name; None: the node has not told yet.
    kernels: tuple[Kernel, ...] | None = None
    #: Why the node could not tell its kernels when it was asked last; "": it could.
    kernels_error: str = ""

    @property
    def name(self) -> str:
        """The node's name."""
        return self.spec.name

    @property
    def eligible(self) -> bool:
        """Whether new servers may be placed here: ready, not cordoned, not draining."""
        return self.state == "ready" and self.cordon is None and self.drain is None

    def kept_for(self, owner: str) -> bool:
        """Whether the node is ready and was drained for this owner's servers, and no admin cordoned it."""
        kept = "" if self.drain is None else self.drain.kept_for
        return self.state == "ready" and self.cordon is None and kept == owner != ""

    @property
    def status(self) -> str:
        """One word for lists: the state, or what an admin did to a ready node."""
        if self.state != "ready":
            return self.state
        if self.drain is not None:
            return "draining"
        return "cordoned" if self.cordon is not None else "ready"
