"""Launching servers: real processes, real sockets, the protocol over noded's socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from noded_process import NodedError, NodedProcess
from waiting import eventually

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.models import LaunchSpec
from jupyterhub_agentfarm.noded import procfs, starting
from jupyterhub_agentfarm.noded.cgroups import Cgroups
from jupyterhub_agentfarm.noded.directories import ServerDirectories
from jupyterhub_agentfarm.noded.isolation.isolator import Isolator
from jupyterhub_agentfarm.noded.server import Server
from jupyterhub_agentfarm.noded.store import Store
from jupyterhub_agentfarm.noded.sweeping import SETTLE_SECONDS
from jupyterhub_agentfarm.noded.warm.zygotes import WarmOptions, Zygotes
from jupyterhub_agentfarm.protocol import LAUNCH_SECONDS
from jupyterhub_agentfarm.transport import noded_client

BINDS_LATE = """
import os, socket, time
from urllib.parse import urlsplit
listener = socket.create_server(("127.0.0.1", urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"]).port))
time.sleep(1000)
"""
FINDS_PORT_TAKEN_ONCE = (
    """
import os, sys
from pathlib import Path
if not os.path.exists(os.environ["FIRST"]):
    Path(os.environ["FIRST"]).touch()
    sys.exit("OSError: [Errno 98] Address already in use")
"""
    + BINDS_LATE
)


async def ask(port: int, variable: str) -> str:
    """Return a variable of the environment of the server that listens on `port`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(variable.encode() + b"\n")
    async with asyncio.timeout(10):
        value = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return value


def proc_file(pid: int, name: str) -> bytes:
    """Return a file of /proc."""
    return Path(f"/proc/{pid}/{name}").read_bytes()


async def gpus(noded: NodedProcess) -> list[str]:
    """Return the UUIDs of the node's GPUs."""
    return [gpu["uuid"] for gpu in (await noded.call("telemetry"))["gpus"] if gpu["simulated"]]


async def test_a_server_serves_on_the_socket_it_inherited(noded: NodedProcess) -> None:
    """The port of the answer is served by the server, whose URL names it."""
    status = await noded.launch("a")
    assert status["state"] == "running"
    assert await ask(status["port"], "JUPYTERHUB_SERVICE_URL") == f"http://127.0.0.1:{status['port']}/user/ada/"


async def test_the_environment_is_clean_and_pinned(noded: NodedProcess) -> None:
    """The server sees the request's variables, its GPU and its lease, and nothing that noded happens to have."""
    (gpu, _) = await gpus(noded)
    status = await noded.launch("a", gpus=[gpu], epoch=7, environment={"TOKEN": "x y'\"", "CUDA_VISIBLE_DEVICES": "0"})
    port = status["port"]
    assert await ask(port, "TOKEN") == "x y'\""
    assert await ask(port, "CUDA_VISIBLE_DEVICES") == gpu
    assert await ask(port, "NVIDIA_VISIBLE_DEVICES") == gpu
    assert (await ask(port, "AGENTFARM_LEASE_ID"), await ask(port, "AGENTFARM_EPOCH")) == ("a", "7")
    assert await ask(port, "PYTEST_CURRENT_TEST") == "-"


async def test_without_a_leased_gpu_none_is_visible(noded: NodedProcess) -> None:
    """CUDA_VISIBLE_DEVICES is set and empty when no GPU was leased."""
    status = await noded.launch("a")
    assert await ask(status["port"], "CUDA_VISIBLE_DEVICES") == ""
    assert await ask(status["port"], "NVIDIA_VISIBLE_DEVICES") == "void"


async def test_the_port_dies_with_the_server(noded: NodedProcess) -> None:
    """Noded keeps no copy of the listening socket: once the server ended nobody accepts."""
    status = await noded.launch("a")
    await noded.call("stop", {"lease": "a"})
    with pytest.raises(ConnectionRefusedError):
        await ask(status["port"], "HOME")


async def test_a_name_for_loopback_is_refused(noded: NodedProcess) -> None:
    """A name that means the loopback, where nobody reaches a server, is refused; who says loopback means it."""
    # 127.1 is no literal to Python and resolves to the loopback everywhere, as a node's name in /etc/hosts may.
    with pytest.raises(NodedError, match="set the node's `address`") as failure:
        await noded.launch("a", address="127.1")
    assert failure.value.reason == "launch_failed"
    for lease, address in (("b", "127.0.0.1"), ("c", "127.0.0.2"), ("d", "localhost")):
        assert (await noded.launch(lease, address=address))["address"] == address


async def test_a_port_range_is_kept(noded: NodedProcess) -> None:
    """The server listens in the range; a range that is full is a launch that failed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NodedError, match="is taken") as failure:
            await noded.launch("a", port_range=[port, port])
    assert failure.value.reason == "launch_failed"
    status = await noded.launch("a", port_range=[port, port])
    assert status["port"] == port


async def test_a_repeated_launch_starts_nothing_twice(noded: NodedProcess) -> None:
    """Launches of one lease, one after the other and at the same moment, have one process."""
    statuses = await asyncio.gather(*(noded.launch("a") for _ in range(5)))
    statuses.append(await noded.launch("a"))
    assert len({status["pid"] for status in statuses}) == 1


async def test_an_older_epoch_is_refused(noded: NodedProcess) -> None:
    """A launch of an epoch before the one that noded knows is stale, also when the server has ended."""
    await noded.launch("a", epoch=5)
    for _ in range(2):
        with pytest.raises(NodedError) as refusal:
            await noded.launch("a", epoch=4)
        assert refusal.value.reason == "stale_epoch"
        await noded.call("stop", {"lease": "a"})


async def test_a_newer_epoch_starts_an_ended_lease_again(noded: NodedProcess) -> None:
    """After its server ended, a lease that was granted anew gets a new server."""
    first = await noded.launch("a", epoch=1)
    await noded.call("stop", {"lease": "a"})
    second = await noded.launch("a", epoch=2)
    assert (second["state"], second["epoch"]) == ("running", 2)
    assert second["pid"] != first["pid"]


async def test_a_gpu_goes_to_one_server_only(noded: NodedProcess) -> None:
    """Of two simultaneous launches on one GPU one is refused, and told who holds it; the other GPU is still there."""
    one, other = await gpus(noded)
    results = await asyncio.gather(noded.launch("a", gpus=[one]), noded.launch("b", gpus=[one]), return_exceptions=True)
    (refusal,) = [result for result in results if isinstance(result, NodedError)]
    (status,) = [result for result in results if isinstance(result, dict)]
    assert (refusal.reason, refusal.facts) == ("gpu_busy", {"gpu": one, "lease": status["lease"]})
    assert (await noded.launch("c", gpus=[other]))["gpus"] == [other]


async def test_a_gpu_is_given_again_after_a_stop(noded: NodedProcess) -> None:
    """As soon as stop has answered the GPU can be used by the next."""
    (gpu, _) = await gpus(noded)
    await noded.launch("a", gpus=[gpu])
    await noded.call("stop", {"lease": "a"})
    assert (await noded.launch("b", gpus=[gpu]))["state"] == "running"


async def test_an_unknown_gpu_is_refused(noded: NodedProcess) -> None:
    """A GPU that the node does not have is named in the refusal, and nothing is left behind."""
    with pytest.raises(NodedError, match="GPU-none") as refusal:
        await noded.launch("a", gpus=["GPU-none"])
    assert refusal.value.reason == "gpu_unknown"
    assert (await noded.call("servers"))["servers"] == []
    assert list((noded.state_dir / "servers").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ["/nonexistent/python"]}, "cannot execute /nonexistent/python"),
        ({"cwd": "/nonexistent"}, "/nonexistent does not exist"),
        ({"address": "192.0.2.1"}, "192.0.2.1"),
    ],
)
async def test_what_cannot_be_started_fails_with_a_reason(
    noded: NodedProcess, changes: dict[str, object], message: str
) -> None:
    """A program, directory or address that the node does not have is a launch that failed, in words."""
    with pytest.raises(NodedError, match=message) as failure:
        await noded.launch("a", **changes)
    assert failure.value.reason == "launch_failed"
    assert (await noded.launch("a"))["state"] == "running"


@pytest.mark.parametrize(
    "changes",
    [
        {"lease": "../a"},
        {"command": []},
        {"base_url": "user"},
        {"environment": {"A=B": "secret-value"}},
        {"environment": {"A": "secret-value\0"}},
        {"gpus": ["G", "G"]},
        {"port_range": [5]},
        {"umask": 7},
    ],
)
async def test_a_request_of_the_wrong_form_is_invalid(noded: NodedProcess, changes: dict[str, object]) -> None:
    """Each field is checked before anything is done; the value of a variable is never in the message."""
    lease = str(changes.pop("lease", "a"))
    with pytest.raises(NodedError) as refusal:
        await noded.launch(lease, **changes)
    assert refusal.value.reason == "invalid"
    assert "secret-value" not in str(refusal.value)


async def test_the_exit_is_an_event_at_once(noded: NodedProcess) -> None:
    """A server that exits is reported with its status; one that is killed with the signal."""
    await noded.launch("a", "raise SystemExit(3)")
    killed = await noded.launch("b", "import os, signal; os.kill(os.getpid(), signal.SIGUSR1)")
    assert noded.client
    exits = await eventually(lambda: len(noded.client.exits) == 2 and noded.client.exits, "both exits are reported")
    by_lease = {status["lease"]: status["exit"] for status in exits}
    assert (by_lease["a"]["cause"], by_lease["a"]["code"]) == ("exited", 3)
    assert (by_lease["b"]["cause"], by_lease["b"]["signal"]) == ("signal", 10)
    assert killed["pid_start_ticks"] > 0


async def test_the_log_is_read_back_from_its_end(noded: NodedProcess) -> None:
    """The last lines of both streams come back; bytes that are not UTF-8 do no harm."""
    program = r"import sys; print('\n'.join(map(str, range(500))), flush=True); sys.stderr.buffer.write(b'end \xff')"
    await noded.launch("a", program)
    assert noded.client
    await eventually(lambda: noded.client.exits, "the server ends")
    text = (await noded.call("logs", {"lease": "a", "lines": 3}))["text"]
    assert text == "498\n499\nend \ufffd"
    with pytest.raises(NodedError) as failure:
        await noded.call("logs", {"lease": "unknown"})
    assert failure.value.reason == "not_found"


async def test_secrets_are_nowhere_but_in_the_environment(noded: NodedProcess) -> None:
    """Neither the argument list, nor a file of the state directory, nor noded's log has the token."""
    secret = "s3cr3t-token-of-ada"
    status = await noded.launch("a", environment={"JUPYTERHUB_API_TOKEN": secret})
    assert await ask(status["port"], "JUPYTERHUB_API_TOKEN") == secret
    assert noded.process
    for pid in (status["pid"], noded.process.pid):
        assert secret.encode() not in proc_file(pid, "cmdline")
    files = [path for path in noded.state_dir.rglob("*") if path.is_file()]
    assert len(files) >= 4
    for path in files:
        assert secret.encode() not in path.read_bytes(), path
        assert path.stat().st_mode & 0o077 == 0 or path.name == "test.log", path


async def test_a_server_that_binds_its_port_itself_is_waited_for(noded: NodedProcess) -> None:
    """In the mode "port" the launch answers once the server's own process listens."""
    status = await noded.launch("a", BINDS_LATE, socket="port")
    assert status["state"] == "running"
    _, writer = await asyncio.open_connection("127.0.0.1", status["port"])
    writer.close()
    await writer.wait_closed()


async def test_a_server_that_never_binds_fails_before_the_controller_gives_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The time for binding, and for the ends of two servers around it, fits into what a launch may take."""
    assert starting._BIND_SECONDS + 2 * SETTLE_SECONDS < LAUNCH_SECONDS == noded_client.LAUNCH_SECONDS
    monkeypatch.setattr(starting, "_BIND_SECONDS", 0.3)
    starter = starting.Starter(
        Store(tmp_path),
        Isolator(Cgroups(enabled=False)),
        ServerDirectories(tmp_path / "run"),
        Zygotes(WarmOptions(enabled=False), tmp_path / "warm"),
        procfs.boot_id(),
        lambda _: None,
    )
    spec = LaunchSpec("a", 1, ("/bin/sleep", "1000"), {}, (), "127.0.0.1", "/", socket="port")
    began: list[Server] = []
    with pytest.raises(LaunchFailed, match="does not listen"):
        async with asyncio.timeout(10):
            await starter.start(spec, began.append)
    began[0].terminate()
    await began[0].exited.wait()


async def test_a_taken_port_is_tried_again_with_another(noded: NodedProcess, tmp_path: Path) -> None:
    """A server that exits because its port is taken is started again, unseen by the controller."""
    status = await noded.launch(
        "a", FINDS_PORT_TAKEN_ONCE, socket="port", environment={"FIRST": str(tmp_path / "first")}
    )
    assert status["state"] == "running"
    assert noded.client
    assert noded.client.exits == []


async def test_a_server_that_ends_before_it_listens_fails_with_its_log(noded: NodedProcess) -> None:
    """Anything else than a taken port is a failed launch with the log's end, and is not tried again."""
    with pytest.raises(NodedError, match="status 1") as failure:
        await noded.launch("a", "raise SystemExit('no such module')", socket="port")
    assert (failure.value.reason, failure.value.facts["log_tail"]) == ("launch_failed", "no such module\n")
    assert (await noded.call("servers"))["servers"] == []
