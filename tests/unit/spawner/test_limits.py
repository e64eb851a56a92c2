"""The Hub's limits on their way to the node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from farm_double import FarmDouble

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.isolation import ResourceLimits
from jupyterhub_agentfarm.spawner.limits import resource_limits


def limited(memory: int | None = None, cpus: float | None = None, processes: int | None = None) -> Any:
    """Return what has the three options of a spawner."""
    return SimpleNamespace(mem_limit=memory, cpu_limit=cpus, process_limit=processes)


def test_none_and_zero_are_no_limit() -> None:
    """What is not set limits nothing; a limit that nothing runs in is refused."""
    assert not resource_limits(limited())
    assert not resource_limits(limited(0, 0, 0))
    assert resource_limits(limited(2**30, 1.5, 99)) == ResourceLimits(2**30, 1.5, 99)
    with pytest.raises(InvalidField, match="at least 1 MiB"):
        resource_limits(limited(memory=512))


async def test_the_order_carries_the_limits(farm: FarmDouble, user: Any) -> None:
    """mem_limit, cpu_limit and process_limit reach the controller with the order."""
    user.spawner.mem_limit, user.spawner.cpu_limit, user.spawner.process_limit = "1G", 0.5, 200
    await user.spawn()
    (order,) = farm.orders.values()
    assert order.limits == ResourceLimits(2**30, 0.5, 200)
    await user.stop()
