"""KnownAgents: the agents in memory, as the database has them, and who is told when one changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ...errors import ConflictError
from ...services.followers import Followers
from ..access import unknown_agent
from ..models import Agent, AgentState
from .store import AgentStore, KeptAgent, Stage, taken

#: The topic of those who follow all agents; the events are `agent`, with the record.
AGENTS = "agents"


class KnownAgents:
    """All agents.

    Parameters
    ----------
    store
        The agents in the database.
    clock
        Seconds since the epoch.
    """

    def __init__(self, store: AgentStore, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._agents: dict[str, KeptAgent] = {}
        self._seen: dict[str, float] = {}
        self.followers = Followers()

    async def load(self) -> None:
        """Read the agents from the database."""
        self._agents = {kept.agent.name: kept for kept in await self._store.agents()}

    def names(self) -> set[str]:
        """Return all names that are taken, by retired agents and registrations that go on too."""
        return set(self._agents)

    def kept(self, name: str) -> KeptAgent | None:
        """Return what is kept under a name, a registration that goes on or is undone included."""
        return self._agents.get(name)

    def find(self, name: str) -> Agent | None:
        """Return the agent of this name, or None."""
        kept = self._agents.get(name)
        if kept is None or kept.stage == "registering":
            return None
        seen = self._seen.get(name)
        return kept.agent if seen is None else replace(kept.agent, last_seen_at=seen)

    def agent(self, name: str) -> Agent:
        """Return the agent of this name.

        Raises
        ------
        NotFoundError
            There is none.
        """
        found = self.find(name)
        if found is None:
            raise unknown_agent(name)
        return found

    def check_free(self, name: str) -> None:
        """Return when a new agent can have this name.

        Raises
        ------
        ConflictError
            It is taken.
        """
        known = self.kept(name)
        if known is not None and known.stage == "registering":
            raise ConflictError(f"an earlier registration of {name} is still being undone: try again in a minute")
        if known is not None:
            raise ConflictError(taken(known.agent))

    def in_state(self, name: str, *states: AgentState) -> Agent:
        """Return the agent of this name, which is in one of these states.

        Raises
        ------
        NotFoundError
            There is none.
        ConflictError
            It is in another state.
        """
        agent = self.agent(name)
        if agent.state not in states:
            raise ConflictError(f"the agent {name} is {agent.state}, not {' or '.join(states)}")
        return agent

    def agents(self) -> list[Agent]:
        """Return all agents, the retired ones too, by name."""
        return [agent for name in sorted(self._agents) if (agent := self.find(name)) is not None]

    def is_active(self, name: str) -> bool:
        """Whether there is an active agent of this name."""
        kept = self._agents.get(name)
        return kept is not None and kept.stage != "registering" and kept.agent.state == "active"

    def in_stage(self, *stages: Stage) -> list[str]:
        """Return the names of those in one of these stages."""
        return [name for name, kept in self._agents.items() if kept.stage in stages]

    def expired(self) -> list[str]:
        """Return the names of those whose time is over."""
        return [name for name, end in self._ends() if end <= self._clock()]

    def until_expiry(self, most: float) -> float:
        """Return how many seconds it is until the next one's time is over, and at most this many."""
        return min((end - self._clock() for _, end in self._ends()), default=most)

    def _ends(self) -> list[tuple[str, float]]:
        found = [(agent.name, agent.expires_at) for agent in self.agents() if agent.state != "retired"]
        return [(name, end) for name, end in found if end]

    async def save(self, agent: Agent, stage: Stage) -> Agent:
        """Keep an agent as it is now, and tell those who follow; return it."""
        kept = KeptAgent(agent, stage)
        await self._store.save(kept)
        self._agents[agent.name] = kept
        self.tell(agent.name)
        return self.agent(agent.name)

    async def read_again(self, name: str) -> None:
        """Know what the database knows: an agent, a registration that could not be undone, or nothing."""
        kept = await self._store.find(name)
        if kept is None:
            self._agents.pop(name, None)
        else:
            self._agents[name] = kept

    def tell(self, name: str) -> None:
        """Tell those who follow how an agent is now."""
        self.followers.tell(AGENTS, "agent", self.agent(name))

    def seen(self, name: str, at: float | None = None) -> None:
        """Note that an agent did something, now if no time is given."""
        known = self._seen.get(name) or self.agent(name).last_seen_at or 0.0
        self._seen[name] = max(known, self._clock() if at is None else at)

    async def save_seen(self) -> None:
        """Keep when agents were seen last."""
        changed, self._seen = self._seen, {}
        for name, at in changed.items():
            kept = self._agents.get(name)
            if kept is not None:
                self._agents[name] = replace(kept, agent=replace(kept.agent, last_seen_at=at))
        await self._store.save_seen(changed)
