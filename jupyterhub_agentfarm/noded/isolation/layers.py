"""The words that the layers of isolation exchange. See the package's docstring for their order."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from jupyterhub_agentfarm.isolation import Limiter
from jupyterhub_agentfarm.models import LaunchSpec


@dataclass(frozen=True)
class Account:
    """A local account."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    #: Group ids, the primary one among them.
    groups: tuple[int, ...] = ()
    #: It is noded's own: nothing is switched.
    own: bool = False

    @property
    def owner(self) -> tuple[int, int] | None:
        """User and group ids that its files are given to; None where noded's own are right already."""
        return None if self.own else (self.uid, self.gid)


@dataclass(frozen=True)
class Workspaces:
    """The directories of the projects of a server's owner."""

    #: Holds those of all projects; None: this node has none.
    root: Path | None = None
    folders: tuple[Path, ...] = ()
    #: File mode bits to take from what the server makes, for its projects' sake; None: whatever is right otherwise.
    umask: int | None = None


@dataclass(frozen=True)
class Links:
    """What is to lead from a server's home to its projects."""

    home: Path
    #: The directory that holds them all.
    root: Path
    names: tuple[str, ...]
    #: User and group ids that a new ~/projects is given to; None: those of who makes it.
    owner: tuple[int, int] | None = None
    #: Remove links to other projects; False where other owners have the same home.
    tidy: bool = True


@dataclass(frozen=True)
class Launch:
    """One launch, as the layers see it."""

    spec: LaunchSpec
    account: Account
    #: The server's whole environment. It holds secrets.
    environment: Mapping[str, str] = field(repr=False)
    #: The server's private directory.
    directory: Path
    #: Where the server is to be started, expanded.
    cwd: str
    #: The leased GPUs' numbers N of /dev/nvidiaN, by UUID; simulated GPUs have none.
    minors: Mapping[str, int] = field(default_factory=dict)
    #: `minors` has every leased GPU that exists; otherwise other GPUs cannot be told from them.
    minors_known: bool = True
    #: The listening socket that the server inherits, by the number that the environment names.
    socket_fd: int | None = None
    workspaces: Workspaces = field(default_factory=Workspaces)
    #: File mode bits taken from what the server makes; None: as noded's.
    umask: int | None = None


@dataclass(frozen=True)
class Wrapped:
    """What a sandbox makes of a launch."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    cwd: str
    #: `argv` is executed as the account; False: as noded, and it sees to the account itself.
    as_account: bool = True
    #: `argv` sees to the limits itself; no limiter is asked.
    limited: bool = False


@dataclass(frozen=True)
class Placed:
    """What a limiter makes of a launch."""

    #: Folders of cgroups that the process joins before it executes anything.
    cgroups: tuple[str, ...] = ()
    #: It is fine when they cannot be joined: they limit nothing.
    optional: bool = False
    #: Executed before everything else, as noded; ends with what separates options from a command.
    outer: tuple[str, ...] = ()
    #: In place of `outer`, for a process that runs already: executed as noded, "{pid}" standing for it; and the name of
    #: the cgroup that the process is in after it.
    adopting: tuple[str, ...] = ()
    scope: str | None = None
    #: (resource, value) pairs, soft and hard limit alike.
    rlimits: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Confined:
    """Everything that `entering.start` needs to start a server."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    cwd: str
    #: Account to take on; None: noded's own.
    account: Account | None = None
    placed: Placed = field(default_factory=Placed)
    #: File mode bits that are taken from what the server makes; None: as noded's.
    umask: int | None = None
    socket_fd: int | None = None
    #: To be made once the account is taken on; None: nothing leads anywhere.
    links: Links | None = None
    #: `argv` makes a sandbox first.
    sandboxed: bool = False


class Sandboxing(Protocol):
    """A kind of sandbox."""

    def why_not(self) -> str | None:
        """Return why this node has no such sandbox, as a sentence that says what to do; None when it has."""

    def wrap(self, launch: Launch) -> Wrapped:
        """Return what is executed in place of the launch's command.

        Raises
        ------
        LaunchFailed
            The launch asks for something that this sandbox cannot give.
        """

    def release(self, lease: str) -> None:
        """Undo what `wrap` or the sandbox left behind; called when nothing of the server is left."""

    def sweep(self, mark: str, leases: Collection[str]) -> None:
        """Remove what sandboxes left behind whose server does not live any more.

        Parameters
        ----------
        mark
            Names the noded; see :func:`..orphans.noded_mark`.
        leases
            Those whose servers live.
        """


class Limiting(Protocol):
    """A way to enforce limits."""

    #: Its word for `Enforcement.limits`.
    name: Limiter
    #: It can keep servers from GPUs that they have not leased.
    devices: bool

    def place(self, launch: Launch) -> Placed:
        """Make what limits the launch's process, before there is one.

        Raises
        ------
        LaunchFailed
            A limit cannot be enforced here.
        """
