"""What a new noded finds: the servers that an earlier one started."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from jupyterhub_agentfarm.models import ServerExit

from . import procfs
from .census import Census
from .server import Server
from .starting import Starter
from .store import Record, Store


async def adopt(store: Store, starter: Starter) -> list[Server]:
    """Return the servers on record, each running or with its exit.

    A server runs still when the node was not restarted and exactly its process lives. How it ended otherwise
    nobody saw: the cause is "unknown".
    """
    records = await asyncio.to_thread(store.load)
    if not records:
        return []
    census = await asyncio.to_thread(Census)
    return [_adopted(record, census, starter) for record in records]


def _adopted(record: Record, census: Census, starter: Starter) -> Server:
    status = record.status
    same_boot = status.boot_id == starter.boot_id
    if status.exit is None and same_boot and status.pid == 0:
        # The earlier noded was killed between writing the record and starting the process, or just after.
        leader = census.leader_of(status.lease, record.uid)
        if leader is not None:
            return starter.track(record, leader, child=None, state="running")
    # The host may have had another name when it was started, and noded with it.
    mark = procfs.mark_of(status.pid)
    server = Server(record, noded=mark.noded if mark is not None else "")
    if status.exit is not None:
        server.mark_exited(status.exit)
    elif not same_boot or not procfs.alive(status.pid, status.pid_start_ticks):
        server.mark_exited(ServerExit("unknown", time.time()))
    elif status.state == "starting":
        server.status = dataclasses.replace(status, state="running")
    return server
