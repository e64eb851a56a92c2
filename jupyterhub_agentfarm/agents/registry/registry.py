"""Registry: who is an agent, and what becomes of it.

::

    register ──▶ active ◀──resume── suspended
                   │  └──suspend──────▲ │
                   └─────retire─────────┴──▶ retired      the name stays reserved; expiry retires too

The agents are kept in memory and in the database. A change is written down before anything else is done about it;
what Hub and controller have to do for it is then done by :mod:`.settling`, again and again until it is done
(:mod:`.aftercare`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from traitlets.config import LoggingConfigurable

from ...errors import HubApiError, InvalidField
from ...logs import LogLine
from ...traitlets import Seconds
from ..models import Agent, AgentRequest, AgentState, NewToken
from .aftercare import Aftercare, Hands
from .hub_users import TASKS_NOTE, HubUsers, activity
from .known import KnownAgents
from .limits import FarmLimits, limits_of
from .names import ReservedNames
from .packing import Packing
from .registering import Registrar
from .requests import AgentChange
from .settling import Settler, stage_after
from .store import AgentStore, Stage
from .tokens import TaskTokens


class Registry(LoggingConfigurable):
    """The agents of this Hub.

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

    check_interval = Seconds(
        15,
        help="How often agents are looked at, in seconds: whether one has expired, whether something is left to do "
        "for one that was suspended or retired, and when they were active at the Hub. Smaller: expiry is kept more "
        "exactly; larger: less work for the Hub.",
    ).tag(config=True)
    patience = Seconds(
        20,
        help="How long a request to suspend or retire an agent waits until its servers are stopped, in seconds. After "
        "that it is answered, and the work goes on.",
    ).tag(config=True)
    stop_timeout = Seconds(
        60, help="How long servers of an agent may take to end, in seconds, before they are asked to end anew."
    ).tag(config=True)

    def __init__(
        self,
        store: AgentStore,
        users: HubUsers,
        limits: FarmLimits,
        clock: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._users, self._limits, self._clock = users, limits, clock
        self._known = KnownAgents(store, clock)
        #: Their names, for the Hub.
        self.reserved = ReservedNames(self._known.names)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._registrar = Registrar(store, users, limits, clock)
        self._settler = Settler(users, limits, self.stop_timeout)
        #: Who follows all agents: see :data:`~.known.AGENTS`.
        self.followers = self._known.followers
        #: For the servers of agents.
        self.tokens = TaskTokens(users, self.is_active, clock)
        self._settler.revoked.append(self.tokens.forget)
        #: Who ends the tasks of an agent that is suspended or retired.
        self.holds = self._settler.holds
        #: How often the tokens of each agent were revoked.
        self.revocations = self._settler.revocations
        #: Who is told that the tokens of an agent were revoked.
        self.revoked = self._settler.revoked
        #: Packs the files of agents that are retired.
        self.packing = Packing()
        hands = Hands(users, self._registrar, self._settler, self.packing, self.reserved)
        #: Does what is left to do.
        self.aftercare = Aftercare(self._known, hands, self._locks, self.log)
        #: Who is told of an agent whose record was changed: as it was, and as it is.
        self.changed: list[Callable[[Agent, Agent], None]] = []

    # ---- life ----

    async def open(self) -> None:
        """Read the agents, and begin to look after them."""
        await self._known.load()
        await self.reserved.save_quietly()
        self.aftercare.start(self.check_interval, self._expire)

    async def close(self) -> None:
        """Finish; a second call does nothing."""
        await self.aftercare.aclose()
        await self._known.save_seen()

    # ---- for those who ask ----

    def find(self, name: str) -> Agent | None:
        """Return the agent of this name, or None."""
        return self._known.find(name)

    def agent(self, name: str) -> Agent:
        """Return the agent of this name.

        Raises
        ------
        NotFoundError
            There is none.
        """
        return self._known.agent(name)

    def agents(self) -> list[Agent]:
        """Return all agents, the retired ones too, by name."""
        return self._known.agents()

    def is_active(self, name: str) -> bool:
        """Whether there is an active agent of this name."""
        return self._known.is_active(name)

    def seen(self, name: str) -> None:
        """Note that an agent did something just now."""
        self._known.seen(name)

    def left_to_do(self, name: str) -> str:
        """Return what Hub and controller still have to do until they are as the agent's record says; "": nothing."""
        return self.aftercare.left_to_do(name)

    async def note_activity_of(self, name: str) -> None:
        """Ask the Hub when an active agent was active last; where it does not answer, that stays as it was known."""
        if self.is_active(name):
            with contextlib.suppress(HubApiError):
                at = activity(await self._users.find(name) or {})
                if at is not None:
                    self._known.seen(name, at)

    # ---- for admins ----

    async def register(self, request: AgentRequest, by: str, kind: str = "user") -> tuple[Agent, NewToken]:
        """Register an agent; return it and its token, which nobody can read again.

        Parameters
        ----------
        by
            Who asks.
        kind
            What `by` is; only a "user" is the owner unless one is named.

        Raises
        ------
        InvalidField
            A field cannot be used.
        ConflictError
            The name is taken, or the Hub refuses the user or a group.
        """
        owner = request.owner or (by if kind == "user" else "")
        async with self._locks[request.name]:
            self._known.check_free(request.name)
            await self._check_owner(owner)
            async with self.reserved.coming(request.name):
                try:
                    agent, token = await self._registrar.register(request, owner, by)
                finally:
                    await self._known.read_again(request.name)
        self.log.info("%s", LogLine("agent registered", agent=agent.name, owner=agent.owner, by=by,
                                    expires=agent.expires_at, token_expires=token.expires_at))  # fmt: skip
        self._known.tell(agent.name)
        return agent, token

    async def rotate(self, name: str, by: str, seconds: float) -> NewToken:
        """Revoke an agent's tokens and return a new one; tasks and servers go on.

        Raises
        ------
        NotFoundError
            There is no such agent.
        ConflictError
            It is not active.
        """
        async with self._locks[name]:
            agent = self._known.in_state(name, "active")
            await self._settler.revoke(name, (TASKS_NOTE,))
            token = await self._registrar.mint(agent, seconds)
        self.log.info("%s", LogLine("token of agent replaced", agent=name, by=by, token_expires=token.expires_at))
        return token

    async def suspend(self, name: str, by: str, reason: str = "") -> Agent:
        """Stop an agent's servers, revoke its tokens and hold its tasks.

        What is not done when this returns is tried until it is: see :meth:`left_to_do`.

        Raises
        ------
        NotFoundError
            There is no such agent.
        ConflictError
            It is not active.
        """
        return await self._end(name, ("active",), "suspended", f"{reason} ({by})" if reason else f"by {by}")

    async def retire(self, name: str, by: str, reason: str = "", *, archive: bool = False) -> Agent:
        """Stop an agent's servers, revoke its tokens, cancel its tasks and delete its Hub user, for good.

        What is not done when this returns is tried until it is: see :meth:`left_to_do`. With `archive` its files are
        packed before its servers are stopped; where that does not come to an end, retiring it again without ends it.

        Raises
        ------
        NotFoundError
            There is no such agent.
        ConflictError
            It is retired already, or its files cannot be packed because no server of it runs.
        """
        detail = f"{reason} ({by})" if reason else f"by {by}"
        kept = self._known.kept(name)
        if kept is not None and kept.stage == "archiving" and not archive:
            self.packing.drop(name)  # it has the lock
            return await self._end(name, ("retired",), "retired", kept.agent.detail)
        if not archive:
            return await self._end(name, ("active", "suspended"), "retired", detail)
        self._known.in_state(name, "active", "suspended")
        self.packing.check(name)
        return await self._end(name, ("active", "suspended"), "retired", detail, "archiving")

    async def resume(self, name: str, by: str) -> Agent:
        """Let a suspended agent work again; it needs a new token, which :meth:`rotate` gives.

        Raises
        ------
        NotFoundError
            There is no such agent.
        ConflictError
            It is not suspended.
        """
        async with self._locks[name]:
            agent = self._known.in_state(name, "suspended")
            kept = self._known.kept(name)
            if kept is not None and kept.stage != "ready":  # or tokens that were to be revoked would be good again
                await self._settler.settle(agent, kept.stage)
            await self._limits.allow(agent)
            agent = await self._known.save(replace(agent, state="active", detail=""), "ready")
        self.log.info("%s", LogLine("agent resumed", agent=name, by=by))
        return agent

    async def change(self, name: str, change: AgentChange, by: str) -> Agent:
        """Change what an agent is and may have; what it holds beyond new limits it keeps until it ends.

        Raises
        ------
        NotFoundError
            There is no such agent.
        ConflictError
            It is retired.
        InvalidField
            The owner is no user of the Hub, or a label or kernel is none.
        """
        async with self._locks[name]:
            agent = self._known.in_state(name, "active", "suspended")
            changed = change.applied(agent, self._clock())
            limits_of(changed)  # refuses what the controller would
            if changed.owner != agent.owner:
                await self._check_owner(changed.owner)
            kept = self._known.kept(name)
            assert kept is not None  # it is in one of these states
            changed = await self._known.save(changed, stage_after(kept, changed))
            for callback in self.changed:
                callback(agent, changed)
        await self.aftercare.settle_soon(name, self.patience)
        self.log.info("%s", LogLine("agent changed", agent=name, by=by, owner=changed.owner,
                                    expires=changed.expires_at))  # fmt: skip
        return self.agent(name)

    # ---- inside ----

    async def _check_owner(self, owner: str) -> None:
        if not owner or self.find(owner) is not None or await self._users.find(owner) is None:
            raise InvalidField("owner", "a user of the Hub who is no agent", owner)

    async def _expire(self, name: str) -> Agent:
        return await self._end(name, ("active", "suspended"), "retired", "expired")

    async def _end(
        self, name: str, states: tuple[AgentState, ...], state: AgentState, detail: str, stage: Stage = "settling"
    ) -> Agent:
        async with self._locks[name]:
            agent = self._known.in_state(name, *states)
            ended_at = self._clock() if state == "retired" else None
            agent = replace(agent, state=state, detail=detail, ended_at=ended_at)
            moving = stage == "settling" and name in self._known.in_stage("moving")
            await self._known.save(agent, "moving" if moving else stage)
            self.tokens.forget(name)
        self.log.info("%s", LogLine(f"agent {state}", agent=name, detail=detail))
        await self.aftercare.settle_soon(name, self.patience)
        return self.agent(name)
