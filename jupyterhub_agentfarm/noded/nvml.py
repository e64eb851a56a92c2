"""GPUs through NVML. Every function here may block or hang and runs in NVML's own thread only.

What a device does not support is None. A GPU in MIG mode is not listed: its MIG devices are, as GPUs of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pynvml

from jupyterhub_agentfarm.models import Gpu

T = TypeVar("T")

_UNSUPPORTED = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_NO_DATA,
}
_NO_DRIVER = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED}


class NoDriver(Exception):
    """The node has no NVIDIA driver."""


class NvmlFailed(Exception):
    """NVML answered with an error."""


class Nvml:
    """Reads all GPUs. Initialises NVML at the first reading and again after every error."""

    def __init__(self) -> None:
        self.driver_version: str | None = None
        #: Numbers of the device nodes, by the UUIDs of GPUs and of MIG devices on them.
        self.minors: Mapping[str, int] = {}
        self._ready = False

    def read(self) -> tuple[Gpu, ...]:
        """Return the GPUs and MIG devices with what they measure.

        Raises
        ------
        NoDriver
            There is no library or no driver.
        NvmlFailed
            Anything else NVML says.
        """
        try:
            if not self._ready:
                pynvml.nvmlInit()
                self._ready = True
                self.driver_version = _supported(pynvml.nvmlSystemGetDriverVersion)
            minors: dict[str, int] = {}
            found = tuple(gpu for index in range(pynvml.nvmlDeviceGetCount()) for gpu in _devices(index, minors))
        except pynvml.NVMLError as exc:
            self._close()
            if exc.value in _NO_DRIVER:
                raise NoDriver(str(exc)) from exc
            raise NvmlFailed(f"NVML: {exc}") from exc
        self.minors = minors
        return found

    def _close(self) -> None:
        if self._ready:
            self._ready = False
            _tried(pynvml.nvmlShutdown)


def _devices(index: int, minors: dict[str, int]) -> Iterator[Gpu]:
    """Yield a GPU, or its MIG devices; note for each which device node it has."""
    minor = _supported(pynvml.nvmlDeviceGetMinorNumber, pynvml.nvmlDeviceGetHandleByIndex(index))
    for gpu in _parts(index):
        if minor is not None:
            minors[gpu.uuid] = int(minor)
        yield gpu


def _parts(index: int) -> Iterator[Gpu]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    mode = _supported(pynvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        yield _gpu(handle, None)
        return
    parent = pynvml.nvmlDeviceGetUUID(handle)
    for slot in range(_supported(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _supported(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
        if part is not None:
            yield _gpu(part, parent)


def _gpu(handle: Any, parent: str | None) -> Gpu:
    memory = _memory(handle)
    rates = _supported(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _supported(pynvml.nvmlDeviceGetPowerUsage, handle)
    limit = _supported(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    processes = _supported(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=_supported(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU",
        memory_total_bytes=None if memory is None else int(memory.total),
        memory_used_bytes=None if memory is None else int(memory.used),
        utilization_ratio=None if rates is None else rates.gpu / 100,
        power_watts=None if power is None else power / 1000,
        power_limit_watts=None if limit is None else limit / 1000,
        temperature_celsius=_temperature(handle),
        pids=tuple(sorted({int(process.pid) for process in processes})),
        parent_uuid=parent,
    )


def _memory(handle: Any) -> Any:
    # The newer call counts what the driver reserves apart from what processes use.
    newer = _supported(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    return newer if newer is not None else _supported(pynvml.nvmlDeviceGetMemoryInfo, handle)


def _temperature(handle: Any) -> float | None:
    newer = getattr(pynvml, "nvmlDeviceGetTemperatureV", None)
    value = None if newer is None else _supported(newer, handle, pynvml.NVML_TEMPERATURE_GPU)
    if value is None:
        value = _supported(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    return None if value is None else float(value)


def _supported(function: Callable[..., T], *arguments: Any) -> T | None:
    try:
        return function(*arguments)
    except pynvml.NVMLError as exc:
        if exc.value in _UNSUPPORTED:
            return None
        raise


def _tried(function: Callable[[], object]) -> None:
    try:
        function()
    except pynvml.NVMLError:
        return
