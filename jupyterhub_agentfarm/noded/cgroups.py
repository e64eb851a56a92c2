"""A cgroup for each server, where this account may make one.

Version 2 (a delegated tree, as systemd's ``Delegate=yes`` gives) or the version 1 hierarchies ``pids`` and
``memory``. No controllers are enabled here: the cgroup says which processes belong to a server, even those that hide
in sessions of their own with an empty environment. `isolation.limits` chooses what sets limits.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

#: What the servers' cgroups are in, below noded's own.
FOLDER = "agentfarm"


def hierarchies(pid: str = "self") -> dict[str, Path]:
    """Return a process's folder in each mounted hierarchy, by "v2", "pids", "memory", "cpu" and "devices"."""
    own = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(",") if controllers else ["v2"]:
            own[name] = path
    found = {}
    for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        left, _, right = line.partition(" - ")
        root, mountpoint = left.split()[3:5]
        kind, _, options = right.split(" ", 2)
        names: list[str] = []
        if kind == "cgroup2":
            names = ["v2"]
        elif kind == "cgroup":
            names = [name for name in ("pids", "memory", "cpu", "devices") if name in options.split(",")]
        for name in names:
            if name in own:
                found[name] = _within(Path(mountpoint), root, own[name])
    return found


def _within(mountpoint: Path, root: str, path: str) -> Path:
    inner = path[len(root) :] if root != "/" and path.startswith(root) else path
    return mountpoint / inner.strip("/")


class Cgroups:
    """Makes the cgroups of servers.

    Parameters
    ----------
    enabled
        False makes none, ever.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        own = hierarchies() if enabled else {}
        tracker = own.get("v2") or own.get("pids")
        self._bases = [base for base in (tracker, own.get("memory")) if base is not None]

    def make(self, lease: str) -> tuple[str, ...]:
        """Make cgroups for a server that is about to be started; return their paths, none where this may not be."""
        made = []
        for base in self._bases:
            folder = base / FOLDER / lease
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # A folder of somebody else may allow to be made in, and not to be joined.
                os.close(os.open(folder / "cgroup.procs", os.O_WRONLY))
            except OSError as exc:
                log.debug("No cgroup %s: %s", folder, exc)
                remove((str(folder),))
            else:
                made.append(str(folder))
        return tuple(made)


def pids_in(paths: tuple[str, ...]) -> set[int]:
    """Return the processes in the cgroups and the cgroups below them."""
    pids: set[int] = set()
    for path in paths:
        for folder, _, files in os.walk(path):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    pids.update(map(int, (Path(folder) / "cgroup.procs").read_text("ascii").split()))
    return pids


def remove(paths: tuple[str, ...]) -> None:
    """Remove the cgroups, those below them first; one that is not empty stays."""
    for path in paths:
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def cgroups_of(pid: int, name: str) -> tuple[str, ...]:
    """Return the cgroups called `name` that a process is in: a scope that systemd made for it."""
    try:
        found = hierarchies(str(pid))
    except OSError:
        return ()
    return tuple(str(found[tree]) for tree in ("v2", "pids", "memory") if tree in found and found[tree].name == name)


def oom_kills(paths: tuple[str, ...]) -> int:
    """Return how many processes the kernel killed for lack of memory.

    Counted in the narrowest place that counts: the server's own cgroup, one above it, or else the whole node.
    """
    for path in paths:
        for folder in (Path(path), *Path(path).parents):
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    return _counter((folder / name).read_text("ascii"))
    with contextlib.suppress(OSError):
        return _counter(Path("/proc/vmstat").read_text("ascii"))
    return 0


def _counter(text: str) -> int:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)
