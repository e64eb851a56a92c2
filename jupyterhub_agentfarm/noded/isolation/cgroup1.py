"""Limits by version 1 cgroups, made by hand: each controller has a tree of its own, and any of them may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jupyterhub_agentfarm.isolation import Limiter

from .. import cgroups
from ..listening import failed
from .devices import NVIDIA_MAJOR, denied_minors
from .layers import Launch, Placed
from .refusals import no_limit

_PERIOD_MICROSECONDS = 100_000
_CONTROLLER = {"memory_bytes": "memory", "processes": "pids", "cpus": "cpu"}
#: The trees that are of use.
CONTROLLERS = ("pids", "memory", "cpu", "devices")


def usable(found: Mapping[str, Path]) -> dict[str, Path]:
    """Return, of noded's own folder in each tree, those below which it may make cgroups."""
    return {name: found[name] for name in CONTROLLERS if name in found and may_make(found[name])}


def may_make(base: Path) -> bool:
    """Return whether noded may make cgroups below `base`."""
    probe = base / cgroups.FOLDER / ".probe"
    try:
        probe.mkdir(parents=True, exist_ok=True)
        probe.rmdir()
    except OSError:
        return False
    return True


class ByCgroup1:
    """Makes a cgroup in each tree for each server.

    Parameters
    ----------
    bases
        noded's own folder in each tree that it may use.
    also
        A folder of the version 2 tree, by which a server's processes are found.
    """

    name: Limiter = "cgroup1"

    def __init__(self, bases: Mapping[str, Path], also: Path | None = None) -> None:
        self._bases, self._also = bases, also
        self.devices = "devices" in bases

    def place(self, launch: Launch) -> Placed:
        """Make the cgroups and set the limits.

        Raises
        ------
        LaunchFailed
            A controller is missing, or the kernel refuses a value.
        """
        limits = launch.spec.limits
        for field, controller in _CONTROLLER.items():
            if getattr(limits, field) is not None and controller not in self._bases:
                raise no_limit(field, f"noded may make no cgroup in the tree of the controller {controller}")
        lease = launch.spec.lease
        wanted = [base for name, base in self._bases.items() if name != "cpu" or limits.cpus is not None]
        folders = [base / cgroups.FOLDER / lease for base in [*wanted, *([self._also] if self._also else [])]]
        made = tuple(map(str, folders))
        # What an earlier server of the lease had must not hold for this one.
        cgroups.remove(made)
        try:
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            self._limit(launch)
        except OSError as exc:
            cgroups.remove(made)
            raise failed(f"the cgroup of the server cannot be set up: {exc}") from exc
        return Placed(made)

    def _limit(self, launch: Launch) -> None:
        limits, lease = launch.spec.limits, launch.spec.lease
        if limits.memory_bytes is not None:
            _limit_memory(self._bases["memory"] / cgroups.FOLDER / lease, limits.memory_bytes)
        if limits.processes is not None:
            _write(self._bases["pids"] / cgroups.FOLDER / lease, "pids.max", str(limits.processes))
        if limits.cpus is not None:
            folder = self._bases["cpu"] / cgroups.FOLDER / lease
            _write(folder, "cpu.cfs_period_us", str(_PERIOD_MICROSECONDS))
            _write(folder, "cpu.cfs_quota_us", str(int(limits.cpus * _PERIOD_MICROSECONDS)))
        if self.devices and launch.minors_known:
            folder = self._bases["devices"] / cgroups.FOLDER / lease
            # One by one: a rule for all minors is not softened by one that allows a single minor.
            for minor in denied_minors(launch.minors.values()):
                _write(folder, "devices.deny", f"c {NVIDIA_MAJOR}:{minor} rwm")


def _limit_memory(folder: Path, memory_bytes: int) -> None:
    _write(folder, "memory.limit_in_bytes", str(memory_bytes))
    if (folder / "memory.memsw.limit_in_bytes").exists():
        _write(folder, "memory.memsw.limit_in_bytes", str(memory_bytes))
    elif (folder / "memory.swappiness").exists():
        # What is over the limit would be swapped out, for ever, instead of refused.
        _write(folder, "memory.swappiness", "0")


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "ascii")
