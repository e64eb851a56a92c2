"""Fixtures of noded's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_nvml import FakeNvml, build, compiler
from noded_process import NodedProcess, running_noded


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the compiled fake NVML."""
    if compiler() is None:
        pytest.skip("no C compiler to build the fake libnvidia-ml.so.1 with")
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path) -> FakeNvml:
    """A fake NVML with one ordinary GPU."""
    fake = FakeNvml(nvml_library, tmp_path / "nvml.txt")
    fake.set(
        driver="570.86",
        count=1,
        gpu0__uuid="GPU-aaaa",
        gpu0__name="Fake H100",
        gpu0__memory_total=80 * 2**30,
        gpu0__memory_used=2**30,
        gpu0__utilization=37,
        gpu0__power=120500,
        gpu0__power_limit=700000,
        gpu0__temperature=61,
        gpu0__pids="",
        gpu0__minor=0,
        gpu0__mig=0,
    )
    return fake


@pytest.fixture
async def noded() -> AsyncIterator[NodedProcess]:
    """A noded with two simulated GPUs."""
    async with running_noded(simulated_gpus=2) as process:
        yield process
