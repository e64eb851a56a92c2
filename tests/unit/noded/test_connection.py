"""The socket and the protocol, as far as no server is needed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as sockets
import stat

import pytest
from noded_process import NodedError, NodedProcess, connect, running_noded
from waiting import eventually

from jupyterhub_agentfarm.models import NodeFacts, Telemetry
from jupyterhub_agentfarm.protocol import MAX_LINE_BYTES
from jupyterhub_agentfarm.records import from_json


async def test_the_socket_is_the_accounts_own(noded: NodedProcess) -> None:
    """Socket 0600, folders 0700: whoever can connect is the account or root."""
    assert stat.S_IMODE(noded.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(noded.state_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((noded.state_dir / "servers").stat().st_mode) == 0o700


async def test_hello_and_telemetry_are_the_records_of_the_protocol(noded: NodedProcess) -> None:
    """The answers have exactly the fields of the records, with values that can be."""
    facts = from_json(NodeFacts, await noded.call("hello", {"protocol": 1}))
    assert noded.process
    assert facts.pid == noded.process.pid
    sample = from_json(Telemetry, await noded.call("telemetry"))
    assert sample.cpus > 0
    assert 0 < sample.memory_available_bytes < sample.memory_total_bytes
    assert abs(sample.time - sample.boot_at - sample.uptime_seconds) < 1
    assert sample.filesystems[0].mountpoint == "/"


async def test_cpu_utilization_is_absent_in_the_first_sample_and_a_ratio_then(noded: NodedProcess) -> None:
    """There is no period before the first sample; the later ones are between 0 and 1."""
    assert noded.client
    await eventually(lambda: len(noded.client.telemetry) > 3, "reports come")
    values = [sample["cpu_utilization_ratio"] for sample in noded.client.telemetry[-2:]]
    assert all(value is None or 0 <= value <= 1 for value in values)
    assert any(value is not None for value in values)


async def test_hello_comes_first(noded: NodedProcess) -> None:
    """Any other method before hello is answered "protocol"; another version is too, and says what to do."""
    client = await connect(noded.socket, hello=False, subscribe=False)
    for method, params in (("servers", {}), ("hello", {"protocol": 2}), ("servers", {})):
        with pytest.raises(NodedError) as refusal:
            await client.call(method, params)
        assert refusal.value.reason == "protocol"
    await client.call("hello", {"protocol": 1})
    assert await client.call("servers") == {"servers": []}
    await client.close()


async def test_unknown_methods_and_params_are_refused(noded: NodedProcess) -> None:
    """The reason is fixed; the connection goes on."""
    with pytest.raises(NodedError) as refusal:
        await noded.call("reboot")
    assert refusal.value.reason == "unknown_method"
    with pytest.raises(NodedError, match="grace") as refusal:
        await noded.call("stop", {"lease": "a", "grace": 1})
    assert refusal.value.reason == "invalid"
    assert await noded.call("servers") == {"servers": []}


@pytest.mark.parametrize("line", [b"not json\n", b"[1]\n", b"x" * (MAX_LINE_BYTES + 10) + b"\n"])
async def test_a_line_that_is_no_message_ends_its_connection_only(noded: NodedProcess, line: bytes) -> None:
    """Garbage and an oversized line end the connection; the others do not notice."""
    reader, writer = await asyncio.open_unix_connection(str(noded.socket))
    writer.write(line)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert await noded.call("servers") == {"servers": []}


async def test_a_subscriber_that_does_not_read_holds_up_nobody() -> None:
    """One that never reads loses telemetry; another one gets its reports and answers meanwhile."""
    async with running_noded(simulated_gpus=16, telemetry_interval=0.05) as noded:
        with sockets.socket(sockets.AF_UNIX) as silent:
            silent.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 1)
            silent.connect(str(noded.socket))
            for number, method in enumerate(("hello", "subscribe")):
                params = {"protocol": 1} if method == "hello" else {}
                silent.sendall(json.dumps({"id": number, "method": method, "params": params}).encode() + b"\n")
            assert noded.client
            seen = len(noded.client.telemetry)
            await eventually(lambda: len(noded.client.telemetry) > seen + 60, "the other one gets reports", timeout=30)
            assert await noded.call("servers") == {"servers": []}


async def test_no_event_before_subscribe(noded: NodedProcess) -> None:
    """A connection that did not subscribe gets answers and nothing else."""
    client = await connect(noded.socket, subscribe=False)
    assert noded.client
    seen = len(noded.client.telemetry)
    await eventually(lambda: len(noded.client.telemetry) > seen + 2, "reports are sent")
    await client.call("servers")
    assert client.events == []
    assert await client.call("subscribe") == {"telemetry_interval_seconds": 0.1}
    await eventually(lambda: client.telemetry, "reports come after subscribe")
    await client.close()
