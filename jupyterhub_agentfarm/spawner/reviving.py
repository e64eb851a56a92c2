"""A controller that ended is started again at once.

The Hub looks after the services that it manages every 30 s, which cannot be configured. Whoever notices the end
earlier, as the one who follows the controller's events does, has the Hub look now; what it then does is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Name of the controller's service.
SERVICE = "agentfarm"


async def look_after_controller(settings: Mapping[str, Any]) -> None:
    """Have the Hub start the controller again if it manages it and its process has ended.

    Parameters
    ----------
    settings
        The Hub's settings.
    """
    service = settings.get("services", {}).get(SERVICE)
    # A service without a spawner is not managed, or not started yet.
    spawner = getattr(service, "spawner", None)
    if spawner is not None:
        await spawner.poll_and_notify()
