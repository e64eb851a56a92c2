"""The end of a server: nothing of it is left, and its GPUs are free."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Iterable

from jupyterhub_agentfarm.logs import LogLine
from jupyterhub_agentfarm.protocol import StopResult

from . import cgroups, procfs
from .census import Census
from .server import Server

log = logging.getLogger(__name__)

#: How long the end may take after KILL: a process in an uninterruptible call cannot be hurried.
SETTLE_SECONDS = 10.0

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


async def settle(
    server: Server, free_of: Callable[[Iterable[int], Iterable[str]], Awaitable[bool]], seconds: float = SETTLE_SECONDS
) -> StopResult:
    """Kill everything that is left of `server` and wait until its GPUs are free.

    Parameters
    ----------
    server
        The server, ended or not.
    free_of
        Says whether NVML lists none of the given processes on the given GPUs.
    seconds
        When to stop waiting and say what is not so.
    """
    deadline = time.monotonic() + seconds
    gone = await _until(lambda: _nothing_left(server), deadline, times=2)
    if gone:
        cgroups.remove(server.cgroups)
    gpus_free = await _until(lambda: free_of(server.seen, server.status.gpus), deadline)
    if not (gone and gpus_free):
        log.warning(LogLine("not gone yet", lease=server.status.lease, gone=gone, gpus_free=gpus_free, seconds=seconds))
    return StopResult(gone, gpus_free)


async def look(server: Server) -> list[procfs.Process]:
    """Return what there is of a server, and remember it: a process whose parents have ended may tell it no more."""
    census = await asyncio.to_thread(Census)
    found = census.members(server.identity)
    server.seen |= {process.pid: process.start_ticks for process in found}
    return found


async def _nothing_left(server: Server) -> bool:
    """Kill what there is; true when there was nothing."""
    left = await look(server)
    for process in left:
        procfs.send_signal(process.pid, process.start_ticks, signal.SIGKILL)
    return not left


async def _until(condition: Callable[[], Awaitable[bool]], deadline: float, times: int = 1) -> bool:
    """Return whether `condition` came to hold `times` times in a row before the deadline."""
    # Once is not enough for processes: one that executes a program just then has no environment for a moment.
    pause, held = _FIRST_PAUSE_SECONDS, 0
    while True:
        held = held + 1 if await condition() else 0
        if held == times:
            return True
        if time.monotonic() + pause > deadline:
            return False
        await asyncio.sleep(pause)
        pause = _FIRST_PAUSE_SECONDS if held else min(pause * 2, _LONGEST_PAUSE_SECONDS)
