"""Servers outlive noded, and the next noded takes them over."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from noded_process import NodedError, NodedProcess
from waiting import eventually

from jupyterhub_agentfarm.noded import procfs


def edit(noded: NodedProcess, lease: str, **changes: Any) -> None:
    """Change the status in a server's record."""
    path = noded.state_dir / "servers" / f"{lease}.json"
    record = json.loads(path.read_text("utf-8"))
    record["status"] |= changes
    path.write_text(json.dumps(record), "utf-8")


async def only_server(noded: NodedProcess) -> dict[str, Any]:
    """Return the status of the one server on record."""
    (status,) = (await noded.call("servers"))["servers"]
    return dict(status)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_outlives_noded_and_is_managed_again(noded: NodedProcess, end: signal.Signals) -> None:
    """After noded was killed or stopped its server runs on; the next noded watches, guards and stops it."""
    gpu = (await noded.call("telemetry"))["gpus"][-1]["uuid"]
    before = await noded.launch("a", gpus=[gpu])
    await noded.end(end)
    assert procfs.alive(before["pid"], before["pid_start_ticks"])
    await noded.start()
    after = await only_server(noded)
    assert after == before
    with pytest.raises(NodedError) as refusal:
        await noded.launch("b", gpus=[gpu])
    assert refusal.value.reason == "gpu_busy"
    assert await noded.call("stop", {"lease": "a"}) == {"gone": True, "gpus_free": True}
    assert not procfs.alive(before["pid"], before["pid_start_ticks"])


async def test_the_end_of_an_adopted_server_is_an_event(noded: NodedProcess) -> None:
    """Noded is not the parent of an adopted server and still sees its end at once."""
    before = await noded.launch("a")
    await noded.end(signal.SIGKILL)
    await noded.start()
    os.kill(before["pid"], signal.SIGUSR1)
    assert noded.client
    (status,) = await eventually(lambda: noded.client.exits, "the end is reported")
    assert status["exit"]["cause"] == "unknown"


async def test_a_server_that_ended_meanwhile_is_unknown_how(noded: NodedProcess) -> None:
    """Of a server that ended while no noded ran nobody knows how."""
    before = await noded.launch("a")
    await noded.end(signal.SIGKILL)
    os.kill(before["pid"], signal.SIGKILL)
    await eventually(lambda: not procfs.alive(before["pid"], before["pid_start_ticks"]), "the server is dead")
    await noded.start()
    status = await only_server(noded)
    assert (status["state"], status["exit"]["cause"]) == ("exited", "unknown")


@contextlib.contextmanager
def stranger() -> Iterator[procfs.Process]:
    """A process that has nothing to do with noded and must end with status 0."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        found = procfs.read(process.pid)
        assert found
        yield found
        assert process.poll() is None, "the stranger was signalled"
    finally:
        process.communicate(b"\n")
    assert process.returncode == 0


async def test_a_process_of_another_boot_is_nobody_of_ours(noded: NodedProcess) -> None:
    """After a restart of the node a process with the same pid and start time is left alone."""
    await noded.launch("a")
    await noded.call("stop", {"lease": "a"})
    await noded.end()
    with stranger() as process:
        same = {"pid": process.pid, "pid_start_ticks": process.start_ticks}
        edit(noded, "a", boot_id="another", exit=None, state="running", **same)
        await noded.start()
        status = await only_server(noded)
        assert (status["state"], status["exit"]["cause"]) == ("exited", "unknown")
        assert (await noded.call("stop", {"lease": "a", "grace_seconds": 0}))["gone"]
        await noded.launch("a", epoch=2)


async def test_a_reused_pid_is_neither_adopted_nor_signalled(noded: NodedProcess) -> None:
    """A record whose pid belongs to a stranger by now is an ended server; its stop does the stranger nothing."""
    await noded.launch("a")
    await noded.call("stop", {"lease": "a"})
    await noded.end()
    with stranger() as process:
        reused = {"pid": process.pid, "pid_start_ticks": process.start_ticks - 5}
        edit(noded, "a", exit=None, state="running", **reused)
        await noded.start()
        assert (await only_server(noded))["state"] == "exited"
        assert (await noded.call("stop", {"lease": "a", "grace_seconds": 0}))["gone"]


async def test_a_noded_killed_between_record_and_start_finds_the_server(noded: NodedProcess) -> None:
    """A record without a process yet is matched with the process that bears its lease."""
    before = await noded.launch("a")
    await noded.end(signal.SIGKILL)
    edit(noded, "a", pid=0, pid_start_ticks=0, state="starting")
    await noded.start()
    after = await only_server(noded)
    assert (after["pid"], after["pid_start_ticks"], after["state"]) == (
        before["pid"],
        before["pid_start_ticks"],
        "running",
    )


async def test_a_damaged_record_is_set_aside(noded: NodedProcess) -> None:
    """A record that cannot be read does not keep noded from starting."""
    await noded.end()
    (noded.state_dir / "servers" / "b.json").write_text("{", "utf-8")
    await noded.start()
    assert (await noded.call("servers"))["servers"] == []
    assert "b.broken" in os.listdir(noded.state_dir / "servers")  # noqa: PTH208
