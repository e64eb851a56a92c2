"""Kernels that are forked from a zygote which has imported PyTorch, on a real GPU."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
from kernel_ways import WARM, kernel, warm_kernels, zygote_pid
from waiting import eventually

from jupyterhub_agentfarm.kernels.warm import WarmKernels

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

#: The sum of a product, on the GPU and on the CPU, of the same numbers.
PRODUCT = "[float((m.to(d) @ m.to(d)).double().sum()) for d in ('cuda', 'cpu')]"
NUMBERS = "import torch; torch.manual_seed(7); m = torch.rand(512, 512)"


@pytest.fixture
async def zygotes() -> AsyncIterator[WarmKernels]:
    """Zygotes that have imported PyTorch."""
    pytest.importorskip("torch")
    with warm_kernels(preload=["torch"]) as made:
        await eventually(_torch_is_there, "kernels find PyTorch imported", 120)
        made.starts.clear()
        yield made


async def _torch_is_there() -> bool:
    async with kernel(WARM) as one:
        return bool(await one.value("'torch' in __import__('sys').modules"))


async def test_a_forked_kernel_uses_the_gpu(zygotes: WarmKernels) -> None:
    """PyTorch of the zygote computes on the GPU in its forks: one after the other, and two at the same time."""
    async with kernel(WARM) as first, kernel(WARM) as second:
        assert zygotes.starts == {("warm", ""): 2}
        for one in (first, second):
            assert await one.value("'torch' in __import__('sys').modules")
            await one.output(NUMBERS)
            assert await one.value("torch.cuda.is_initialized()") is False
        products = await asyncio.gather(first.value(PRODUCT), second.value(PRODUCT))
        for on_gpu, on_cpu in products:
            assert on_gpu == pytest.approx(on_cpu, rel=1e-3)
        assert zygote_pid(first.pid) == zygote_pid(second.pid)
    async with kernel(WARM) as third:
        await third.output(NUMBERS)
        on_gpu, on_cpu = await third.value(PRODUCT)
        assert on_gpu == pytest.approx(on_cpu, rel=1e-3)
    assert zygotes.starts == {("warm", ""): 3}


async def test_the_zygote_has_nothing_of_cuda(zygotes: WarmKernels) -> None:
    """Its forks have used the GPU; itself has neither a device open nor one in its memory map."""
    async with kernel(WARM) as one:
        await one.output(f"{NUMBERS}; print((m.cuda() @ m.cuda()).sum())")
        zygote = zygote_pid(one.pid)
        look = "import os; f = f'/proc/{pid}'; "
        seen = await one.output(
            f"pid = {zygote}; {look}"
            "print(open(f'{f}/maps').read().count('/dev/nvidia'), "
            "sum('/dev/nvidia' in os.readlink(f'{f}/fd/{n}') for n in os.listdir(f'{f}/fd')))"
        )
        own = await one.output(
            "print(any('nvidia' in os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')))"
        )
    assert zygotes.starts == {("warm", ""): 1}
    assert seen.split() == ["0", "0"]
    assert own.strip() == "True"


async def test_the_leased_gpu_is_the_only_one(zygotes: WarmKernels) -> None:
    """CUDA_VISIBLE_DEVICES of the kernel counts, not that of the zygote."""
    async with kernel(WARM, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}) as none:
        assert await none.value("__import__('torch').cuda.is_available()") is False
    async with kernel(WARM) as one:
        assert await one.value("__import__('torch').cuda.is_available()") is True
    assert zygotes.starts == {("warm", ""): 2}
