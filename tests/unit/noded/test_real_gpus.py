"""What a real NVML says, beside what nvidia-smi and a program on the GPU say."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from waiting import eventually

from jupyterhub_agentfarm.noded.nvml import Nvml

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(180)]

#: Multiplies matrices on the first GPU until its input ends.
BUSY = """
import select, sys, torch
a = torch.rand(8192, 8192, device="cuda")
print("busy", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
"""


def smi(*fields: str) -> list[list[str]]:
    """Return a row of fields for each GPU, as nvidia-smi tells them."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [line.split(", ") for line in told.splitlines()]


def test_the_same_gpus_as_nvidia_smi() -> None:
    """UUID, name, memory and limit of each GPU, and the driver's version."""
    nvml = Nvml()
    gpus = nvml.read()
    told = smi("uuid", "name", "memory.total", "enforced.power.limit", "driver_version")
    assert [gpu.uuid for gpu in gpus] == [row[0] for row in told]
    assert [gpu.name for gpu in gpus] == [row[1] for row in told]
    for gpu, (_, _, mebibytes, watts, driver) in zip(gpus, told, strict=True):
        assert gpu.memory_total_bytes == pytest.approx(int(mebibytes) * 2**20, rel=0.01)
        assert gpu.power_limit_watts == pytest.approx(float(watts), rel=0.01)
        assert nvml.driver_version == driver
        assert not gpu.simulated
        assert gpu.uuid in nvml.minors


async def test_work_on_a_gpu_is_seen() -> None:
    """Utilisation, memory and power rise with a program's work, and memory falls when it ends."""
    pytest.importorskip("torch")
    nvml = Nvml()
    idle = nvml.read()[0]
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BUSY, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        assert await program.stdout.readline() == b"busy\n"
        busy = await eventually(
            lambda: next((gpu for gpu in nvml.read()[:1] if (gpu.utilization_ratio or 0) > 0.8), None),
            "the GPU is in use",
            30,
        )
    finally:
        program.stdin.close()
        await program.wait()
    assert busy.memory_used_bytes is not None
    assert idle.memory_used_bytes is not None
    assert busy.memory_used_bytes > idle.memory_used_bytes + 8192 * 8192 * 4
    assert busy.power_watts is None or busy.power_watts > (idle.power_watts or 0)
    await eventually(
        lambda: (nvml.read()[0].memory_used_bytes or 0) < busy.memory_used_bytes - 8192 * 8192 * 4,
        "the memory is free again",
        30,
    )
