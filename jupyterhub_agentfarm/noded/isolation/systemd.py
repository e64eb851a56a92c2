"""Limits by systemd: a scope for each server.

``systemd-run --scope`` makes the scope, moves itself into it and executes what follows, so the process stays the
one that noded started. A process that was forked is put into a scope by the same call of systemd's manager, made with
busctl. As root noded asks the system's manager, otherwise the account's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from jupyterhub_agentfarm.isolation import Limiter, ResourceLimits

from .devices import gpu_nodes
from .layers import Launch, Placed

#: What a trial may take, in seconds.
TRIAL_SECONDS = 5.0

_RUNNING = Path("/run/systemd/system")
_SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_START = ("--quiet", "call", *_SYSTEMD, "StartTransientUnit", "ssa(sv)a(sa(sv))")


def runs() -> bool:
    """Return whether systemd runs this machine."""
    return _RUNNING.is_dir()


def why_not(program: str | None = None, running: Path = _RUNNING) -> str | None:
    """Return why no scope can be made here; None when one was made just now."""
    if not running.is_dir():
        return "systemd does not run here"
    program = program or shutil.which("systemd-run")
    if program is None:
        return "systemd runs here, but systemd-run is not installed"
    try:
        done = subprocess.run(
            [*_scope(program), "--", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"systemd-run does not work: {exc}"
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
        return f"systemd-run does not work: {said[0]}"
    return None


def _scope(program: str) -> list[str]:
    manager = [] if os.geteuid() == 0 else ["--user"]
    return [program, *manager, "--scope", "--quiet", "--collect"]


def scope_name(lease: str) -> str:
    """Return the name of the scope, and so of the cgroup, of a server."""
    return f"agentfarm-{lease}.scope"


class BySystemd:
    """Starts every server in a scope of its own.

    Parameters
    ----------
    program
        Path of systemd-run.
    busctl
        Path of busctl; None: it is looked for.
    """

    name: Limiter = "systemd"

    def __init__(self, program: str, busctl: str | None = None) -> None:
        self._program, self._busctl = program, busctl or shutil.which("busctl")
        # The account's own manager cannot load the BPF program that keeps devices away.
        self.devices = os.geteuid() == 0

    def place(self, launch: Launch) -> Placed:
        """Return the call of systemd-run that the server is started by, and the one for a process that was forked."""
        devices = self._devices(launch)
        values = _properties(launch.spec.limits)
        if devices is not None:
            values += ["DevicePolicy=closed", *(f"DeviceAllow={device} rw" for device in devices)]
        options = [word for value in values for word in ("--property", value)]
        name = scope_name(launch.spec.lease)
        return Placed(
            outer=(*_scope(self._program), f"--unit={name}", *options, "--"),
            adopting=() if self._busctl is None else _adopting(self._busctl, name, launch.spec.limits, devices),
            scope=name,
        )

    def _devices(self, launch: Launch) -> list[str] | None:
        """Return the devices that the server may open; None: any."""
        if not (self.devices and launch.minors_known and Path("/dev/nvidiactl").exists()):
            return None
        allowed = [*gpu_nodes(launch.minors), Path("/dev/fuse")]
        # "char-" names a driver of /proc/devices: MIG's access files, terminals, and the network of big clusters.
        drivers = [f"char-{name}" for name in ("nvidia-caps", "pts", "infiniband_verbs")]
        return [*(str(node) for node in allowed if not node.is_dir()), *drivers]


def _adopting(busctl: str, name: str, limits: ResourceLimits, devices: list[str] | None) -> tuple[str, ...]:
    """Return the call by which systemd makes a scope around a process; the kinds of its properties are D-Bus's."""
    given = [("PIDs", "au", "1", "{pid}"), ("CollectMode", "s", "inactive-or-failed")]
    if limits.memory_bytes is not None:
        given += [("MemoryMax", "t", str(limits.memory_bytes)), ("MemorySwapMax", "t", "0")]
    if limits.cpus is not None:
        given.append(("CPUQuotaPerSecUSec", "t", str(max(1, round(limits.cpus * 100)) * 10_000)))
    if limits.processes is not None:
        given.append(("TasksMax", "t", str(limits.processes)))
    if devices is not None:
        allowed = [word for device in devices for word in (device, "rw")]
        given += [("DevicePolicy", "s", "closed"), ("DeviceAllow", "a(ss)", str(len(devices)), *allowed)]
    manager = [] if os.geteuid() == 0 else ["--user"]
    words = [word for each in given for word in each]
    return (busctl, *manager, *_START, name, "fail", str(len(given)), *words, "0")


def _properties(limits: ResourceLimits) -> list[str]:
    values = []
    if limits.memory_bytes is not None:
        values += [f"MemoryMax={limits.memory_bytes}", "MemorySwapMax=0"]
    if limits.cpus is not None:
        # Whole percents are the coarsest that every systemd takes.
        values.append(f"CPUQuota={max(1, round(limits.cpus * 100))}%")
    if limits.processes is not None:
        values.append(f"TasksMax={limits.processes}")
    return values
