"""The end of servers: nothing of them is left, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from noded_process import NodedError, NodedProcess, running_noded
from waiting import eventually

from jupyterhub_agentfarm.noded import procfs

WITH_FAMILY = """
import os, subprocess, sys, time
child = [sys.executable, "-c", "import time; time.sleep(1000)"]
daemon = f"import subprocess; subprocess.Popen({child!r}, start_new_session=True)"
subprocess.Popen(child, start_new_session=True)
# A daemon: it leaves session and tree.
subprocess.Popen([sys.executable, "-c", daemon]).wait()
print("ready", flush=True)
time.sleep(1000)
"""
WITH_NAMELESS = """
import subprocess, time
stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
print(subprocess.Popen(stubborn, start_new_session=True, env={}).pid, flush=True)
print("ready", flush=True)
time.sleep(1000)
"""
IGNORES_TERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(1000)
"""
GREEDY = """
import os, socket
socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"])).accept()
hoard = [bytearray(2**20) for _ in range(4000)]
"""
ENDS_BUT_LEAVES = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True).pid)
"""


def family(lease: str) -> list[int]:
    """Return the living processes of a lease, by the environment."""
    return [pid for pid, process in procfs.scan().items() if procfs.lease_of(pid) == lease and not process.zombie]


def there(folder: Path) -> bool:
    """Return whether a folder exists."""
    return folder.exists()


async def ready(noded: NodedProcess, lease: str) -> None:
    """Wait until the server's program has said so."""

    async def said() -> bool:
        return "ready" in (await noded.call("logs", {"lease": lease}))["text"]

    await eventually(said, f"{lease} is ready")


@pytest.mark.parametrize("cgroup", ["auto", "off"])
async def test_stop_finds_children_in_sessions_of_their_own(cgroup: str) -> None:
    """A grandchild that left session and tree ends with the server, with and without cgroups."""
    async with running_noded(arguments=[f"--NodedApp.cgroup={cgroup}"]) as noded:
        status = await noded.launch("family", WITH_FAMILY)
        await ready(noded, "family")
        await eventually(lambda: len(family("family")) == 3, "server, child and daemon run")
        assert await noded.call("stop", {"lease": "family"}) == {"gone": True, "gpus_free": True}
        assert family("family") == []
        if cgroup == "off":
            assert status["cgroup"] is None


async def test_a_stubborn_process_that_nothing_names_any_more() -> None:
    """Own session, empty environment, no cgroup, TERM ignored, and its parent has ended with the server."""
    async with running_noded(arguments=["--NodedApp.cgroup=off"]) as noded:
        await noded.launch("a", WITH_NAMELESS)
        await ready(noded, "a")
        child = int((await noded.call("logs", {"lease": "a"}))["text"].split()[0])
        assert procfs.lease_of(child) is None
        assert await noded.call("stop", {"lease": "a"}) == {"gone": True, "gpus_free": True}
        assert (found := procfs.read(child)) is None or found.zombie


async def test_another_noded_s_server_of_the_same_name_goes_on() -> None:
    """Two nodeds of one account, without cgroups: each ends its own."""
    options = ["--NodedApp.cgroup=off"]
    async with running_noded(arguments=options) as first, running_noded(arguments=options) as second:
        for noded in (first, second):
            await noded.launch("twin", WITH_FAMILY)
            await ready(noded, "twin")
        await eventually(lambda: len(family("twin")) == 6, "both families run")
        assert await first.call("stop", {"lease": "twin"}) == {"gone": True, "gpus_free": True}
        assert len(family("twin")) == 3
        assert await second.call("stop", {"lease": "twin"}) == {"gone": True, "gpus_free": True}
        assert family("twin") == []


async def test_what_a_server_leaves_behind_is_killed() -> None:
    """When a server ends by itself, so do the processes that it left."""
    async with running_noded() as noded:
        await noded.launch("leaver", ENDS_BUT_LEAVES)
        assert noded.client
        await eventually(lambda: noded.client.exits, "the server ends")
        child = int((await noded.call("logs", {"lease": "leaver"}))["text"])
        await eventually(lambda: (p := procfs.read(child)) is None or p.zombie, "the child that it left is gone")
        assert family("leaver") == []


async def test_a_server_that_ignores_term_is_killed_after_the_grace(noded: NodedProcess) -> None:
    """The exit of a stopped server is "stopped", whatever signal it took."""
    await noded.launch("a", IGNORES_TERM)
    await ready(noded, "a")
    assert (await noded.call("stop", {"lease": "a", "grace_seconds": 0.2}))["gone"]
    assert noded.client
    (status,) = await eventually(lambda: noded.client.exits, "the exit is reported")
    assert (status["exit"]["cause"], status["exit"]["signal"]) == ("stopped", signal.SIGKILL)


async def test_stop_of_an_unknown_lease_is_a_success(noded: NodedProcess) -> None:
    """What is not there is gone."""
    assert await noded.call("stop", {"lease": "never"}) == {"gone": True, "gpus_free": True}


