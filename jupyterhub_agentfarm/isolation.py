"""How servers are kept apart on a node: what an admin chooses, what is asked for, and what a node can enforce.

The layers are independent of each other: an account of the server's own, limits of its resources, and a sandbox. A
node that cannot give a layer that was chosen refuses the launch; it never starts a server with less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from .errors import InvalidField

#: "bubblewrap": own home, /tmp, processes and devices. "container": the same by an image, with Docker or Podman.
Sandbox = Literal["none", "bubblewrap", "container"]
#: What enforces limits: systemd scopes, a cgroup made by hand, or only the limits of each process.
Limiter = Literal["systemd", "cgroup2", "cgroup1", "prlimit"]
Engine = Literal["docker", "podman"]


#: A project is a Hub group, and its name that of a directory: no path, no option, nothing hidden.
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Most projects whose workspaces one server has.
MAX_PROJECTS = 64


def is_project_name(name: str) -> bool:
    """Return whether a Hub group of this name can be a project."""
    return _PROJECT.fullmatch(name) is not None


def check_projects(names: Iterable[str], where: str = "projects") -> None:
    """Refuse names that can be no projects.

    Raises
    ------
    InvalidField
        One is not 1-64 letters, digits, dots, hyphens and underscores, or comes twice, or they are too many.
    """
    found = tuple(names)
    for name in found:
        if not is_project_name(name):
            raise InvalidField(where, "names of 1-64 letters, digits, hyphens, underscores and inner dots", name)
    if len(set(found)) != len(found) or len(found) > MAX_PROJECTS:
        raise InvalidField(where, f"at most {MAX_PROJECTS} different names", f"{len(found)} names")


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
    #: Directory on the node, as "/srv/projects", that has a directory for each project: a Hub group that the option
    #: `AgentFarmSpawner.projects` names. A server sees those of its owner's projects, at the same path and as
    #: ~/projects/NAME. It must be there: mount what the site shares it with. None: servers have no projects here.
    projects: str | None = None
    #: Unix group of a project, where servers run as accounts of their own; "{project}" stands for the project.
    #: `create_accounts` makes it when the node does not have it.
    project_group: str = "project-{project}"

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.account is not None and "{username}" not in self.account:
            raise InvalidField(
                "isolation.account", 'a template with "{username}", as in "hub-{username}"', self.account
            )
        if self.projects is not None and not _is_plain_path(self.projects):
            raise InvalidField("isolation.projects", 'an absolute path, as in "/srv/projects"', self.projects)
        if "{project}" not in self.project_group:
            raise InvalidField(
                "isolation.project_group", 'a template with "{project}", as in "project-{project}"', self.project_group
            )
        if self.create_accounts and self.account is None:
            raise InvalidField("isolation.create_accounts", "an isolation.account beside it", self.create_accounts)
        if (self.sandbox == "container") != (self.image is not None):
            raise InvalidField("isolation.image", 'an image exactly when isolation.sandbox is "container"', self.image)


def _is_plain_path(path: str) -> bool:
    found = PurePosixPath(path)
    return found.is_absolute() and len(found.parts) > 1 and ".." not in found.parts and not set(path) & set("\0:")


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
