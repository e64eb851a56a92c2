"""Registration: an agent comes into being at the Hub, at the controller and here, or nowhere.

The steps, each of which is undone when a later one fails, or when the service is killed before the last::

    1. a row in the database, marked as registering; it holds the name
    2. a Hub user, in the group `agents` and those of its projects
    3. its limits at the controller, before it can ask for anything
    4. a token
    5. the row is marked as ready
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import AgentFarmError, ConflictError, InvalidField
from ...faults import undone
from ..models import Agent, AgentRequest, NewToken
from .hub_users import AGENT_NOTE, GROUP, HubUsers, activity, agent_scopes, taken_at_hub
from .limits import FarmLimits, limits_of
from .store import AgentStore, KeptAgent

log = logging.getLogger(__name__)

MAX_PROJECTS = 20


@dataclass(frozen=True)
class Registrar:
    """Makes agents, and undoes what did not become one.

    Parameters
    ----------
    store
        The agents in the database.
    users
        Their Hub users.
    limits
        Their limits at the controller.
    clock
        Seconds since the epoch.
    """

    store: AgentStore
    users: HubUsers
    limits: FarmLimits
    clock: Callable[[], float]

    async def register(self, request: AgentRequest, owner: str, by: str) -> tuple[Agent, NewToken]:
        """Make an agent and its first token.

        Raises
        ------
        InvalidField
            Labels, kernels or projects are none that can be.
        ConflictError
            The name is taken, or the Hub refuses the user or a group.
        """
        agent = self._agent(request, owner, by)
        # Asked for first: undoing must never delete a user that was there before.
        if await self.users.find(agent.name) is not None:
            raise taken_at_hub(agent.name)
        await self.store.add(agent)
        await self._make_user(agent.name)
        async with undone(lambda: self._undo_quietly(agent.name)):
            for group in (GROUP, *agent.projects):
                await self.users.join(agent.name, group)
            await self.limits.allow(agent)
            token = await self.mint(agent, request.token_expires_in_seconds)
            await self.store.save(KeptAgent(agent))
        return agent, token

    async def mint(self, agent: Agent, seconds: float) -> NewToken:
        """Make a token for an agent, which ends with the agent in any case."""
        if agent.expires_at is not None:
            seconds = max(1.0, min(seconds, agent.expires_at - self.clock()))
        made = await self.users.mint(agent.name, agent_scopes(agent.name), seconds, AGENT_NOTE)
        return NewToken(agent.name, made.token, made.expires_at)

    async def undo(self, name: str) -> None:
        """Undo a registration that has not come to its end; may be called again.

        A Hub user of this name who is no agent and has been active is a person's, and stays.
        """
        model = await self.users.find(name)
        if model is not None and (GROUP in model["groups"] or activity(model) is None):
            await self.users.delete(name)
        await self.limits.drop(name)
        await self.store.remove(name)

    async def _make_user(self, name: str) -> None:
        try:
            await self.users.create(name)
        except ConflictError:  # then a user of this name is somebody else's
            await self.store.remove(name)
            raise
        except AgentFarmError:
            await self._undo_quietly(name)
            raise

    async def _undo_quietly(self, name: str) -> None:
        try:
            await self.undo(name)
        except AgentFarmError as exc:
            log.warning("the registration of %s could not be undone, it is tried again: %s", name, exc.message)

    def _agent(self, request: AgentRequest, owner: str, by: str) -> Agent:
        now, seconds = self.clock(), request.expires_in_seconds
        if len(request.projects) > MAX_PROJECTS or GROUP in request.projects:
            wanted = f"at most {MAX_PROJECTS} Hub groups other than {GROUP}"
            raise InvalidField("projects", wanted, list(request.projects))
        agent = Agent(
            name=request.name,
            description=request.description,
            owner=owner,
            labels=dict(request.labels),
            limits=request.limits,
            kernels=request.kernels,
            projects=request.projects,
            state="active",
            detail="",
            created_at=now,
            created_by=by,
            expires_at=None if seconds is None else now + seconds,
        )
        limits_of(agent)  # labels and kernels are refused before anything is made
        return agent
