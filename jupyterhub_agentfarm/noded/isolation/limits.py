"""Which way to enforce limits this node has: the strongest one that works, tried when noded starts."""

from __future__ import annotations

import shutil

from .. import cgroups
from . import cgroup1, cgroup2, systemd
from .layers import Limiting
from .prlimit import ByProcess

_NEEDED = {"memory", "pids", "cpu"}


def choose(making: cgroups.Cgroups) -> tuple[Limiting, tuple[str, ...]]:
    """Return the limiter, and why it is none of the stronger ones. It may wait for systemd: call it in a thread."""
    if not making.enabled:
        return ByProcess(making), ("Limits hold for single processes only, because noded's option cgroup is off.",)
    why = []
    no_systemd = systemd.why_not()
    program = shutil.which("systemd-run")
    if no_systemd is None and program is not None:
        return systemd.BySystemd(program), ()
    why.append(no_systemd or "systemd-run is not installed")
    found = cgroups.hierarchies()
    trees = cgroup1.usable(found)
    if "v2" in found and not set(trees) >= _NEEDED:
        try:
            base = cgroup2.base_for(found["v2"], systemd.runs())
            cgroup2.delegate(base)
        except cgroup2.Unusable as exc:
            why.append(str(exc))
        else:
            return cgroup2.ByCgroup2(base), _no_devices("version 2 cgroups keep devices away by systemd only")
    if {"memory", "pids"} <= set(trees):
        missing = () if "devices" in trees else _no_devices("noded may make no cgroup for devices")
        also = found.get("v2")
        return cgroup1.ByCgroup1(trees, also if also and cgroup1.may_make(also) else None), missing
    why.append("noded may make no cgroups of its own")
    reasons = "; ".join(dict.fromkeys(why))
    weaker = f"Limits hold for single processes only: {reasons}."
    return ByProcess(making), (weaker, *_no_devices("that takes cgroups of the system's manager or of root"))


def _no_devices(why: str) -> tuple[str, ...]:
    return (f"Without a sandbox the kernel does not keep servers from GPUs that they have not leased: {why}.",)
