"""Registry: who is an agent, and what becomes of it.

::

    register ──▶ active ◀──resume── suspended
                   │  └──suspend──────▲ │
                   └─────retire─────────┴──▶ retired      the name stays reserved; expiry retires too

The agents are kept in memory and in the database. A change is written down before anything else is done about it;
what Hub and controller have to do for it is then done by :mod:`.settling`, again and again until it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from traitlets.config import LoggingConfigurable

from ...errors import AgentFarmError, ConflictError, HubApiError, InvalidField
from ...faults import Edge
from ...logs import LogLine
from ...tasks import OwnedTasks
from ...traitlets import Seconds
from ..models import Agent, AgentRequest, AgentState, NewToken
from .archive import Archiver
from .hub_users import TASKS_NOTE, HubUsers, activity
from .known import KnownAgents
from .limits import FarmLimits, limits_of
from .names import ReservedNames
from .registering import Registrar
from .requests import AgentChange
from .settling import Settler
from .store import STORE_ERRORS, AgentStore, Stage, taken
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
        self._left: dict[str, str] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._owned = OwnedTasks(self.log)
        self._registrar = Registrar(store, users, limits, clock)
        self._settler = Settler(users, limits, self.stop_timeout)
        #: Who follows all agents: see :data:`~.known.AGENTS`.
        self.followers = self._known.followers
        #: For the servers of agents.
        self.tokens = TaskTokens(users, self.is_active, clock)
        self._settler.revoked.append(self.tokens.forget)
        #: Who ends the tasks of an agent that is suspended or retired.
        self.holds = self._settler.holds
        #: Who is told that the tokens of an agent were revoked.
        self.revoked = self._settler.revoked
        #: Packs the files of agents that are retired.
        self.archiver: Archiver | None = None
        #: Who is told of an agent whose record was changed: as it was, and as it is.
        self.changed: list[Callable[[Agent, Agent], None]] = []

    # ---- life ----

    async def open(self) -> None:
        """Read the agents, and begin to look after them."""
        await self._known.load()
        await self.reserved.save_quietly()
        self._owned.start(self._look_after(), "looking after agents")

    async def close(self) -> None:
        """Finish; a second call does nothing."""
        await self._owned.aclose()
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
        kept = self._known.kept(name)
        return "" if kept is None or kept.stage == "ready" else self._left.get(name) or "its servers are stopping"

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
            self._check_free(request.name)
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
            agent = self._in_state(name, "active")
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
            return await self._end(name, ("retired",), "retired", kept.agent.detail)
        if not archive:
            return await self._end(name, ("active", "suspended"), "retired", detail)
        self._in_state(name, "active", "suspended")
        self._archiver().check(name)
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
            agent = self._in_state(name, "suspended")
            if self.left_to_do(name):  # or tokens that were to be revoked would be good again
                await self._settler.settle(agent)
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
            agent = self._in_state(name, "active", "suspended")
            changed = change.applied(agent, self._clock())
            limits_of(changed)  # refuses what the controller would
            if changed.owner != agent.owner:
                await self._check_owner(changed.owner)
            if agent.state == "active":
                await self._limits.allow(changed)
            stage: Stage = "settling" if self.left_to_do(name) else "ready"
            changed = await self._known.save(changed, stage)
            for callback in self.changed:
                callback(agent, changed)
        self.log.info("%s", LogLine("agent changed", agent=name, by=by, owner=changed.owner,
                                    expires=changed.expires_at))  # fmt: skip
        return changed

    # ---- inside ----

    async def _check_owner(self, owner: str) -> None:
        if not owner or self.find(owner) is not None or await self._users.find(owner) is None:
            raise InvalidField("owner", "a user of the Hub who is no agent", owner)

    def _in_state(self, name: str, *states: AgentState) -> Agent:
        agent = self.agent(name)
        if agent.state not in states:
            raise ConflictError(f"the agent {name} is {agent.state}, not {' or '.join(states)}")
        return agent

    def _archiver(self) -> Archiver:
        if self.archiver is None:
            raise ConflictError("workspaces cannot be archived here: keep it")
        return self.archiver

    async def _end(
        self,
        name: str,
        states: tuple[AgentState, ...],
        state: AgentState,
        detail: str,
        stage: Stage = "settling",
    ) -> Agent:
        async with self._locks[name]:
            agent = self._in_state(name, *states)
            ended_at = self._clock() if state == "retired" else None
            agent = replace(agent, state=state, detail=detail, ended_at=ended_at)
            await self._known.save(agent, stage)
            self.tokens.forget(name)
        self.log.info("%s", LogLine(f"agent {state}", agent=name, detail=detail))
        settling = self._owned.start(self._quietly(self._settle(name), name), f"settling {name}")
        await asyncio.wait({settling}, timeout=self.patience)
        return self.agent(name)

    def _check_free(self, name: str) -> None:
        known = self._known.kept(name)
        if known is not None and known.stage == "registering":
            raise ConflictError(f"an earlier registration of {name} is still being undone: try again in a minute")
        if known is not None:
            raise ConflictError(taken(known.agent))

    # ---- what is done again and again ----

    async def _look_after(self) -> None:
        while True:
            await self._quietly(self._retire_expired())
            for name in (*self._known.in_stage("settling"), *self._known.in_stage("archiving")):
                self._owned.start_single(self._quietly(self._settle(name), name), f"settling {name} again")
            for name in self._known.in_stage("registering"):
                await self._quietly(self._undo(name), name)
            await self._quietly(self._note_activity())
            await self._quietly(self._known.save_seen())
            await asyncio.sleep(self._pause())

    async def _quietly(self, work: Coroutine[Any, Any, None], name: str = "") -> None:
        """Do work that is tried again when it fails."""
        try:
            with Edge(self.log, "looking after agents failed, it is tried again", (AgentFarmError, *STORE_ERRORS)):
                await work
                self._left.pop(name, None)
        except (AgentFarmError, *STORE_ERRORS) as exc:
            self._left[name] = message = exc.message if isinstance(exc, AgentFarmError) else str(exc)
            self.log.warning("%s", LogLine("agents are looked after again later", agent=name or None, detail=message))

    async def _settle(self, name: str) -> None:
        async with self._locks[name]:
            kept = self._known.kept(name)
            if kept is not None and kept.stage == "archiving":
                await self._archive(kept.agent)
                kept = self._known.kept(name)
            if kept is not None and kept.stage == "settling":
                await self._settler.settle(kept.agent)
                await self._known.save(kept.agent, "ready")
                self.log.info("%s", LogLine("agent settled", agent=name, state=kept.agent.state))

    async def _archive(self, agent: Agent) -> None:
        await self._settler.close(agent)
        path = await self._archiver().pack(agent.name)
        await self._known.save(replace(agent, detail=f"{agent.detail}; its files are in {path}"), "settling")
        self.log.info("%s", LogLine("agent archived", agent=agent.name, path=path))

    async def _undo(self, name: str) -> None:
        async with self._locks[name]:
            await self._registrar.undo(name)
            await self._known.read_again(name)
            await self.reserved.save_quietly()
        self.log.info("%s", LogLine("registration undone", agent=name))

    async def _retire_expired(self) -> None:
        now = self._clock()
        for agent in self.agents():
            if agent.state != "retired" and agent.expires_at is not None and agent.expires_at <= now:
                await self._end(agent.name, ("active", "suspended"), "retired", "expired")

    async def _note_activity(self) -> None:
        if any(agent.state == "active" for agent in self.agents()):
            for name, at in (await self._users.active_at()).items():
                if self.is_active(name):
                    self._known.seen(name, at)

    def _pause(self) -> float:
        """Return how long until the agents are looked at again: not beyond the next expiry."""
        ends = [agent.expires_at for agent in self.agents() if agent.state != "retired" and agent.expires_at]
        soonest = min((end - self._clock() for end in ends), default=self.check_interval)
        return float(max(0.05, min(self.check_interval, soonest)))
