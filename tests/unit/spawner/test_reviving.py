"""Services of the farm that ended are looked after by the Hub at once, and those that it stopped are left."""

from __future__ import annotations

import asyncio
import itertools
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

    async def poll(self) -> int | None:
        """Return the status with which the process ended."""
        return 1

    async def poll_and_notify(self) -> None:
        """Note the look; a Hub that cannot start the service raises."""
        self.looks += 1
        if self._fault:
            raise OSError("no such program")


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviving, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(reviving, "_FIRST_PAUSE_SECONDS", 0.001)


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


class Life:
    """The spawner of one life of a service, which lasts some seconds of the test's clock."""

    def __init__(self, service: Lives, ends_at: float) -> None:
        self._service, self._ends_at = service, ends_at

    async def poll(self) -> int | None:
        """Return None while it lives."""
        return None if self._service.now < self._ends_at else 1

    async def poll_and_notify(self) -> None:
        """Start the next life, as the Hub does."""
        self._service.begin()


class Lives:
    """A service that ends again and again, looked at every second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds = 0.0
        self.starts: list[float] = []
        self._revival = reviving.Revival()
        self._life = Life(self, 0.0)

    def begin(self) -> None:
        """Begin a life."""
        self.starts.append(self.now)
        self._life = Life(self, self.now + self.seconds)

    async def look(self, seconds: int) -> list[float]:
        """Look every second for so long; return the times between the starts."""
        self.starts = [self.now]
        for _ in range(seconds):
            await self._revival.look(self._life, self.now)
            self.now += 1
        return [later - earlier for earlier, later in itertools.pairwise(self.starts)]


async def test_a_service_that_ends_at_once_is_started_with_growing_pauses() -> None:
    """The pauses double up to 30 s; after a minute of life the next start is at once again."""
    service = Lives()
    assert await service.look(170) == [0, 2, 3, 5, 9, 17, 31, 31, 31, 31]
    service.seconds = 59
    assert max((await service.look(400))[1:]) == 59 + 30
    service.seconds = 62
    assert (await service.look(400))[-2:] == [62, 62]
