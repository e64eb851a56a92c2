"""The node's report, put together every interval."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jupyterhub_agentfarm.models import Gpu, GpuHealth, Telemetry, WarmStarts

from .census import Census
from .collectors import BootCollector, CpuCollector, FilesystemCollector, MemoryCollector
from .gpus import GpuCollector, GpuReport, with_foreign
from .procfs import Process
from .server import Server
from .simulated import SimulatedGpus
from .slowcall import CallHangs, SlowCall

log = logging.getLogger(__name__)

#: How long a report waits for NVML before it goes out with the values of the one before.
_GPU_PATIENCE_SECONDS = 1.0


class Sampler:
    """Takes the samples and hands each to `publish`.

    Parameters
    ----------
    gpus
        NVML's GPUs.
    simulated
        Declared GPUs that do not exist.
    mountpoints
        Filesystems to report.
    warm_starts
        Says how servers are started.
    """

    def __init__(
        self,
        gpus: GpuCollector,
        simulated: SimulatedGpus,
        mountpoints: Sequence[str],
        warm_starts: Callable[[], WarmStarts | None] = lambda: None,
    ) -> None:
        self.gpus, self._warm_starts = gpus, warm_starts
        self._simulated = simulated
        self._collectors = (CpuCollector(), MemoryCollector(), BootCollector())
        self._filesystems = FilesystemCollector(mountpoints)
        self._census = SlowCall("census", Census, timeout=10)
        self._first = asyncio.Event()
        self.latest: Telemetry | None = None

    async def run(
        self,
        interval: float,
        servers: Callable[[], Iterable[Server]],
        publish: Callable[[Telemetry], None],
    ) -> None:
        """Sample until cancelled."""
        due = time.monotonic()
        while True:
            try:
                self.latest = await self.sample([s for s in servers() if not s.exited.is_set()])
            except OSError:
                log.exception("A sample failed; the next one is taken as usual")
            else:
                self._first.set()
                publish(self.latest)
            due = max(due + interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def first(self, patience: float) -> Telemetry | None:
        """Return the latest sample; wait at most `patience` seconds for the first one."""
        try:
            async with asyncio.timeout(patience):
                await self._first.wait()
        except TimeoutError:
            return None
        return self.latest

    async def known_gpus(self) -> set[str]:
        """Return the UUIDs of all GPUs of the node."""
        if self.gpus.report is None:
            await self.gpus.collect(_GPU_PATIENCE_SECONDS)
        report = self.gpus.report or GpuReport()
        return {gpu.uuid for gpu in report.gpus} | set(self._simulated.uuids)

    async def free_of(self, pids: Iterable[int], uuids: Iterable[str]) -> bool:
        """Return whether none of the processes is on the GPUs any more; simulated ones are always free."""
        return await self.gpus.free_of(pids, set(uuids) - set(self._simulated.uuids))

    async def sample(self, servers: Sequence[Server]) -> Telemetry:
        """Take one sample."""
        fields: dict[str, Any] = {}
        for collector in self._collectors:
            fields |= collector.collect()
        fields |= await self._filesystems.collect()
        report = await self.gpus.collect(_GPU_PATIENCE_SECONDS)
        members = await self._members(servers)
        return Telemetry(
            **fields,
            gpus=self._all_gpus(report, servers, members),
            gpu_health=self._health(report),
            gpu_error=report.error,
            warm_starts=self._warm_starts(),
        )

    def _health(self, report: GpuReport) -> GpuHealth:
        return "ok" if report.health == "absent" and self._simulated.uuids else report.health

    def _all_gpus(
        self, report: GpuReport, servers: Sequence[Server], members: dict[str, list[Process]]
    ) -> tuple[Gpu, ...]:
        owned = {gpu: set(server.seen) for server in servers for gpu in server.status.gpus}
        holders = {gpu: members.get(server.status.lease, []) for server in servers for gpu in server.status.gpus}
        return with_foreign(report.gpus, owned) + self._simulated.collect(holders)

    async def _members(self, servers: Sequence[Server]) -> dict[str, list[Process]]:
        """Return each server's processes; also keeps what the servers know of themselves fresh."""
        if not servers:
            return {}
        try:
            census = await self._census.poll(patience=1)
        except CallHangs as exc:
            log.warning("%s", exc)
            return {}
        if census is None:
            return {}
        members = {}
        for server in servers:
            members[server.status.lease] = found = census.members(server.identity)
            own = {server.status.pid: server.status.pid_start_ticks}
            server.seen = own | {process.pid: process.start_ticks for process in found}
            server.note_oom_kills()
        return members
