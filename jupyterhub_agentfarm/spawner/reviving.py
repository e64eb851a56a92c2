"""Services of the farm that ended are started again at once.

The Hub looks after the services that it manages every 30 s, which cannot be configured. Whoever notices the end
earlier has the Hub look now; what it then does is its own. The controller's end is noticed by the one who follows its
events; the others' by looking every second, which asks the system about a process and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ..faults import Edge

#: Name of the controller's service.
SERVICE = "agentfarm"
#: Names of the others that the farm has.
OTHERS = ("agents", "benchmark")
_LOOK_SECONDS = 1.0


async def look_after_controller(settings: Mapping[str, Any]) -> None:
    """Have the Hub start the controller again if it manages it and its process has ended.

    Parameters
    ----------
    settings
        The Hub's settings.
    """
    await _look_after(settings, SERVICE)


async def look_after_others(settings: Mapping[str, Any], log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
    """Have the Hub start the farm's other services again whenever one of their processes has ended; never returns.

    Parameters
    ----------
    settings
        The Hub's settings.
    log
        Where it is written when the Hub cannot start one.
    """
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for name in OTHERS:
            with Edge(log, f"the Hub could not start its service {name} again"):
                await _look_after(settings, name)


async def _look_after(settings: Mapping[str, Any], name: str) -> None:
    service = settings.get("services", {}).get(name)
    # A service without a spawner is not managed, or not started yet; without a server, the Hub has stopped it.
    spawner = getattr(service, "spawner", None)
    if spawner is not None and service.server is not None:
        await spawner.poll_and_notify()
