"""What no run has: servers and marks that could not be taken away when their run ended, as while the Hub was away."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from ..errors import HubApiError
from ..faults import Edge
from .runner import Surroundings

log = logging.getLogger(__name__)

#: How often they are looked for, in seconds.
SWEEP_SECONDS = 60.0


class NodesOfRuns(Protocol):
    """Gives the nodes of the runs that go."""

    def __call__(self, *, exclusive: bool) -> set[str]:
        """Return them; with `exclusive` those alone that their runs keep for themselves."""


class Sweeper:
    """Stops servers and gives back nodes that no run has.

    Parameters
    ----------
    world
        Where they are.
    nodes_of_runs
        Those that are not to be touched.
    """

    def __init__(self, world: Surroundings, nodes_of_runs: NodesOfRuns) -> None:
        self._world, self._nodes_of_runs = world, nodes_of_runs

    async def sweep(self) -> None:
        """Do so now and again, until cancelled."""
        while True:
            with Edge(log, "servers and marks of ended runs could not be looked for"):
                await self.sweep_once()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep_once(self) -> None:
        """Do so now."""
        try:
            there = await self._world.servers.of_benchmark()
        except HubApiError as exc:
            log.info("the servers of ended runs are looked for later: %s", exc.message)
            there = []
        # The runs are asked after the Hub: a server that was started meanwhile has its run by then.
        strays = sorted(set(there) - self._nodes_of_runs(exclusive=False))
        kept = sorted(set(self._world.keeper.kept()) - self._nodes_of_runs(exclusive=True))
        for sentence in [*await self._world.servers.stop_all(strays), *await self._world.keeper.give_back(kept)]:
            log.warning("of a run that ended: %s", sentence)
