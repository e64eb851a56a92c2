"""GPUs through the real pynvml, on a fake libnvidia-ml.so.1."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeNvml
from noded_process import NodedProcess, running_noded
from waiting import eventually


async def report(noded: NodedProcess, wanted: Any, message: str) -> dict[str, Any]:
    """Return the first telemetry that `wanted` holds for."""

    async def find() -> dict[str, Any] | None:
        latest: dict[str, Any] = await noded.call("telemetry")
        return latest if wanted(latest) else None

    return await eventually(find, message)


def threads_of(pid: int) -> int:
    """Return how many threads a process has."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


@pytest.fixture
def stranger() -> Iterator[int]:
    """Process id of a process that is no server's."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


async def test_every_supported_field_is_read_in_our_units(nvml: FakeNvml) -> None:
    """A GPU that supports everything is reported with every value, in bytes, watts, degrees and as a ratio."""
    async with running_noded(env=nvml.environment) as noded:
        telemetry = await noded.call("telemetry")
    assert telemetry["gpu_health"] == "ok"
    assert telemetry["gpu_error"] is None
    assert telemetry["gpus"] == [
        {
            "uuid": "GPU-aaaa",
            "name": "Fake H100",
            "memory_total_bytes": 80 * 2**30,
            "memory_used_bytes": 2**30,
            "utilization_ratio": 0.37,
            "power_watts": 120.5,
            "power_limit_watts": 700.0,
            "temperature_celsius": 61.0,
            "pids": [],
            "foreign_pids": [],
            "parent_uuid": None,
            "simulated": False,
        }
    ]


async def test_hello_names_the_driver(nvml: FakeNvml) -> None:
    """The facts of a node with a driver carry its version."""
    async with running_noded(env=nvml.environment) as noded:
        facts = await noded.call("hello", {"protocol": 1})
    assert facts["driver_version"] == "570.86"


async def test_what_a_device_does_not_support_is_null(nvml: FakeNvml) -> None:
    """A field that NVML answers NOT_SUPPORTED for is null, and never 0; the others stand."""
    unsupported = ("memory_total", "memory_used", "utilization", "power", "power_limit", "temperature", "mig", "pids")
    nvml.set(**{f"gpu0__{name}": None for name in unsupported})
    async with running_noded(env=nvml.environment) as noded:
        telemetry = await noded.call("telemetry")
    (gpu,) = telemetry["gpus"]
    measured = ("memory_total_bytes", "memory_used_bytes", "utilization_ratio", "power_watts", "power_limit_watts")
    assert [gpu[name] for name in (*measured, "temperature_celsius")] == [None] * 6
    assert (gpu["uuid"], telemetry["gpu_health"]) == ("GPU-aaaa", "ok")


async def test_mig_devices_are_listed_instead_of_their_gpu(nvml: FakeNvml) -> None:
    """A GPU in MIG mode gives way to its MIG devices, which name it; another GPU stays as it is."""
    nvml.set(gpu0__mig=1, gpu0__migs=2, count=2, gpu1__uuid="GPU-bbbb", gpu1__name="Other")
    for index in range(2):
        nvml.set(**{f"gpu0.mig{index}.uuid": f"MIG-{index}", f"gpu0.mig{index}.name": "Fake MIG 1g.10gb"})
        nvml.set(**{f"gpu0.mig{index}.memory_total": 10 * 2**30, f"gpu0.mig{index}.memory_used": 0})
    async with running_noded(env=nvml.environment) as noded:
        gpus = (await noded.call("telemetry"))["gpus"]
    assert [(gpu["uuid"], gpu["parent_uuid"]) for gpu in gpus] == [
        ("MIG-0", "GPU-aaaa"),
        ("MIG-1", "GPU-aaaa"),
        ("GPU-bbbb", None),
    ]
    assert gpus[0]["memory_total_bytes"] == 10 * 2**30
    assert gpus[0]["utilization_ratio"] is None


async def test_a_hanging_nvml_is_reported_and_recovers(nvml: FakeNvml) -> None:
    """While NVML hangs reports go on without measured values; when it answers again so do the values."""
    async with running_noded(env=nvml.environment, arguments=["--NodedApp.nvml_timeout=0.3"]) as noded:
        await report(noded, lambda t: t["gpu_health"] == "ok", "the GPU is read")
        nvml.set(hang=1)
        hanging = await report(noded, lambda t: t["gpu_health"] == "hanging", "the hang is reported")
        (gpu,) = hanging["gpus"]
        assert (gpu["uuid"], gpu["name"], gpu["memory_total_bytes"]) == ("GPU-aaaa", "Fake H100", 80 * 2**30)
        assert gpu["memory_used_bytes"] is None
        assert gpu["temperature_celsius"] is None
        assert "nvml" in hanging["gpu_error"]
        assert noded.process
        count = len(noded.client.telemetry) if noded.client else 0
        await eventually(lambda: noded.client and len(noded.client.telemetry) > count + 3, "reports go on")
        threads = threads_of(noded.process.pid)
        nvml.set(hang=None, gpu0__utilization=50)
        recovered = await report(noded, lambda t: t["gpu_health"] == "ok", "the recovery is reported")
    assert recovered["gpus"][0]["utilization_ratio"] == 0.5
    assert threads < 12, "hanging calls pile up in threads"


async def test_a_failing_nvml_is_reported_and_recovers(nvml: FakeNvml) -> None:
    """A GPU that fell off the bus is a failure with NVML's words, and the GPU stays known."""
    async with running_noded(env=nvml.environment) as noded:
        nvml.set(error=15)
        failed = await report(noded, lambda t: t["gpu_health"] == "failed", "the failure is reported")
        assert [gpu["uuid"] for gpu in failed["gpus"]] == ["GPU-aaaa"]
        assert failed["gpu_error"]
        nvml.set(error=None)
        await report(noded, lambda t: t["gpu_health"] == "ok", "the recovery is reported")


