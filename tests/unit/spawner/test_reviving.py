"""Services of the farm that ended are looked after by the Hub at once, and those that it stopped are left."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from waiting import eventually

from jupyterhub_agentfarm.spawner import reviving


class Service:
    """A managed service of the Hub, whose process is looked at through its spawner."""

    def __init__(self, *, fault: bool = False) -> None:
        self.spawner = self
        self.server: Any = object()
        self.looks = 0
        self._fault = fault

    async def poll_and_notify(self) -> None:
        """Note the look; a Hub that cannot start the service raises."""
        self.looks += 1
        if self._fault:
            raise OSError("no such program")


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviving, "_LOOK_SECONDS", 0.001)


@pytest.mark.usefixtures("_often")
async def test_services_are_looked_at_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    """Every managed service is looked at, whatever becomes of another; one that is external or absent is not."""
    failing, well = Service(fault=True), Service()
    settings = {"services": {"agents": failing, "benchmark": well}}
    looking = asyncio.create_task(reviving.look_after_others(settings, logging.getLogger("test")))
    await eventually(lambda: failing.looks > 2 < well.looks, "both are looked at")
    looking.cancel()
    assert "agents" in caplog.text
    await reviving.look_after_controller({"services": {"agentfarm": object()}})
    await reviving.look_after_controller({})


async def test_a_service_that_the_hub_stopped_is_left() -> None:
    """A Hub that ends has taken the service's address away: it is not to be started once more."""
    stopped = Service()
    await reviving.look_after_controller({"services": {"agentfarm": stopped}})
    stopped.server = None
    await reviving.look_after_controller({"services": {"agentfarm": stopped}})
    assert stopped.looks == 1
