"""How servers are kept apart on a node: what an admin chooses, what is asked for, and what a node can enforce.

The layers are independent of each other: an account of the server's own, limits of its resources, and a sandbox. A
node that cannot give a layer that was chosen refuses the launch; it never starts a server with less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .errors import InvalidField

#: "bubblewrap": own home, /tmp, processes and devices. "container": the same by an image, with Docker or Podman.
Sandbox = Literal["none", "bubblewrap", "container"]
#: What enforces limits: systemd scopes, a cgroup made by hand, or only the limits of each process.
Limiter = Literal["systemd", "cgroup2", "cgroup1", "prlimit"]
Engine = Literal["docker", "podman"]


@dataclass(frozen=True)
class Isolation:
    """What an admin chose for the servers of a node."""

    #: Local account that a server runs as, "{username}" standing for its owner, as in "{username}" or "hub-{username}".
    #: None: noded's own account, for all servers of the node. Needs a noded that runs as root.
    account: str | None = None
    #: Make the account when the node does not have it.
    create_accounts: bool = False
    sandbox: Sandbox = "none"
    #: Image that servers start from; needed by, and only for, the sandbox "container". It must be on the node, and have
    #: a Python with jupyterhub-agentfarm[server], whose path in the image is the node's `server_python`.
    image: str | None = None
    #: What runs containers.
    engine: Engine = "docker"

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.account is not None and "{username}" not in self.account:
            raise InvalidField(
                "isolation.account", 'a template with "{username}", as in "hub-{username}"', self.account
            )
        if self.create_accounts and self.account is None:
            raise InvalidField("isolation.create_accounts", "an isolation.account beside it", self.create_accounts)
        if (self.sandbox == "container") != (self.image is not None):
            raise InvalidField("isolation.image", 'an image exactly when isolation.sandbox is "container"', self.image)


@dataclass(frozen=True)
class ResourceLimits:
    """Most that a server may use; None is no limit."""

    memory_bytes: int | None = None
    #: Cores; a fraction is a share of one.
    cpus: float | None = None
    #: Processes and threads.
    processes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what nothing can run in."""
        if self.memory_bytes is not None and self.memory_bytes < 2**20:
            raise InvalidField("limits.memory_bytes", "at least 1 MiB", self.memory_bytes)
        if self.cpus is not None and not self.cpus >= 0.01:
            raise InvalidField("limits.cpus", "at least 0.01 cores", self.cpus)
        if self.processes is not None and self.processes < 1:
            raise InvalidField("limits.processes", "at least 1", self.processes)

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return any(value is not None for value in (self.memory_bytes, self.cpus, self.processes))


@dataclass(frozen=True)
class Enforcement:
    """What is in force, or can be, on a node; noded finds it out when it starts."""

    #: What enforces limits here.
    limits: Limiter = "prlimit"
    #: Whether servers can run as accounts other than noded's own.
    switches_accounts: bool = False
    #: Whether the kernel keeps a server away from GPUs it has not leased, even without a sandbox.
    devices: bool = False
    sandboxes: tuple[Sandbox, ...] = ("none",)
    #: Why a stronger layer is not to be had, a sentence each.
    missing: tuple[str, ...] = field(default_factory=tuple)
