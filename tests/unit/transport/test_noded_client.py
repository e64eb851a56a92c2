"""NodedClient against a peer on a real socket pair that answers what the test says."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from noded_stand_in import FACTS, status, telemetry
from waiting import eventually

from jupyterhub_agentfarm.errors import GpuBusy, LaunchFailed, NodedError, NodeUnreachable, ProtocolError
from jupyterhub_agentfarm.models import LaunchSpec, ServerStatus, Telemetry
from jupyterhub_agentfarm.protocol import MAX_LINE_BYTES, StopResult
from jupyterhub_agentfarm.transport import noded_client
from jupyterhub_agentfarm.transport.noded_client import NodedClient

LAUNCH = LaunchSpec("l1", 1, ("{python}",), {"TOKEN": "s3cret"}, ("GPU-1",), "127.0.0.1", "/user/ada/")


class Peer:
    """The other end: reads requests, writes lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> dict[str, Any]:
        """Return the next request."""
        async with asyncio.timeout(5):
            return dict(json.loads(await self.reader.readline()))

    async def say(self, message: dict[str, Any] | bytes) -> None:
        """Write a message, or raw bytes."""
        self.writer.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
        await self.writer.drain()

    async def result(self, result: object) -> None:
        """Answer the next request."""
        await self.say({"id": (await self.request())["id"], "result": result})

    async def error(self, reason: str, **facts: object) -> None:
        """Answer the next request with an error."""
        number = (await self.request())["id"]
        await self.say({"id": number, "error": {"reason": reason, "message": "no", "facts": facts}})


@asynccontextmanager
async def conversation() -> AsyncIterator[tuple[NodedClient, Peer, list[Telemetry | ServerStatus]]]:
    """A client, its peer and the events that arrived."""
    ours, theirs = socket.socketpair()
    events: list[Telemetry | ServerStatus] = []
    client = NodedClient("n1", *(await asyncio.open_connection(sock=ours)), events.append)
    peer = Peer(*(await asyncio.open_connection(sock=theirs, limit=2**23)))
    try:
        yield client, peer, events
    finally:
        await client.aclose()
        peer.writer.close()
        with suppress(OSError):
            await peer.writer.wait_closed()


async def both(request: Any, answer: Any) -> Any:
    """Ask and answer at the same time; return what the asker got."""
    got, _none = await asyncio.gather(request, answer)
    return got


async def test_every_method_returns_its_record() -> None:
    """Each typed method sends its protocol method and returns a record."""
    async with conversation() as (client, peer, _events):
        assert (await both(client.hello(), peer.result(FACTS))).hostname == "stand-in"
        assert await both(client.subscribe(), peer.result({"telemetry_interval_seconds": 2})) == 2.0
        assert (await both(client.telemetry(), peer.result(telemetry()))).cpus == 2
        running = status({"lease": "l1", "epoch": 1, "address": "a", "gpus": []})
        (server,) = await both(client.servers(), peer.result({"servers": [running]}))
        assert server.lease == "l1"
        assert (await both(client.launch(LAUNCH), peer.result(running))).state == "running"
        stopped = await both(client.stop("l1", 1), peer.result({"gone": True, "gpus_free": False}))
        assert stopped == StopResult(gone=True, gpus_free=False)
        assert await both(client.logs("l1"), peer.result({"text": "words"})) == "words"


async def test_answers_may_come_in_any_order() -> None:
    """Twenty requests on one connection, answered backwards, each get their own answer."""
    async with conversation() as (client, peer, _events):
        asked = [asyncio.create_task(client.logs(f"l{n}")) for n in range(20)]
        requests = [await peer.request() for _ in asked]
        for request in reversed(requests):
            await peer.say({"id": request["id"], "result": {"text": request["params"]["lease"]}})
        assert await asyncio.gather(*asked) == [f"l{n}" for n in range(20)]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("gpu_busy", GpuBusy),
        ("launch_failed", LaunchFailed),
        ("protocol", ProtocolError),
        ("stale_epoch", NodedError),
        ("something new", NodedError),
    ],
)
async def test_error_answers_become_exceptions(reason: str, kind: type[Exception]) -> None:
    """Noded's reasons become the exceptions of our tree, with reason and facts."""
    async with conversation() as (client, peer, _events):
        with pytest.raises(kind) as caught:
            await both(client.launch(LAUNCH), peer.error(reason, gpu="GPU-1"))
        if isinstance(caught.value, NodedError):
            assert caught.value.remote_reason == reason
            assert caught.value.facts()["gpu"] == "GPU-1"
        assert "n1" in str(caught.value)
        assert ("agentfarm nodes restart-noded n1" in str(caught.value)) == (kind is ProtocolError)
        assert "s3cret" not in repr(caught.value)


