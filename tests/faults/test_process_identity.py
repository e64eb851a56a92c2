"""#11 and #12: a process id that somebody else got, and servers that end by themselves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from faults import faults
from faults.farm import FaultFarm, ServerProcess, fault_farm
from waiting import eventually

LIMIT_BYTES = 200 * 2**20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run a farm of two nodes."""
    async with fault_farm(2) as running:
        yield running


def server_of(farm: FaultFarm, owner: str) -> ServerProcess:
    """Return the process of the user's server."""
    (found,) = [found for found in farm.servers() if found.owner == owner]
    return found


async def test_a_process_id_that_somebody_else_got(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#11: noded is down while the server dies and its pid goes to a stranger, of the same and of another account."""
    strangers = {}
    for owner, name, uid in (("tinysame", "gpu01", 0), ("tinyother", "gpu02", 65534)):
        node = farm.node(name)
        await farm.add_users(owner)
        await farm.hub.start_server(owner, {"node": name})
        server = server_of(farm, owner)
        pid = faults.inner_pid(server.pid)
        await asyncio.to_thread(faults.kill_sshd, node)  # so that noded is not started again at once
        faults.kill_noded(node)
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda pid=server.pid: not psutil.pid_exists(pid), "the server's pid is free")
        strangers[owner] = await asyncio.to_thread(faults.reuse_pid, node, pid, uid)
        await asyncio.to_thread(faults.start_sshd, node)
    dead = [await says_dead(farm, owner) for owner in strangers]
    settled = await farm.settled(*strangers)
    await farm.ready()
    await asyncio.gather(*(farm.hub.start_server(owner) for owner in strangers))  # what was left is swept
    await farm.empty()
    signalled = [owner for owner, pid in strangers.items() if not psutil.pid_exists(pid)]
    ok = [
        figure(11, "servers reported dead", sum(dead), "", 2, "exactly"),
        figure(11, "strangers with their PIDs that were signalled", len(signalled), "", 0, "exactly"),
        figure(11, "orphans", sum(found != "nothing" for found in settled.values()), "", 0, "exactly"),
    ]
    assert all(ok), (signalled, settled)
    for pid in strangers.values():
        os.kill(pid, signal.SIGKILL)


async def says_dead(farm: FaultFarm, owner: str) -> bool:
    """Whether the Hub comes to say that the server does not run."""

    async def dead() -> bool:
        model = await farm.hub.model(owner)
        return model is None or not (model["ready"] or model["pending"])

    await eventually(dead, f"{owner}'s server is reported dead", 60, 0.1)
    return True


def limit_memory(server: ServerProcess) -> str | None:
    """Give the server's cgroup a limit of memory, as an operator may; return why it cannot be done."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{server.pid}/cgroup").read_text().splitlines()]
    memory = next((path for _, controllers, path in lines if "memory" in controllers.split(",")), None)
    if memory is None or server.lease not in memory:
        return f"the server has no memory cgroup of its own: {lines}"
    (Path("/sys/fs/cgroup/memory") / memory.strip("/") / "memory.limit_in_bytes").write_text(str(LIMIT_BYTES))
    return None


@pytest.mark.parametrize(("cause", "said"), [("signal", "signal 9"), ("oom", "memory"), ("exited", "status 3")])
async def test_instant_death(farm: FaultFarm, figure: Callable[..., bool], cause: str, said: str) -> None:
    """#12: the route is gone at once, and how the server ended is said to its user and counted."""
    owner = f"tiny{cause}"
    await farm.add_users(owner)
    await farm.hub.start_server(owner)
    server = server_of(farm, owner)
    counted = await exits(farm, cause)
    if cause == "signal":
        os.kill(server.pid, signal.SIGKILL)
        begun = time.monotonic()
    else:
        if cause == "oom" and (reason := limit_memory(server)) is not None:
            pytest.skip(reason)
        asking = asyncio.create_task(farm.get(owner, "hog" if cause == "oom" else "exit/3", timeout=30))
        await eventually(lambda: not runs(server.pid), "the server has ended", 30, 0.002)
        begun = time.monotonic()
        await asking

    async def gone() -> bool:
        return await farm.routed(owner) is None

    await eventually(gone, "the route is gone", 30, 0.01)
    seconds = time.monotonic() - begun
    assert await farm.settled(owner) == {owner: "nothing"}
    _, body = await farm.hub.api("GET", f"/users/{owner}?include_stopped_servers=1")
    shown = json.dumps(body["servers"].get("", {}).get("state"))
    ok = [
        figure(12, f"{cause}: route gone after", seconds, "s", 1),
        figure(12, f"{cause}: cause shown to the user", said in shown, "", 1, "exactly"),
        figure(12, f"{cause}: ends counted", await exits(farm, cause) - counted, "", 1, "exactly"),
    ]
    assert all(ok), shown
    await farm.empty()


def runs(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def exits(farm: FaultFarm, cause: str) -> float:
    """Return how many ends by this cause the controller has counted."""
    url = f"{farm.hub.url}/services/agentfarm/metrics"
    async with farm.hub.http.get(url, headers=farm.hub.headers()) as answer:
        text = await answer.text()
    lines = [line for line in text.splitlines() if line.startswith("agentfarm_server_exits_total{")]
    return sum(float(line.split()[-1]) for line in lines if f'cause="{cause}"' in line)
