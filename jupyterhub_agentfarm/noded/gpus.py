"""The state of the node's GPUs, NVML's moods included.

::

    absent   no driver, no GPUs, no error
    ok       the last reading succeeded
    hanging  a call has not returned within the timeout: the GPUs last seen are kept, without measured values
    failed   NVML answered with an error: the same
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jupyterhub_agentfarm.models import Gpu, GpuHealth

from .nvml import NoDriver, Nvml, NvmlFailed
from .slowcall import CallHangs, SlowCall


@dataclass(frozen=True)
class GpuReport:
    """What is known about the GPUs now."""

    gpus: tuple[Gpu, ...] = ()
    health: GpuHealth = "absent"
    error: str | None = None


class GpuCollector:
    """Reads the GPUs without ever blocking the loop.

    Parameters
    ----------
    timeout
        Seconds after which a call of NVML counts as hanging.
    """

    def __init__(self, timeout: float) -> None:
        self._nvml = Nvml()
        self._timeout = timeout
        self._call = SlowCall("nvml", self._nvml.read, timeout)
        self.report: GpuReport | None = None

    @property
    def driver_version(self) -> str | None:
        """Version of the driver, once it is known."""
        return self._nvml.driver_version

    def minors(self, uuids: Iterable[str]) -> dict[str, int]:
        """Return the numbers N of the device nodes /dev/nvidiaN of those GPUs that NVML knows one of."""
        known = self._nvml.minors
        return {uuid: known[uuid] for uuid in uuids if uuid in known}

    async def collect(self, patience: float) -> GpuReport:
        """Return a new report, or the last one when NVML does not answer within `patience` seconds.

        The very first report is waited for until it is there or NVML hangs.
        """
        try:
            gpus = await self._call.poll(self._timeout if self.report is None else min(patience, self._timeout))
        except NoDriver as exc:
            self.report = self._lost("failed", str(exc)) if self._known() else GpuReport()
        except NvmlFailed as exc:
            self.report = self._lost("failed", str(exc))
        except CallHangs as exc:
            self.report = self._lost("hanging", str(exc))
        else:
            if gpus is not None:
                self.report = GpuReport(gpus, "ok")
        return self.report or GpuReport()

    async def free_of(self, pids: Iterable[int], uuids: Iterable[str]) -> bool:
        """Return whether NVML says that none of `pids` is on the GPUs `uuids`; when it does not answer: False."""
        ours, wanted = set(pids), set(uuids)
        if not wanted:
            return True
        # The first poll may share a call that began earlier; the second one cannot have begun before now.
        await self.collect(self._timeout)
        report = await self.collect(self._timeout)
        on_them = [gpu for gpu in report.gpus if gpu.uuid in wanted]
        return report.health == "ok" and not any(ours & set(gpu.pids) for gpu in on_them)

    def _known(self) -> tuple[Gpu, ...]:
        return self.report.gpus if self.report else ()

    def _lost(self, health: GpuHealth, error: str) -> GpuReport:
        return GpuReport(tuple(_identity(gpu) for gpu in self._known()), health, error)


def _identity(gpu: Gpu) -> Gpu:
    return Gpu(gpu.uuid, gpu.name, gpu.memory_total_bytes, parent_uuid=gpu.parent_uuid)


def with_foreign(gpus: tuple[Gpu, ...], owned: Mapping[str, set[int]]) -> tuple[Gpu, ...]:
    """Return the GPUs with `foreign_pids` filled in.

    Parameters
    ----------
    gpus
        The GPUs.
    owned
        For each GPU that a server holds, the processes of that server. Those of another server are foreign there.
    """
    return tuple(_with_foreign(gpu, owned.get(gpu.uuid, set())) for gpu in gpus)


def _with_foreign(gpu: Gpu, owned: set[int]) -> Gpu:
    return dataclasses.replace(gpu, foreign_pids=tuple(pid for pid in gpu.pids if pid not in owned))
