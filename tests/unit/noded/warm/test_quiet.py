"""What waits until a node has time, and for how long."""

from __future__ import annotations

import asyncio
import time

import pytest

from jupyterhub_agentfarm.noded.warm import quiet as quiet_module
from jupyterhub_agentfarm.noded.warm.quiet import quiet


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have the node be so busy at one look after the other; at the end of the list, as at its last."""
    ratios, told = [1.0], [(0.0, 0.0)]

    def times() -> tuple[float, float]:
        ratio = ratios.pop(0) if len(ratios) > 1 else ratios[0]
        idle, all_of_it = told[-1]
        told.append((idle + 1 - ratio, all_of_it + 1))
        return told[-1]

    monkeypatch.setattr(quiet_module, "_times", times)
    monkeypatch.setattr(quiet_module, "_LOOK_SECONDS", 0.001)
    return ratios


async def test_it_waits_while_the_node_is_busy(busy: list[float]) -> None:
    """It goes on at the first look at which a third of the processors was idle."""
    busy[:] = [1.0, 1.0, 0.9, 0.8, 0.6, 1.0]
    await asyncio.wait_for(quiet(60), 10)
    assert busy == [1.0]


async def test_a_node_that_never_has_time(busy: list[float]) -> None:
    """It is not waited for any longer than said."""
    began = time.monotonic()
    await asyncio.wait_for(quiet(0.05), 10)
    assert time.monotonic() - began >= 0.05
    assert busy == [1.0]


async def test_the_real_node() -> None:
    """It is looked at without a fault, whatever it does."""
    await asyncio.wait_for(quiet(0.6), 10)
