"""Limits of each process, where there is nothing better.

Memory is RLIMIT_AS: address space, of each process by itself. CUDA reserves far more of it than it uses and cannot
start under such a limit. Processes is RLIMIT_NPROC, which counts all processes of an account, and never root's. There
is no such limit of cores.
"""

from __future__ import annotations

import resource

from jupyterhub_agentfarm.isolation import Limiter

from ..cgroups import Cgroups
from .layers import Launch, Placed
from .refusals import no_limit

NO_CGROUPS = "noded can make no cgroup with that controller (run it as root, or under systemd with Delegate=yes)"


class ByProcess:
    """Sets the limits of the server's process, which its children inherit.

    Parameters
    ----------
    cgroups
        Makes cgroups without limits, by which a server's processes are found.
    """

    name: Limiter = "prlimit"
    devices = False

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups

    def place(self, launch: Launch) -> Placed:
        """Return the limits.

        Raises
        ------
        LaunchFailed
            Cores are limited, or the processes of an account that others share.
        """
        limits, pairs = launch.spec.limits, []
        if limits.cpus is not None:
            raise no_limit("cpus", NO_CGROUPS)
        if limits.processes is not None:
            if launch.account.own:
                raise no_limit("processes", f"{NO_CGROUPS} and all servers share the account {launch.account.name}")
            pairs.append((resource.RLIMIT_NPROC, limits.processes))
        if limits.memory_bytes is not None:
            pairs.append((resource.RLIMIT_AS, limits.memory_bytes))
        return Placed(self._cgroups.make(launch.spec.lease), optional=True, rlimits=tuple(pairs))
