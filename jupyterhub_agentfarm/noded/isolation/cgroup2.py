"""Limits by version 2 cgroups, made by hand below a folder that is delegated to noded.

A cgroup with controllers for its children may hold no processes itself, so noded moves into a leaf of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

from jupyterhub_agentfarm.isolation import Limiter

from .. import cgroups
from ..listening import failed
from .layers import Launch, Placed

_CONTROLLERS = ("cpu", "memory", "pids")
_PERIOD_MICROSECONDS = 100_000
#: noded's own leaf; the systemd unit makes it (DelegateSubgroup=).
OWN_LEAF = "agentfarm-noded"


class Unusable(Exception):
    """The folder cannot be used; the message is a sentence that says why."""


def base_for(own: Path, systemd_runs: bool) -> Path:
    """Return the folder that servers' cgroups can be made below, from noded's own.

    Raises
    ------
    Unusable
        systemd would not be able to start noded again in a folder whose children have controllers.
    """
    if own.name == OWN_LEAF:
        return own.parent
    if systemd_runs:
        raise Unusable(f"noded's unit has no line DelegateSubgroup={OWN_LEAF}, which takes systemd 254")
    return own


def delegate(base: Path) -> None:
    """Give the children of `base` the controllers.

    Raises
    ------
    Unusable
        It cannot be done.
    """
    try:
        there = set((base / "cgroup.controllers").read_text("ascii").split())
        missing = [name for name in _CONTROLLERS if name not in there]
        if missing:
            raise Unusable(f"the version 2 cgroup {base} has no controller {', '.join(missing)}")
        if not set(_CONTROLLERS) <= set((base / "cgroup.subtree_control").read_text("ascii").split()):
            _make_room(base)
            _enable(base)
        inner = base / cgroups.FOLDER
        inner.mkdir(exist_ok=True)
        _enable(inner)
    except OSError as exc:
        raise Unusable(f"the version 2 cgroup {base} is not delegated to noded: {exc.strerror}") from exc


def _make_room(base: Path) -> None:
    others = set((base / "cgroup.procs").read_text("ascii").split()) - {str(os.getpid())}
    if others:
        raise Unusable(f"the version 2 cgroup {base} has other processes beside noded: start noded in one of its own")
    leaf = base / OWN_LEAF
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text(str(os.getpid()), "ascii")


def _enable(folder: Path) -> None:
    (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in _CONTROLLERS), "ascii")


class ByCgroup2:
    """Makes a cgroup for each server.

    Parameters
    ----------
    base
        A folder that :func:`delegate` was called for.
    """

    name: Limiter = "cgroup2"
    #: The kernel asks a BPF program about devices, which systemd can load and noded cannot.
    devices = False

    def __init__(self, base: Path) -> None:
        self._base = base

    def place(self, launch: Launch) -> Placed:
        """Make the cgroup and set the limits.

        Raises
        ------
        LaunchFailed
            The kernel refuses a value.
        """
        limits, folder = launch.spec.limits, self._base / cgroups.FOLDER / launch.spec.lease
        # What an earlier server of the lease had must not hold for this one.
        cgroups.remove((str(folder),))
        values = {
            "memory.max": limits.memory_bytes,
            "memory.swap.max": None if limits.memory_bytes is None else 0,
            "pids.max": limits.processes,
            "cpu.max": None
            if limits.cpus is None
            else f"{int(limits.cpus * _PERIOD_MICROSECONDS)} {_PERIOD_MICROSECONDS}",
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, value in values.items():
                # A kernel without swap has no such file.
                if value is not None and (name != "memory.swap.max" or (folder / name).exists()):
                    (folder / name).write_text(str(value), "ascii")
        except OSError as exc:
            cgroups.remove((str(folder),))
            raise failed(f"the cgroup of the server cannot be set up: {exc}") from exc
        return Placed((str(folder),))
