"""A farm with a server that was started cold, and whose environment is warm since."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from warm_farm import Served, WarmFarm, warm_farm


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WarmFarm]:
    """A noded whose servers' environment is warm."""
    folder: Path = tmp_path_factory.mktemp("homes")
    async with warm_farm(folder) as made:
        cold = await made.start("quokka-cold")
        assert not cold.warm
        await made.until_warm()
        yield made


@pytest.fixture
def cold(farm: WarmFarm) -> Served:
    """The server that was started before there was a zygote."""
    return farm.served["lease-of-quokka-cold"]
