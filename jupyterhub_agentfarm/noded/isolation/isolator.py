"""The layers put together: what a launch is confined by, and what this node can give at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from jupyterhub_agentfarm.isolation import Enforcement, Sandbox
from jupyterhub_agentfarm.logs import LogLine
from jupyterhub_agentfarm.models import LaunchSpec

from .. import cgroups
from . import accounts, limits, projects
from .bubblewrap import Bubblewrap
from .container import Containers
from .devices import is_simulated
from .homes import home_of
from .layers import Account, Confined, Launch, Limiting, Links, Placed, Sandboxing, Workspaces, Wrapped
from .refusals import no_device, no_sandbox

log = logging.getLogger(__name__)

#: File mode bits taken from what a server makes that does not run as noded's own account, or is in a sandbox.
PRIVATE_UMASK = 0o077


def _no_minors(_: Iterable[str]) -> Mapping[str, int]:
    return {}


class Isolator:
    """Confines launches.

    It tries out what the node can give when it is made, which may take seconds: make it in a thread, or before the
    loop runs.

    Parameters
    ----------
    making
        Makes cgroups.
    sandboxes
        The kinds of sandbox beside none.
    minors
        Returns the numbers of the device nodes of GPUs, by UUID; those of simulated GPUs are not asked for.
    limiter
        What enforces limits; None: the strongest that works.
    """

    def __init__(
        self,
        making: cgroups.Cgroups,
        sandboxes: Mapping[Sandbox, Sandboxing] | None = None,
        minors: Callable[[Iterable[str]], Mapping[str, int]] = _no_minors,
        limiter: Limiting | None = None,
    ) -> None:
        self._minors = minors
        self._sandboxes = dict(sandboxes or {})
        self._limiter, why_no_stronger = (limiter, ()) if limiter else limits.choose(making)
        self._why_not = {name: sandbox.why_not() for name, sandbox in self._sandboxes.items()}
        self._why_no_stronger = why_no_stronger
        self._enforcement = self._found_out(why_no_stronger)
        log.info("Limits by %s; sandboxes: %s", self._limiter.name, ", ".join(self._enforcement.sandboxes))

    def _found_out(self, why_no_stronger: tuple[str, ...]) -> Enforcement:
        no_accounts = accounts.why_no_accounts()
        missing = [*why_no_stronger]
        if no_accounts is not None:
            missing.append(f"No accounts: {no_accounts}.")
        missing += [f"No {name}: {why}." for name, why in self._why_not.items() if why is not None]
        return Enforcement(
            limits=self._limiter.name,
            switches_accounts=no_accounts is None,
            devices=self._limiter.devices,
            sandboxes=("none", *(name for name, why in self._why_not.items() if why is None)),
            missing=tuple(missing),
        )

    def enforcement(self) -> Enforcement:
        """Return what can be in force on this node."""
        return self._enforcement

    def account_for(self, spec: LaunchSpec) -> Account:
        """Return the account that a server is to run as, a member of its projects' groups.

        It is :func:`.accounts.account_for`'s, and :func:`.projects.joined`'s.
        """
        return projects.joined(spec, accounts.account_for(spec))

    def confine(
        self, spec: LaunchSpec, account: Account, environment: Mapping[str, str], directory: Path, socket_fd: int | None
    ) -> Confined:
        """Return how the server is started. It makes cgroups, and may wait for a disk: call it in a thread.

        Parameters
        ----------
        spec
            What is launched.
        account
            What `account_for` returned.
        environment
            The server's whole environment.
        directory
            The server's private directory.
        socket_fd
            The listening socket that the server inherits.

        Raises
        ------
        LaunchFailed
            A layer that was chosen cannot be given.
        """
        minors = self._minors(spec.gpus)
        known = self._knows_devices(spec, minors)
        workspaces = projects.prepared(spec, account)
        umask = workspaces.umask if workspaces.umask is not None else _umask(spec, account)
        cwd = _cwd(spec, account)
        launch = Launch(spec, account, environment, directory, cwd, minors, known, socket_fd, workspaces, umask)
        wrapped = self._wrapped(launch)
        placed = Placed() if wrapped.limited else self._limiter.place(launch)
        return Confined(
            argv=wrapped.argv,
            environment=wrapped.environment,
            cwd=wrapped.cwd,
            account=account if wrapped.as_account and not account.own else None,
            placed=placed,
            umask=umask,
            socket_fd=socket_fd,
            links=_links(launch, workspaces),
            sandboxed=spec.isolation.sandbox != "none",
        )

    def _knows_devices(self, spec: LaunchSpec, minors: Mapping[str, int]) -> bool:
        """Return whether every leased GPU's device node is known; refuse where it must be."""
        unknown = [gpu for gpu in spec.gpus if gpu not in minors and not is_simulated(gpu)]
        if unknown and spec.isolation.sandbox == "bubblewrap":
            raise no_device(unknown[0])
        if unknown and self._limiter.devices:
            log.warning(LogLine("no GPU is kept away: NVML names no device node", lease=spec.lease, gpu=unknown[0]))
        return not unknown

    def _wrapped(self, launch: Launch) -> Wrapped:
        name = launch.spec.isolation.sandbox
        if name == "none":
            return Wrapped(launch.spec.command, launch.environment, launch.cwd)
        if name not in self._sandboxes:
            raise no_sandbox(name, "this noded does not know it; install a newer one")
        if self._why_not[name] is not None:  # asked again: an engine may have been started after noded
            self._why_not[name] = self._sandboxes[name].why_not()
            self._enforcement = self._found_out(self._why_no_stronger)
        if (why_not := self._why_not[name]) is not None:
            raise no_sandbox(name, why_not)
        return self._sandboxes[name].wrap(launch)

    def release(self, lease: str, folders: tuple[str, ...], sandbox: Sandbox = "none") -> None:
        """Undo what `confine` made for a server; called when nothing of it is left."""
        cgroups.remove(folders)
        if sandbox in self._sandboxes:
            self._sandboxes[sandbox].release(lease)

    def sweep(self, mark: str, leases: Collection[str]) -> None:
        """Have every kind of sandbox do :meth:`.layers.Sandboxing.sweep`; to be called before the first launch."""
        for name, sandbox in self._sandboxes.items():
            if self._why_not[name] is None:
                sandbox.sweep(mark, leases)


