"""Limits by systemd: a scope for each server.

``systemd-run --scope`` makes the scope, moves itself into it and executes what follows, so the process stays the
one that noded started. As root it asks the system's manager, otherwise the account's own.
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
    """

    name: Limiter = "systemd"

    def __init__(self, program: str) -> None:
        self._program = program
        # The account's own manager cannot load the BPF program that keeps devices away.
        self.devices = os.geteuid() == 0

    def place(self, launch: Launch) -> Placed:
        """Return the call of systemd-run that the server is started by."""
        values = _properties(launch.spec.limits)
        if self.devices and launch.minors_known and Path("/dev/nvidiactl").exists():
            values.append("DevicePolicy=closed")
            allowed = [*gpu_nodes(launch.minors), Path("/dev/fuse")]
            values += [f"DeviceAllow={node} rw" for node in allowed if not node.is_dir()]
            # "char-" names a driver of /proc/devices: MIG's access files, terminals, and the network of big clusters.
            values += [f"DeviceAllow=char-{name} rw" for name in ("nvidia-caps", "pts", "infiniband_verbs")]
        options = [word for value in values for word in ("--property", value)]
        return Placed(outer=(*_scope(self._program), f"--unit={scope_name(launch.spec.lease)}", *options, "--"))


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
