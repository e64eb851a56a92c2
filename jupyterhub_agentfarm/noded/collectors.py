"""What the node itself reports: processors, memory, filesystems. One small class for each."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import psutil

from jupyterhub_agentfarm.models import Filesystem

from .slowcall import CallHangs, SlowCall


class CpuCollector:
    """Processors and load. Utilisation is the busy share of all cores since the call before."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def collect(self) -> dict[str, Any]:
        """Return the fields of telemetry that it fills."""
        load1, load5, load15 = os.getloadavg()
        return {
            "cpus": psutil.cpu_count() or 1,
            "cpu_utilization_ratio": self._utilization(),
            "load1": load1,
            "load5": load5,
            "load15": load15,
        }

    def _utilization(self) -> float | None:
        times = psutil.cpu_times()
        # guest and guest_nice are counted in user and nice already.
        total = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
        idle = times.idle + getattr(times, "iowait", 0)
        before, self._before = self._before, (total, idle)
        if before is None or total <= before[0]:
            return None
        return float(min(max(1 - (idle - before[1]) / (total - before[0]), 0.0), 1.0))


class MemoryCollector:
    """Main memory."""

    def collect(self) -> dict[str, Any]:
        """Return the fields of telemetry that it fills."""
        memory = psutil.virtual_memory()
        return {"memory_total_bytes": memory.total, "memory_available_bytes": memory.available}


class BootCollector:
    """When the node was started."""

    def collect(self) -> dict[str, Any]:
        """Return the fields of telemetry that it fills."""
        now = time.time()
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        return {"time": now, "boot_at": now - uptime, "uptime_seconds": uptime}


class FilesystemCollector:
    """Mounted filesystems. One that is not there is left out; when one hangs, the last values stand.

    Parameters
    ----------
    mountpoints
        Which.
    """

    def __init__(self, mountpoints: Sequence[str]) -> None:
        self._mountpoints = tuple(mountpoints)
        self._call = SlowCall("statvfs", self._read, timeout=10)
        self._last: tuple[Filesystem, ...] = ()

    async def collect(self) -> dict[str, Any]:
        """Return the fields of telemetry that it fills."""
        try:
            self._last = await self._call.poll(patience=0.5) or self._last
        except CallHangs:
            self._last = ()
        return {"filesystems": self._last}

    def _read(self) -> tuple[Filesystem, ...]:
        found = []
        for mountpoint in self._mountpoints:
            try:
                stat = os.statvfs(mountpoint)
            except OSError:
                continue
            found.append(Filesystem(mountpoint, stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
        return tuple(found)
