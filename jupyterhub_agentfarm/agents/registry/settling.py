"""Settling: Hub, controller and tasks follow what was decided here about an agent.

A decision is written down first, and from then on this service refuses the agent. What others have to do for it can
fail, as when the Hub restarts; it is tried again until it is done, and every step may be done twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..models import Agent, TaskReason
from .hub_users import HubUsers
from .limits import FarmLimits, limits_of
from .store import KeptAgent, Stage

#: Ends the tasks of an agent, for a reason.
Hold = Callable[[str, TaskReason], Awaitable[object]]


@dataclass
class Settler:
    """Takes from agents what they may have no more.

    Parameters
    ----------
    users
        The Hub users of agents.
    limits
        Their limits at the controller.
    stop_seconds
        How long an agent's servers may take to end.
    """

    users: HubUsers
    limits: FarmLimits
    stop_seconds: float
    #: Who ends tasks.
    holds: list[Hold] = field(default_factory=list)
    #: How often the tokens of each agent were revoked.
    revocations: Counter[str] = field(default_factory=Counter)
    #: Called with the name of an agent whose tokens were revoked.
    revoked: list[Callable[[str], None]] = field(default_factory=list)

    async def settle(self, agent: Agent, stage: Stage = "settling") -> None:
        """Do what the agent's state asks for, and in the stage "moving" end the sharing with all but its owner.

        Raises
        ------
        AgentFarmError
            Something could not be done; all the rest was.
        """
        if agent.state == "retired":
            await _all(self._cut_off(agent.name, "agent_retired"))
            await self.users.delete(agent.name)  # and with it what was shared
            await self.limits.drop(agent.name)
            return
        if agent.state == "suspended":
            steps = self._cut_off(agent.name, "agent_suspended")
        else:
            steps = [self.limits.allow(agent)]
        if stage == "moving":
            steps.append(self.users.unshare(agent.name, agent.owner))
        await _all(steps)

    async def close(self, agent: Agent) -> None:
        """Let a retired agent do nothing more, while its servers still show its files.

        Raises
        ------
        AgentFarmError
            Something could not be done.
        """
        await self.revoke(agent.name)
        await self.limits.forbid(agent.name)
        await self.hold(agent.name, "agent_retired")

    async def hold(self, name: str, reason: TaskReason) -> None:
        """End the tasks of an agent."""
        for hold in self.holds:
            await hold(name, reason)

    async def revoke(self, name: str, keep_notes: tuple[str, ...] = ()) -> None:
        """Revoke an agent's tokens, and have those who remember them forget them."""
        self.revocations[name] += 1
        await self.users.revoke(name, keep_notes)
        for callback in self.revoked:
            callback(name)

    def _cut_off(self, name: str, reason: TaskReason) -> list[Awaitable[object]]:
        """Return what ends tasks, tokens and servers, and lets no server start."""
        steps: list[Awaitable[object]] = [hold(name, reason) for hold in self.holds]
        return [
            *steps, self.revoke(name), self.limits.forbid(name), self.users.stop_servers(name, self.stop_seconds)
        ]  # fmt: skip


def stage_after(before: KeptAgent, changed: Agent) -> Stage:
    """Return how far the outside world is when an agent's record was changed: what was left to do is so still."""
    if before.stage == "moving" or before.agent.owner != changed.owner:
        return "moving"
    return "settling" if limits_of(before.agent) != limits_of(changed) else before.stage


async def _all(steps: list[Awaitable[object]]) -> None:
    """Do all, and then raise what the first that failed raised."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
