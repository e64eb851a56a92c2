"""Acceptance test 20, second half: people start and stop servers while faults happen at random, for $SOAK_SECONDS.

``make soak`` runs ten minutes of it, ``make soak DURATION=24h`` a day. $SOAK_SEED repeats the choices of an earlier run
(their interleaving is the machine's). What must be so at the end: no orphan, no GPU with two servers at any look, no
server that the Hub believes in and that is not there, and a Hub and a controller that have not grown.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
import psutil
import pytest
import pytest_asyncio
from faults import faults, starts
from faults.farm import FaultFarm, fault_farm
from netns import NetnsNode
from waiting import eventually

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
SEED = os.environ.get("SOAK_SEED") or secrets.token_hex(4)
DOWN_AFTER = 8
PEOPLE = 12
CALM_SECONDS = 60

#: What a request meets while the Hub is started again; ValueError: an error page instead of JSON.
AWAY = (OSError, TimeoutError, ValueError, KeyError, aiohttp.ClientError)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 600)]

#: Fault, its end, and for how many seconds at most it lasts.
FAULTS: tuple[tuple[Callable[[NetnsNode], None], Callable[[NetnsNode], None], float], ...] = (
    (faults.kill_sshd, faults.start_sshd, 3),
    (faults.kill_noded, lambda _: None, 0),
    (faults.freeze, faults.thaw, 5),
    (faults.drop, faults.undrop, 5),
    (faults.partition, faults.heal, 2 * DOWN_AFTER),
    (faults.power_off, faults.power_on, 2 * DOWN_AFTER),
    (faults.fill_disk, faults.free_disk, 5),
    (faults.missing_interpreter, faults.put_interpreter, 5),
)


@dataclass
class Soak:
    """The farm, the choices, and what was counted."""

    farm: FaultFarm
    counts: Counter[str] = field(default_factory=Counter)
    shared_gpus: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def pause(self, seconds: float) -> None:
        """Wait, or until all is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)

    async def person(self, name: str) -> None:
        """Start a server, use it, stop it, again and again."""
        choose = random.Random(f"{SEED}-{name}")  # noqa: S311 - a trace
        while not self.over.is_set():
            options = {"gpus": choose.choice((0, 1, 1, 2)), "restart": choose.choice(("never", "on-node-failure"))}
            try:
                await starts.start(self.farm, name, options, 60)
                self.counts["started"] += 1
                await self.pause(choose.uniform(0.2, 4))
                self.counts["answered"] += (await self.farm.get(name, "who"))[0] == 200
            except starts.StartFailed:
                self.counts["not started"] += 1
                await self.pause(1)
            except AWAY:
                self.counts["Hub away"] += 1
                await self.pause(1)
            await self._stop(name)

    async def _stop(self, name: str) -> None:
        async def stopped() -> bool:
            with suppress(*AWAY):
                status, _ = await self.farm.hub.api("DELETE", f"/users/{name}/server")
                self.counts["DELETE answered 5xx"] += status >= 500 and status != 503
                return await self.farm.hub.model(name) is None
            return False

        await eventually(stopped, f"{name}'s server is stopped", 120, 0.3)

    async def misfortune(self) -> None:
        """Let one fault after another happen."""
        choose = random.Random(f"{SEED}-faults")  # noqa: S311 - a trace
        while not self.over.is_set():
            await self.pause(choose.uniform(2, 6))
            if choose.random() < 0.15:
                self.counts["fault: Hub killed"] += 1
                await self.farm.hub.restart()
                continue
            inflict, undo, longest = choose.choice(FAULTS)
            node = choose.choice(self.farm.nodes)
            self.counts[f"fault: {inflict.__name__}"] += 1
            with suppress(AssertionError):  # noded may be away just now, so that it cannot be killed
                await asyncio.to_thread(inflict, node)
            await self.pause(choose.uniform(0, longest))
            await asyncio.to_thread(undo, node)

    async def look(self) -> None:
        """Count servers that share a GPU."""
        while not self.over.is_set():
            seen = await asyncio.to_thread(starts.visible_gpus, self.farm)
            alive = {lease.id for lease in await self._leases()}
            gpus = [gpu for lease, found in seen.items() if lease in alive for gpu in found]
            self.shared_gpus += len(gpus) - len(set(gpus))
            await self.pause(0.5)

    async def _leases(self) -> list:  # type: ignore[type-arg]
        with suppress(Exception):
            return list(await self.farm.hub.farm.leases())
        return []

    def size(self) -> dict[str, float]:
        """Return memory and open files of Hub and controller."""
        sizes = {}
        for process in self.farm.hub.processes():
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                for part, words in (("Hub", "-m jupyterhub "), ("controller", "jupyterhub_agentfarm.controller")):
                    if words in command:
                        sizes[f"{part}: memory, MiB"] = process.memory_info().rss / 2**20
                        sizes[f"{part}: open files"] = process.num_fds()
        return sizes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def soak() -> AsyncIterator[Soak]:
    """Run four nodes of four GPUs."""
    async with fault_farm(4, 4, {"Inventory": {"down_after": DOWN_AFTER}}) as running:
        await running.add_users(*(f"tiny{i}" for i in range(PEOPLE)))
        yield Soak(running)


async def test_soak(soak: Soak, figure: Callable[..., bool]) -> None:
    """#20: after so much bad luck nothing is lost, nothing is left, nothing was shared, nothing has grown."""
    sys.stderr.write(f"soak for {SECONDS:g} s, SOAK_SEED={SEED}\n")
    farm, names = soak.farm, [f"tiny{i}" for i in range(PEOPLE)]
    await starts.start_all(farm, names)
    await farm.empty()
    before = soak.size()
    work = [asyncio.create_task(each) for each in (*map(soak.person, names), soak.misfortune(), soak.look())]
    begun = time.monotonic()
    done, _ = await asyncio.wait(work, timeout=SECONDS, return_when=asyncio.FIRST_EXCEPTION)
    seconds = time.monotonic() - begun
    soak.over.set()
    await asyncio.wait_for(asyncio.gather(*work), 180)
    await farm.ready(timeout=CALM_SECONDS)
    results = await farm.settled(*names, timeout=CALM_SECONDS)
    await farm.empty()
    orphans = [pid for node in farm.nodes for pid in starts.processes_of_leases(node)]
    starts_made = soak.counts["started"]
    sys.stderr.write(f"{dict(sorted(soak.counts.items()))}, {results}\n")
    kept = [
        figure(20, "soak: time", seconds, "s", SECONDS - 1, "at least"),
        figure(20, "soak: servers started", starts_made, "", SECONDS / 10, "at least"),
        figure(20, "soak: looks at which a GPU was shared", soak.shared_gpus, "", 0, "exactly"),
        figure(20, "soak: orphans", len(orphans), "", 0, "exactly"),
        figure(20, "soak: servers in doubt", sum(r not in ("running", "nothing") for r in results.values()), "", 0),
        figure(20, "soak: DELETE answered with a 5xx", soak.counts["DELETE answered 5xx"], "", 0, "exactly"),
    ]
    for name, size in soak.size().items():
        if name in before:
            kept.append(figure(20, f"soak: growth of {name}", size / before[name], "ratio", 1.5))
    assert all(kept)
    assert done == set(), "somebody gave up before the time was over"