async def test_two_stops_share_one_end(noded: NodedProcess) -> None:
    """Stops at the same moment, and one afterwards, all succeed."""
    await noded.launch("a")
    results = await asyncio.gather(*(noded.call("stop", {"lease": "a"}) for _ in range(3)))
    results.append(await noded.call("stop", {"lease": "a"}))
    assert results == [{"gone": True, "gpus_free": True}] * 4


async def test_a_harder_stop_shortens_the_one_under_way(noded: NodedProcess) -> None:
    """A stop with a shorter grace ends a server that ignores TERM; a longer one does not draw the end out."""
    await noded.launch("a", IGNORES_TERM)
    await ready(noded, "a")
    patient = asyncio.create_task(noded.call("stop", {"lease": "a", "grace_seconds": 600}))
    await noded.call("servers")
    harder = asyncio.create_task(noded.call("stop", {"lease": "a", "grace_seconds": 0.1}))
    await noded.call("servers")
    longer = asyncio.create_task(noded.call("stop", {"lease": "a", "grace_seconds": 500}))
    async with asyncio.timeout(10):
        assert await asyncio.gather(patient, harder, longer) == [{"gone": True, "gpus_free": True}] * 3


async def test_forget_removes_an_ended_server_only(noded: NodedProcess) -> None:
    """A running server cannot be forgotten; an ended one leaves neither record nor log."""
    await noded.launch("a")
    with pytest.raises(NodedError) as refusal:
        await noded.call("forget", {"lease": "a"})
    assert refusal.value.reason == "invalid"
    await noded.call("stop", {"lease": "a"})
    assert await noded.call("forget", {"lease": "a"}) == {}
    assert (await noded.call("servers"))["servers"] == []
    assert list((noded.state_dir / "servers").iterdir()) == []


async def test_zombies_are_reaped(noded: NodedProcess) -> None:
    """An ended server leaves no entry in the process table."""
    status = await noded.launch("a", "")
    await eventually(lambda: not Path(f"/proc/{status['pid']}").exists(), "the server's process is reaped")


async def test_a_cgroup_is_removed_with_its_server() -> None:
    """A server that has a cgroup is in it, and its end removes it."""
    async with running_noded() as noded:
        status = await noded.launch("a")
        if status["cgroup"] is None:
            pytest.skip("this account may not make cgroups here")
        folder = Path(status["cgroup"])
        assert str(status["pid"]) in (folder / "cgroup.procs").read_text("ascii").split()
        await noded.call("stop", {"lease": "a"})
        assert not there(folder)


def limit_memory(noded: NodedProcess, lease: str, size: int) -> bool:
    """Limit a server's memory through its cgroup; false where it has none."""
    record = json.loads((noded.state_dir / "servers" / f"{lease}.json").read_text("utf-8"))
    for folder in record["cgroups"]:
        for name in ("memory.limit_in_bytes", "memory.max"):
            file = Path(folder) / name
            if file.exists():
                file.write_text(str(size), "ascii")
                return True
    return False


async def test_a_server_that_ran_out_of_memory_is_told_so() -> None:
    """The kernel's kill for lack of memory is the cause "oom", not just signal 9."""
    async with running_noded() as noded:
        server = await noded.launch("a", GREEDY)
        if not limit_memory(noded, "a", 60 * 2**20):
            pytest.skip("this account may not limit memory by a cgroup here")
        _, writer = await asyncio.open_connection("127.0.0.1", server["port"])
        assert noded.client
        (status,) = await eventually(lambda: noded.client.exits, "the kernel ends it", timeout=20)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert (status["exit"]["cause"], status["exit"]["signal"]) == ("oom", signal.SIGKILL)


async def test_a_kill_is_not_taken_for_lack_of_memory(noded: NodedProcess) -> None:
    """Signal 9 from anybody else is "signal"."""
    status = await noded.launch("a")
    os.kill(status["pid"], signal.SIGKILL)
    assert noded.client
    (status,) = await eventually(lambda: noded.client.exits, "the exit is reported")
    assert (status["exit"]["cause"], status["exit"]["signal"]) == ("signal", signal.SIGKILL)


def test_a_reused_pid_is_not_signalled() -> None:
    """A process with the pid but not the start time of a record is left alone."""
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        process = procfs.read(stranger.pid)
        assert process
        assert not procfs.send_signal(stranger.pid, process.start_ticks - 1, signal.SIGKILL)
        assert stranger.poll() is None
    finally:
        stranger.communicate(b"\n")
    assert stranger.returncode == 0


def test_our_own_process_reads_as_alive() -> None:
    """(pid, start ticks) names this process; the same pid with another start does not."""
    process = procfs.read(os.getpid())
    assert process
    assert procfs.alive(process.pid, process.start_ticks)
    assert not procfs.alive(process.pid, process.start_ticks + 1)
    assert process.ppid == os.getppid()