async def test_another_protocol_version_is_refused() -> None:
    """A noded of another version is named in the error."""
    async with conversation() as (client, peer, _events):
        with pytest.raises(ProtocolError, match=r"speaks protocol 2.*restart-noded n1"):
            await both(client.hello(), peer.result(FACTS | {"protocol": 2}))


async def test_malformed_result_is_a_protocol_error() -> None:
    """A result with a missing field is refused and names the field."""
    async with conversation() as (client, peer, _events):
        with pytest.raises(ProtocolError, match="hostname"):
            await both(client.hello(), peer.result({k: v for k, v in FACTS.items() if k != "hostname"}))


async def test_events_arrive_in_order() -> None:
    """Events go to the callback in their order, as records, between answers; unknown ones are passed over."""
    async with conversation() as (client, peer, events):
        ended = status({"lease": "l1", "epoch": 1, "address": "a", "gpus": []}) | {"state": "exited"}
        await peer.say({"event": "telemetry", "data": telemetry()})
        await peer.say({"event": "of the future", "data": {}})
        await peer.say({"event": "server_exited", "data": ended})
        await both(client.logs("l1"), peer.result({}))
        assert [type(event) for event in events] == [Telemetry, ServerStatus]


async def test_loss_fails_what_waits_and_what_comes_later() -> None:
    """A lost connection fails every pending request and each later one with NodeUnreachable."""
    async with conversation() as (client, peer, _events):
        asked = [asyncio.create_task(client.logs("l1")) for _ in range(3)]
        for _ in asked:
            await peer.request()
        peer.writer.close()
        got = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in got] == [NodeUnreachable] * 3
        assert "ended the connection" in str(await client.wait_lost())
        with pytest.raises(NodeUnreachable):
            await client.telemetry()


@pytest.mark.parametrize("line", [b"no json\n", b"[1]\n", b'{"event":"telemetry","data":{}}\n'])
async def test_a_line_against_the_protocol_ends_the_connection(line: bytes) -> None:
    """What is not a message of the protocol ends the connection, and says so."""
    async with conversation() as (client, peer, _events):
        await peer.say(line)
        assert "broke the protocol" in str(await client.wait_lost())


async def test_a_line_of_almost_the_limit_passes_and_a_longer_one_ends_the_connection() -> None:
    """The longest line the protocol allows arrives whole; an endless one is not collected."""
    async with conversation() as (client, peer, _events):
        text = "x" * (MAX_LINE_BYTES - 100)
        assert await both(client.logs("l1"), peer.result({"text": text})) == text
        sending = asyncio.create_task(peer.say(b"x" * (2 * MAX_LINE_BYTES)))
        assert "longer than" in str(await client.wait_lost())
        await asyncio.gather(sending, return_exceptions=True)


async def test_a_silent_noded_hangs() -> None:
    """A peer that says nothing for too long is lost, with that as the reason; one that speaks is not."""
    async with conversation() as (client, peer, _events):
        lost = asyncio.create_task(client.wait_lost(0.5))
        until = time.monotonic() + 1.5

        async def spoken() -> bool:
            await peer.say({"event": "telemetry", "data": telemetry()})
            return time.monotonic() > until

        await eventually(spoken, "the peer has spoken for three times the limit")
        assert not lost.done()
        asked = asyncio.create_task(client.logs("l1"))
        async with asyncio.timeout(5):
            assert "noded hangs: it said nothing for 0.5 s" in str(await lost)
            with pytest.raises(NodeUnreachable, match="noded hangs"):
                await asked
        await client.aclose()
        with pytest.raises(NodeUnreachable, match="noded hangs"):
            await client.telemetry()


async def test_a_deadline_ends_a_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is not answered in time fails; its late answer is dropped and the connection goes on."""
    monkeypatch.setattr(noded_client, "STOP_MARGIN_SECONDS", 0.05)
    async with conversation() as (client, peer, _events):
        with pytest.raises(NodeUnreachable, match=r"`stop` within 0\.05 s"):
            await client.stop("l1", 0)
        await peer.result({"gone": True, "gpus_free": True})
        assert await both(client.logs("l1"), peer.result({"text": "later"})) == "later"


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    """Cancelling one request does not touch another, and nothing of it stays."""
    async with conversation() as (client, peer, _events):
        given_up, kept = asyncio.create_task(client.logs("l1")), asyncio.create_task(client.logs("l2"))
        first, second = await peer.request(), await peer.request()
        given_up.cancel()
        await asyncio.wait([given_up])
        await peer.say({"id": first["id"], "result": {"text": "1"}})
        await peer.say({"id": second["id"], "result": {"text": "2"}})
        assert await kept == "2"
        assert not client._pending


async def test_close_may_be_repeated() -> None:
    """Closing twice is one close, and what waits fails."""
    async with conversation() as (client, peer, _events):
        asked = asyncio.create_task(client.logs("l1"))
        await peer.request()
        await client.aclose()
        await client.aclose()
        with pytest.raises(NodeUnreachable):
            await asked
