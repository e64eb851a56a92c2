"""The records that the parts exchange. All are frozen; units are in the names.

Times are seconds since the epoch (UTC) in fields that end in ``_at`` or are called ``time``; durations are seconds.
A quantity that a device does not support is None, which in JSON is null: absent, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import InvalidField
from .isolation import Enforcement, Isolation, ResourceLimits, check_projects

NODED_OPTION = re.compile(r"--(?!state-dir=|simulated-gpus=)[A-Za-z][A-Za-z0-9_.-]*=.*", re.DOTALL)
HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_:][A-Za-z0-9_:%-]{0,62}(\.[A-Za-z0-9_:%-]{1,63}){0,126}\.?")
#: No GPU has more memory: a petabyte.
_MOST_BYTES = 2**50
#: No machine has more cores, and no owner more servers or GPUs.
_MOST_CPUS = 100_000
_MOST_HELD = 100_000
_MOST_GPU_HOURS = 1e9
#: Nodes that a request may name as those to avoid.
MOST_AVOIDED = 16
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: What Jupyter takes as the name of a kernelspec.
KERNEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")

Role = Literal["microserver", "gpuserver"]
NodeState = Literal["ready", "unreachable", "down"]
LeaseState = Literal["waiting", "granted", "running", "stopping", "released"]
ServerState = Literal["starting", "running", "exited"]
Restart = Literal["never", "on-node-failure"]
GpuHealth = Literal["ok", "absent", "hanging", "failed"]
ExitCause = Literal["exited", "signal", "oom", "stopped", "unknown"]
#: Why a server was not started warm: an admin chose so; it starts another program than the farm's server; a sandbox, or
#: a way to limit, that a process cannot be put into later; a variable that only an executed program heeds, or that was
#: read by what is imported before the fork; packages of the account's own; no zygote yet; its environment changed; the
#: environment cannot be kept warm; a warm start was tried and failed.
ColdReason = Literal[
    "off",
    "program",
    "sandbox",
    "limiter",
    "variables",
    "user_site",
    "no_zygote",
    "renewing",
    "unfit",
    "failed",
]
#: Why a lease ended. "withdrawn", "quota" and "not_started" had no server; "stopped" was asked for.
LeaseEnd = Literal[
    "stopped",
    "drained",
    "exited",
    "signal",
    "oom",
    "unknown",
    "node_down",
    "node_restarted",
    "withdrawn",
    "quota",
    "not_started",
]


def check_node_name(name: str, where: str = "name") -> str:
    """Return `name` when it can name a node: it becomes a label of metrics and a part of server names.

    Raises
    ------
    InvalidField
        It is not 1-63 lower-case letters, digits and inner hyphens.
    """
    if not NODE_NAME.fullmatch(name):
        raise InvalidField(where, "1-63 lower-case letters, digits and inner hyphens", name)
    return name


def check_host(host: str, where: str = "host") -> str:
    """Return `host` when a name of the DNS or an IP address can look like it; others cannot even be asked for.

    Raises
    ------
    InvalidField
        It is neither.
    """
    if not HOST_NAME.fullmatch(host):
        raise InvalidField(where, "a host name or an IP address", host)
    return host


def check_kernel_name(name: str, where: str = "kernel") -> str:
    """Return `name` when it can name a kernelspec.

    Raises
    ------
    InvalidField
        It cannot.
    """
    if not KERNEL_NAME.fullmatch(name):
        raise InvalidField(where, "the name of a kernelspec, as in python3: letters, digits, '.', '_' and '-'", name)
    return name


def check_avoided(names: tuple[str, ...]) -> None:
    """Refuse what cannot be nodes to avoid.

    Raises
    ------
    InvalidField
        There are too many, or one is no name of a node.
    """
    if len(names) > MOST_AVOIDED:
        raise InvalidField("avoid", f"at most {MOST_AVOIDED} names of nodes", f"{len(names)} names")
    for index, name in enumerate(names):
        check_node_name(name, f"avoid[{index}]")


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse more labels, or longer ones, than anybody needs.

    Raises
    ------
    InvalidField
        There are.
    """
    if len(labels) > 32 or any(len(text) > 100 for pair in labels.items() for text in pair):
        raise InvalidField("labels", "at most 32 labels of at most 100 characters", f"{len(labels)} labels")


# ---- what a node is, as declared ------------------------------------------------------------------------------


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


# ---- what a node reports --------------------------------------------------------------------------------------


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
class ServerExit:
    """How a server ended."""

    cause: ExitCause
    at: float
    #: Exit status, when it exited by itself.
    code: int | None = None
    #: Number of the signal that ended it.
    signal: int | None = None

    def sentence(self) -> str:
        """Say it to the server's user."""
        if self.cause == "oom":
            return "the server was killed because the node ran out of memory"
        if self.cause == "signal":
            return f"the server was killed by signal {self.signal}"
        if self.cause == "stopped":
            return "the server was stopped"
        if self.cause == "exited":
            return f"the server exited with status {self.code}"
        return "the server is gone; how it ended is not known"


@dataclass(frozen=True)
class ServerStatus:
    """A server as noded knows it. Its identity is (boot_id, pid, pid_start_ticks), or the cgroup."""

    lease: str
    epoch: int
    state: ServerState
    boot_id: str
    pid: int
    #: Field 22 of /proc/PID/stat: makes a reused pid visible.
    pid_start_ticks: int
    address: str
    port: int
    gpus: tuple[str, ...]
    started_at: float
    cgroup: str | None = None
    exit: ServerExit | None = None


@dataclass(frozen=True)
class LaunchSpec:
    """What noded needs to start a server. `environment` holds secrets: it is never logged or written down."""

    lease: str
    epoch: int
    #: Program and arguments. The controller puts the node's server_python where the spawner wrote "{python}".
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    gpus: tuple[str, ...]
    #: Address to listen on.
    address: str
    #: Path part of JUPYTERHUB_SERVICE_URL, as in "/user/ada/".
    base_url: str
    protocol: Literal["http", "https"] = "http"
    #: "inherit": noded listens and the server inherits the socket (its number is in AGENTFARM_SOCKET_FD).
    #: "port": the server binds the port itself, for programs that cannot inherit; retried on a taken port.
    socket: Literal["inherit", "port"] = "inherit"
    #: Working directory; None: the home of the account. "~" is expanded on the node.
    cwd: str | None = None
    port_range: tuple[int, ...] | None = None
    #: Hub user whose server it is.
    owner: str = ""
    isolation: Isolation = field(default_factory=Isolation)
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    #: Names and texts of private files, as keys are: written 0600 into the server's own directory on the node, whose
    #: path replaces "{server_dir}" in values of `environment`, and gone with the server.
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: Projects of the owner, whose workspaces the server has where `isolation.projects` says that there are any.
    projects: tuple[str, ...] = ()


# ---- what users ask for, and what they get --------------------------------------------------------------------


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


@dataclass(frozen=True)
class LaunchOrder:
    """What the spawner wants started under a lease; the controller adds what it knows of lease and node.

    `environment` holds secrets: it is never logged or written down. The other fields are as in `LaunchSpec`;
    "{python}" as the first word of `command` stands for the node's server_python.
    """

    command: tuple[str, ...]
    base_url: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    protocol: Literal["http", "https"] = "http"
    socket: Literal["inherit", "port"] = "inherit"
    cwd: str | None = None
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    projects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be started."""
        check_projects(self.projects)
        if not self.command or not self.command[0]:
            raise InvalidField("command", "a program and its arguments", list(self.command))
        if not self.base_url.startswith("/"):
            raise InvalidField("base_url", "a path that begins with a slash", self.base_url)


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
