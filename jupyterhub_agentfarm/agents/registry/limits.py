"""FarmLimits: what an agent may have, as the controller enforces it.

Agents can start servers straight at the Hub, so a limit that only this service knew would be none.
"""

from __future__ import annotations

from ...controller.client import FarmClient
from ...models import OwnerLimits
from ..models import Agent

#: What somebody has who is suspended.
NOTHING = OwnerLimits(servers=0)


class FarmLimits:
    """The limits of agents at the controller.

    Parameters
    ----------
    farm
        The controller's client, with the service's token.
    """

    def __init__(self, farm: FarmClient) -> None:
        self._farm = farm

    async def allow(self, agent: Agent) -> None:
        """Let an agent have what its record says."""
        await self._farm.set_owner_limits(agent.name, limits_of(agent))

    async def forbid(self, name: str) -> None:
        """Let an agent have no server."""
        await self._farm.set_owner_limits(name, NOTHING)

    async def drop(self, name: str) -> None:
        """Forget the limits of an agent that is gone; may be called again."""
        await self._farm.drop_owner_limits(name)


def limits_of(agent: Agent) -> OwnerLimits:
    """Return an agent's limits in the controller's form.

    Raises
    ------
    InvalidField
        Labels or kernels are none that a request can name.
    """
    limits = agent.limits
    return OwnerLimits(limits.servers, limits.gpus, limits.gpu_hours, agent.labels, agent.kernels)