async def test_no_library_is_no_gpus_and_no_error(tmp_path: Path) -> None:
    """A node without the NVIDIA library has no GPUs; that is not an error."""
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"")
    async with running_noded(env={"LD_LIBRARY_PATH": str(tmp_path)}) as noded:
        telemetry = await noded.call("telemetry")
    assert (telemetry["gpus"], telemetry["gpu_health"], telemetry["gpu_error"]) == ([], "absent", None)


async def test_a_driver_that_is_not_loaded_is_absent(nvml: FakeNvml) -> None:
    """The library alone, without the driver, is no error either."""
    nvml.set(init=9)
    async with running_noded(env=nvml.environment) as noded:
        telemetry = await noded.call("telemetry")
    assert (telemetry["gpus"], telemetry["gpu_health"]) == ([], "absent")


async def test_foreign_processes_are_told_from_servers(nvml: FakeNvml, stranger: int) -> None:
    """Of the processes on a GPU those that belong to no server of noded's are foreign."""
    async with running_noded(env=nvml.environment) as noded:
        await noded.call("telemetry")
        status = await noded.launch("a", gpus=["GPU-aaaa"])
        nvml.set(gpu0__pids=f"{status['pid']},{stranger}")
        telemetry = await report(noded, lambda t: len(t["gpus"][0]["pids"]) == 2, "both processes are seen")
        nvml.set(gpu0__pids="")
    assert telemetry["gpus"][0]["foreign_pids"] == [stranger]


async def test_a_server_on_a_gpu_of_another_is_foreign_there(nvml: FakeNvml) -> None:
    """A server is at home on the GPU it leased only: on any other it works past the farm, as anybody would."""
    nvml.set(count=2, gpu1__uuid="GPU-bbbb", gpu1__name="Other", gpu1__pids="", gpu1__mig=0)
    async with running_noded(env=nvml.environment) as noded:
        await noded.call("telemetry")
        one = (await noded.launch("a", gpus=["GPU-aaaa"]))["pid"]
        none = (await noded.launch("b"))["pid"]
        nvml.set(gpu0__pids=f"{one},{none}", gpu1__pids=one)
        telemetry = await report(noded, lambda t: len(t["gpus"][0]["pids"]) == 2, "all processes are seen")
        nvml.set(gpu0__pids="", gpu1__pids="")
    assert {gpu["uuid"]: gpu["foreign_pids"] for gpu in telemetry["gpus"]} == {"GPU-aaaa": [none], "GPU-bbbb": [one]}


async def test_stop_says_when_the_gpu_is_really_free(nvml: FakeNvml) -> None:
    """A stop does not answer before NVML has dropped the server's processes from the GPU."""
    async with running_noded(env=nvml.environment) as noded:
        await noded.call("telemetry")
        status = await noded.launch("a", gpus=["GPU-aaaa"])
        nvml.set(gpu0__pids=status["pid"])
        task = asyncio.create_task(noded.call("stop", {"lease": "a"}))
        await eventually(lambda: noded.client and noded.client.exits, "the server has ended")
        assert not task.done()
        nvml.set(gpu0__pids="")
        assert await task == {"gone": True, "gpus_free": True}


async def test_simulated_gpus_are_marked_and_measured_by_their_server() -> None:
    """A simulated GPU says that it is one, is busy as its server is, and idle without one."""
    busy = "while True: pass"
    async with running_noded(simulated_gpus=2) as noded:
        idle = await noded.call("telemetry")
        assert [gpu["simulated"] for gpu in idle["gpus"]] == [True, True]
        assert [gpu["utilization_ratio"] for gpu in idle["gpus"]] == [0.0, 0.0]
        assert idle["gpu_health"] == "ok"
        uuids = [gpu["uuid"] for gpu in idle["gpus"]]
        await noded.launch("a", busy, gpus=[uuids[1]])
        working = await report(noded, lambda t: t["gpus"][1]["utilization_ratio"] > 0.2, "the server's load is seen")
    assert working["gpus"][1]["memory_used_bytes"] > 2**20
    assert working["gpus"][0]["utilization_ratio"] == 0.0
    assert working["gpus"][1]["power_watts"] is None
