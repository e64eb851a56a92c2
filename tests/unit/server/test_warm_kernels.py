"""Kernels of the farm's server start warm, whoever asks for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kernel_ways import alive, zygote_pid
from waiting import eventually
from warm_farm import SERVER, WARM_KERNELS, Served, WarmFarm, warm_farm

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def farm(tmp_path: Path) -> AsyncIterator[WarmFarm]:
    """A noded that starts servers cold: what is asked of here is the same in warm ones."""
    async with warm_farm(tmp_path, "--NodedApp.warm_servers=False") as made:
        yield made


async def _kernel(served: Served) -> str:
    async with served.client() as client:
        answer = await client.post(served.url("api/kernels"), json={"name": "python3"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def _starts(served: Served) -> dict[str, float]:
    text = (await served.get("metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("agentfarm_kernel_starts_total{")]
    return {line.partition(" ")[0].partition("{")[2]: float(line.rpartition(" ")[2]) for line in lines}


def _of(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


async def test_everybodys_kernels_are_forked(farm: WarmFarm) -> None:
    """Kernels of the API and of runs have one zygote, which names the lease and ends with the server."""
    served = await farm.start("ada", command=[*SERVER, WARM_KERNELS])
    kernels = [await _kernel(served) for _ in range(2)]
    zygote, lease = (await served.ran("import os; print(os.getppid(), os.environ['AGENTFARM_LEASE_ID'])")).split()
    assert lease == served.lease
    assert zygote_pid(int(zygote)) == served.pid
    environment = _of(int(zygote), "environ")
    assert f"AGENTFARM_LEASE_ID={lease}" in environment.split("\0")
    assert "AGENTFARM_SOCKET_FD" not in environment
    starts = await _starts(served)
    assert sum(value for labels, value in starts.items() if 'way="warm"' in labels) == 3
    assert sum(starts.values()) == 3
    assert len(starts) > 5, "each reason for a cold start is there, at 0"
    async with served.client() as client:
        assert (await client.delete(served.url(f"api/kernels/{kernels[0]}"))).status_code == 204
    await farm.stop(served)
    await eventually(lambda: not alive(int(zygote)), "the zygote is gone")


async def test_switched_off(farm: WarmFarm) -> None:
    """With the option, kernels are children of the server, and counted as such."""
    served = await farm.start("ada", command=[*SERVER, "--WarmKernels.enabled=False"])
    await _kernel(served)
    commands = [_of(int(child), "cmdline") for child in _of(served.pid, f"task/{served.pid}/children").split()]
    assert any("ipykernel_launcher" in command for command in commands), commands
    assert not any("zygote" in command for command in commands)
    assert {labels: value for labels, value in (await _starts(served)).items() if value} == {
        'reason="disabled",way="cold"}': 1
    }


async def test_early(farm: WarmFarm) -> None:
    """With the option the zygote is there before anybody asks for a kernel, and the first kernel is a fork of it."""
    served = await farm.start("ada", command=[*SERVER, WARM_KERNELS, "--WarmKernels.early=True"])

    def zygotes() -> list[int]:
        children = [int(child) for child in _of(served.pid, f"task/{served.pid}/children").split()]
        return [child for child in children if "kernels.zygote" in _of(child, "cmdline")]

    (zygote,) = await eventually(zygotes, "the zygote is there")
    await _kernel(served)
    kernels = [int(child) for child in _of(zygote, f"task/{zygote}/children").split()]
    assert ["ipykernel_launcher" in _of(kernel, "cmdline") for kernel in kernels] == [True]
    assert zygotes() == [zygote]