def _umask(spec: LaunchSpec, account: Account) -> int | None:
    return None if account.own and spec.isolation.sandbox == "none" else PRIVATE_UMASK


def _links(launch: Launch, workspaces: Workspaces) -> Links | None:
    if workspaces.root is None:
        return None
    names, account = tuple(folder.name for folder in workspaces.folders), launch.account
    if account.own and launch.spec.isolation.sandbox == "none":
        # All servers have one home, unless the site gave them others.
        return Links(Path(launch.environment.get("HOME", account.home)), workspaces.root, names, tidy=False)
    return Links(home_of(launch), workspaces.root, names, account.owner)


def _cwd(spec: LaunchSpec, account: Account) -> str:
    cwd = spec.cwd or "~"
    return account.home + cwd[1:] if cwd == "~" or cwd.startswith("~/") else cwd


def isolator_for(
    making: cgroups.Cgroups,
    hidden: tuple[Path, ...],
    binds: tuple[str, ...],
    minors: Callable[[Iterable[str]], Mapping[str, int]],
) -> Isolator:
    """Return the isolator of a noded.

    Parameters
    ----------
    making
        Makes cgroups.
    hidden
        Places beside homes that no sandbox shows.
    binds
        Paths that servers in a sandbox may write to.
    minors
        As for :class:`Isolator`.
    """
    return Isolator(making, {"bubblewrap": Bubblewrap(hidden, binds), "container": Containers()}, minors)
