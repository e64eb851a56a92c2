"""Aftercare: what is still to be done about agents is done again and again until it is.

What a decision asks of Hub and controller, the undoing of a registration that did not come to its end, archives,
expiry, and when agents were active at the Hub: what fails is logged, told as `left_to_do`, and tried again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, replace
from logging import Logger
from typing import Any

from ...errors import AgentFarmError
from ...faults import Edge
from ...logs import LogLine
from ...tasks import OwnedTasks
from ..models import Agent
from .hub_users import HubUsers
from .known import KnownAgents
from .names import ReservedNames
from .packing import Packing
from .registering import Registrar
from .settling import Settler
from .store import STORE_ERRORS


@dataclass(frozen=True)
class Hands:
    """Those who do it."""

    users: HubUsers
    registrar: Registrar
    settler: Settler
    packing: Packing
    reserved: ReservedNames


class Aftercare:
    """Looks after the agents of a registry.

    Parameters
    ----------
    known
        The agents.
    hands
        Who does what is to be done.
    locks
        One for each agent: whoever changes it has it.
    log
        The registry's.
    """

    def __init__(self, known: KnownAgents, hands: Hands, locks: defaultdict[str, asyncio.Lock], log: Logger) -> None:
        self._known, self._hands, self._locks, self._log = known, hands, locks, log
        self._left: dict[str, str] = {}
        self._owned = OwnedTasks(log)
        #: Gives the names of agents with tasks that have not ended.
        self.busy: Callable[[], Awaitable[Collection[str]]] | None = None

    def start(self, interval_seconds: float, retire: Callable[[str], Awaitable[object]]) -> None:
        """Begin to look after agents, as often as this; `retire` retires one that has expired."""
        self._owned.start(self._look_after(interval_seconds, retire), "looking after agents")

    async def aclose(self) -> None:
        """Do nothing more; a second call does nothing."""
        await self._owned.aclose()

    def left_to_do(self, name: str) -> str:
        """Return what Hub and controller still have to do until they are as the agent's record says; "": nothing."""
        kept = self._known.kept(name)
        if kept is None or kept.stage == "ready":
            return ""
        active = self._known.is_active(name)
        return self._left.get(name) or ("its limits change" if active else "its servers are stopping")

    async def settle_soon(self, name: str, seconds: float) -> None:
        """Begin to do what is left to do, and return when it is done, or takes longer than this."""
        settling = self._owned.start(self._settle_quietly(name), f"settling {name}")
        await asyncio.wait({settling}, timeout=seconds)

    # ---- again and again ----

    async def _look_after(self, interval_seconds: float, retire: Callable[[str], Awaitable[object]]) -> None:
        while True:
            await self._quietly(self._retire_expired(retire))
            await self._quietly(self._hold_retired())
            for name in filter(self._hands.packing.due, self._known.in_stage("settling", "moving", "archiving")):
                self._owned.start_single(self._settle_quietly(name), f"settling {name} again")
            for name in self._known.in_stage("registering"):
                await self._quietly(self._undo(name), name)
            await self._quietly(self._note_activity())
            await self._quietly(self._known.save_seen())
            # Not beyond the next expiry.
            await asyncio.sleep(max(0.05, min(interval_seconds, self._known.until_expiry(interval_seconds))))

    async def _quietly(self, work: Coroutine[Any, Any, None], name: str = "") -> None:
        """Do work that is tried again when it fails."""
        try:
            with Edge(self._log, "looking after agents failed, it is tried again", (AgentFarmError, *STORE_ERRORS)):
                await work
                self._left.pop(name, None)
        except (AgentFarmError, *STORE_ERRORS) as exc:
            self._left[name] = message = exc.message if isinstance(exc, AgentFarmError) else str(exc)
            self._log.warning("%s", LogLine("agents are looked after again later", agent=name or None, detail=message))

    async def _settle_quietly(self, name: str) -> None:
        await self._quietly(self._settle(name), name)

    async def _settle(self, name: str) -> None:
        async with self._locks[name]:
            kept = self._known.kept(name)
            if kept is not None and kept.stage == "archiving":
                await self._archive(kept.agent)
                kept = self._known.kept(name)
            if kept is not None and kept.stage in ("settling", "moving"):
                await self._hands.settler.settle(kept.agent, kept.stage)
                await self._known.save(kept.agent, "ready")
                self._log.info("%s", LogLine("agent settled", agent=name, state=kept.agent.state))

    async def _archive(self, agent: Agent) -> None:
        await self._hands.settler.close(agent)
        path = await self._hands.packing.pack(agent.name)
        if path is None:
            return
        await self._known.save(replace(agent, detail=f"{agent.detail}; its files are in {path}"), "settling")
        self._log.info("%s", LogLine("agent archived", agent=agent.name, path=path))

    async def _undo(self, name: str) -> None:
        async with self._locks[name]:
            await self._hands.registrar.undo(name)
            await self._known.read_again(name)
            await self._hands.reserved.save_quietly()
        self._log.info("%s", LogLine("registration undone", agent=name))

    async def _retire_expired(self, retire: Callable[[str], Awaitable[object]]) -> None:
        for name in self._known.expired():
            await retire(name)

    async def _hold_retired(self) -> None:
        """End the tasks that came to an agent while it was retired, by a request that had been let in before."""
        for name in await self.busy() if self.busy is not None else ():
            agent = self._known.find(name)
            if agent is not None and agent.state == "retired":
                await self._hands.settler.hold(name, "agent_retired")

    async def _note_activity(self) -> None:
        if any(agent.state == "active" for agent in self._known.agents()):
            for name, at in (await self._hands.users.active_at()).items():
                if self._known.is_active(name):
                    self._known.seen(name, at)
