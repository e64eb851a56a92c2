"""Servers: what is to be started, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import InvalidField
from ..isolation import Isolation, ResourceLimits, check_projects
from .names import ExitCause, ServerState


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
