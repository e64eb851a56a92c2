"""TaskTokens: with what the service reaches the servers of agents for their tasks.

The service holds no scope on servers of its own. It mints tokens of the agents, each for the servers of that agent
alone and good for about an hour, and keeps each until it is nearly over.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

from ...errors import ConflictError
from .hub_users import TASKS_NOTE, HubToken, HubUsers, tasks_scopes

#: How long a token is good.
TOKEN_SECONDS = 3600.0
#: A token that is good for less is replaced before it is used.
_LEAST_SECONDS = 900.0


class TaskTokens:
    """Short-lived tokens of agents.

    Parameters
    ----------
    users
        Mints them.
    is_active
        Whether an agent may have one.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self, users: HubUsers, is_active: Callable[[str], bool], clock: Callable[[], float] = time.time
    ) -> None:
        self._users, self._is_active, self._clock = users, is_active, clock
        self._tokens: dict[str, HubToken] = {}
        self._minting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, agent: str) -> str:
        """Return a token that is good for a quarter of an hour at least.

        Raises
        ------
        ConflictError
            The agent is not active.
        HubApiError
            The Hub made none.
        """
        async with self._minting[agent]:
            self._check(agent)
            kept = self._tokens.get(agent)
            if kept is None or kept.expires_at - self._clock() < _LEAST_SECONDS:
                kept = await self._mint(agent)
            return kept.token

    async def _mint(self, agent: str) -> HubToken:
        made = await self._users.mint(agent, tasks_scopes(agent), TOKEN_SECONDS, TASKS_NOTE)
        if not self._is_active(agent):  # suspended in between, perhaps after its tokens were listed
            await self._users.revoke(agent)
        self._check(agent)
        self._tokens[agent] = made
        return made

    def _check(self, agent: str) -> None:
        if not self._is_active(agent):
            raise ConflictError(f"the agent {agent} is not active: its servers are not reached")

    def forget(self, agent: str) -> None:
        """Use the agent's token no more: it was revoked, or a server refused it."""
        self._tokens.pop(agent, None)
