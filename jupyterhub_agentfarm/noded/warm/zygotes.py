"""The zygotes of a node: which launch one is for, when they are made anew, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from pathlib import Path

from jupyterhub_agentfarm.models import ColdReason, LaunchSpec, WarmStarts

from ..isolation.layers import Confined
from .choosing import differing, why_cold
from .environments import Environment, environment_of
from .forking import Rising, fork
from .making import Zygote, ZygoteDied, make
from .quiet import quiet
from .surveying import Unfit

log = logging.getLogger(__name__)

#: How often the environments are looked at, in seconds; each start looks as well.
LOOK_SECONDS = 30.0
#: How long an environment that cannot be kept warm is left alone, in seconds, or until it changes.
_RETRY_SECONDS = 600.0
#: Where no turn began or ended for so long, the starts that have them hang, and others do not wait for them.
_HANGS_SECONDS = 5.0
#: Most variables that a survey is told of because a server had them.
_MOST_NAMES = 64


@dataclass(frozen=True)
class WarmOptions:
    """What an admin chose; see the options of :class:`~..app.NodedApp`."""

    enabled: bool = True
    environments: int = 2
    renew_after_starts: int = 500
    renew_after_seconds: float = 86400.0
    #: How long a forked server may take to answer.
    start_seconds: float = 20.0


@dataclass
class _Kept:
    """One environment."""

    environment: Environment
    zygote: Zygote | None = None
    making: asyncio.Task[None] | None = None
    #: Variables that its servers have, as far as they mattered.
    names: set[str] = field(default_factory=set)
    unfit: str = ""
    unfit_at: float = 0.0

    @property
    def busy(self) -> bool:
        """A zygote is being made."""
        return self.making is not None and not self.making.done()


class Zygotes:
    """The zygotes of one noded.

    Parameters
    ----------
    options
        What an admin chose.
    folder
        Where surveys are kept, and which environments there are.
    """

    def __init__(self, options: WarmOptions, folder: Path) -> None:
        self.options, self._folder = options, folder
        self._kept: dict[Environment, _Kept] = {}
        self._warm = 0
        self._cold: Counter[str] = Counter()
        # More at once would only wait for each other's processor time, and for longer than one of them may take.
        self._turns = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._turn_moved_at = time.monotonic()

    # ---- a launch ----

    @contextlib.asynccontextmanager
    async def turn(self, spec: LaunchSpec) -> AsyncIterator[None]:
        """Wait for a warm start's turn, when it is to be one as far as is known."""
        warm = any(kept.zygote and kept.environment.python == spec.command[0] for kept in self._kept.values())
        if not (warm and await self._came()):
            yield
            return
        self._turn_moved_at = time.monotonic()
        try:
            yield
        finally:
            self._turn_moved_at = time.monotonic()
            self._turns.release()

    async def _came(self) -> bool:
        """Wait for a turn; False when all of them hang, and waiting is of no use."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HANGS_SECONDS):
                    return await self._turns.acquire()
            if time.monotonic() - self._turn_moved_at >= _HANGS_SECONDS:
                return False

    async def start(self, spec: LaunchSpec, confined: Confined, log_fd: int) -> Rising | None:
        """Return a forked server, or None: it is to be started cold, which is counted."""
        environment = environment_of(spec, dict(confined.environment))
        reason: ColdReason | None = "off" if not self.options.enabled else why_cold(environment, confined)
        if reason is None and environment is not None:
            found = await self._ready(self._of(environment), confined)
            if isinstance(found, Zygote):
                with contextlib.suppress(ZygoteDied):
                    rising = await asyncio.to_thread(fork, spec, found, confined, log_fd)
                    self._warm += 1
                    return rising
                self._of(environment).zygote = None
                self._make(self._of(environment))
                found = "failed"
            reason = found
        self._cold[reason or "failed"] += 1
        return None

    def gave_up(self, outcome: str) -> None:
        """Count a start that was tried warm, and is tried cold now."""
        self._warm -= 1
        self._cold["user_site" if outcome == "user_site" else "failed"] += 1

    def _of(self, environment: Environment) -> _Kept:
        return self._kept.setdefault(environment, _Kept(environment))

    async def _ready(self, kept: _Kept, confined: Confined) -> Zygote | ColdReason:
        zygote = kept.zygote
        if zygote is None or zygote.process.poll() is not None:
            kept.zygote = None
            self._make(kept)
            return "unfit" if kept.unfit else "no_zygote"
        if await asyncio.to_thread(zygote.changed):
            await self._drop(kept)
            self._make(kept)
            return "renewing"
        if names := differing(zygote.reads, confined.environment) - kept.names:
            if len(kept.names) < _MOST_NAMES:
                kept.names |= names
                self._make(kept)
            return "variables"
        if differing(zygote.reads, confined.environment):
            return "variables"
        if self._old(zygote):
            self._make(kept)
        return zygote

    def _old(self, zygote: Zygote) -> bool:
        age = time.monotonic() - zygote.made_at
        return zygote.starts >= self.options.renew_after_starts or age >= self.options.renew_after_seconds

    # ---- making them ----

    def _make(self, kept: _Kept) -> None:
        """Have a zygote made; the one that there is stays in use until it is there."""
        if kept.busy or (kept.unfit and time.monotonic() - kept.unfit_at < _RETRY_SECONDS):
            return
        if kept.zygote is None and sum(each.zygote is not None or each.busy for each in self._kept.values()) >= (
            self.options.environments
        ):
            kept.unfit, kept.unfit_at = "more environments than NodedApp.warm_environments allows", time.monotonic()
            return
        kept.making = asyncio.create_task(self._made(kept))

    async def _made(self, kept: _Kept) -> None:
        await quiet()  # the start that has asked for it, and was cold, comes first
        began = time.monotonic()
        try:
            zygote = await make(kept.environment, kept.names, self._folder)
        except (Unfit, OSError, ValueError) as exc:
            kept.unfit, kept.unfit_at = str(exc), time.monotonic()
            log.warning("%s is not kept warm: %s", kept.environment.python, exc)
            return
        old, kept.zygote, kept.unfit = kept.zygote, zygote, ""
        log.info("%s is warm after %.1f s", kept.environment.python, time.monotonic() - began)
        if old is not None:
            await asyncio.to_thread(old.close)
        await asyncio.to_thread(self._remember)

    async def _drop(self, kept: _Kept) -> None:
        zygote, kept.zygote = kept.zygote, None
        kept.unfit = ""
        if zygote is not None:
            await asyncio.to_thread(zygote.close)

    # ---- over time ----

    async def run(self) -> None:
        """Warm what an earlier noded had warm, and keep it so, until cancelled."""
        for environment, names in await asyncio.to_thread(self._remembered):
            kept = self._of(environment)
            kept.names |= names
            self._make(kept)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for kept in list(self._kept.values()):
                await self._look(kept)

    async def _look(self, kept: _Kept) -> None:
        zygote = kept.zygote
        if zygote is None:
            return
        if zygote.process.poll() is not None:
            kept.zygote = None
        elif await asyncio.to_thread(zygote.changed):
            await self._drop(kept)
        elif not self._old(zygote):
            return
        self._make(kept)

    def _memory(self) -> Path:
        return self._folder / "environments"

    def _remember(self) -> None:
        found = [
            (kept.environment.python, kept.environment.variables, sorted(kept.names)) for kept in self._warm_ones()
        ]
        with contextlib.suppress(OSError):  # a full disk: the next noded's first start is cold
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._memory().write_text(json.dumps(found), "utf-8")

    def _remembered(self) -> list[tuple[Environment, set[str]]]:
        try:
            found = json.loads(self._memory().read_text("utf-8"))
            return [
                (Environment(python, tuple((name, value) for name, value in variables)), set(names))
                for python, variables, names in found
            ]
        except (OSError, ValueError):
            return []

    def _warm_ones(self) -> list[_Kept]:
        return [kept for kept in self._kept.values() if kept.zygote is not None]

    def report(self) -> WarmStarts:
        """Return what is told of it."""
        counted = {"warm": self._warm, "cold": dict(self._cold)}
        if not self.options.enabled:
            return WarmStarts("off", "NodedApp.warm_servers is off", **counted)  # type: ignore[arg-type]
        if self._warm_ones():
            return WarmStarts("warm", "", **counted)  # type: ignore[arg-type]
        if any(kept.busy for kept in self._kept.values()):
            return WarmStarts("warming", "it is being made", **counted)  # type: ignore[arg-type]
        why = next((kept.unfit for kept in self._kept.values() if kept.unfit), self._why_never())
        return WarmStarts("cold", why, **counted)  # type: ignore[arg-type]

    def _why_never(self) -> str:
        most = self._cold.most_common(1)
        sentences = {
            "program": "servers start another program than the farm's",
            "sandbox": "servers are in a sandbox, which a forked process cannot be put into",
            "limiter": "systemd limits servers, and busctl is not installed",
            "variables": "servers have variables, as LD_LIBRARY_PATH, that only an executed program heeds",
        }
        return sentences.get(most[0][0], "") if most else "no server was started yet"

    async def close(self) -> None:
        """End the zygotes. Servers go on."""
        tasks: list[Awaitable[None]] = [kept.making for kept in self._kept.values() if kept.making is not None]
        for kept in self._kept.values():
            if kept.making is not None:
                kept.making.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for kept in self._kept.values():
            await self._drop(kept)
