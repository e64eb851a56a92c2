"""NodeLink and SSHPool over real SSH: the embedded server as a process, the stand-in for noded behind it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from link_listening import Heard, linked, quick_pool, up
from noded_stand_in import telemetry as report
from ssh_node import noded_pid, ssh_node
from waiting import eventually

from jupyterhub_agentfarm.errors import (
    GpuBusy,
    HostKeyRefused,
    InvalidField,
    NodeUnreachable,
    RemoteCommandFailed,
    TransportError,
)
from jupyterhub_agentfarm.models import LaunchSpec, NodeFacts, NodeSpec, ServerStatus, Telemetry
from jupyterhub_agentfarm.records import from_json
from jupyterhub_agentfarm.transport import NodeLink, fetch_host_key, fingerprint, link
from jupyterhub_agentfarm.transport.host_key import parse_host_key


def launch(lease: str, gpus: tuple[str, ...] = ()) -> LaunchSpec:
    """A launch of nothing."""
    return LaunchSpec(lease, 1, ("true",), {}, gpus, "127.0.0.1", "/")


async def steady(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait until the link is up for long enough that a loss is tried again at once."""
    monkeypatch.setattr(link, "STEADY_SECONDS", 1e-6)
    await up(heard)


async def test_the_first_attempt_can_be_waited_for() -> None:
    """Who waits goes on when the node is there, and also when it is refused; afterwards at once."""
    async with ssh_node() as node:
        async with linked(node.spec) as (a_link, heard):
            await a_link.tried()
            assert heard.facts is not None
            assert a_link.client
            await a_link.tried()
        nobody = replace(node.spec, user="nobody-of-that-name")
        async with linked(nobody) as (refused, heard):
            await refused.tried()
            await eventually(lambda: heard.errors, "the refusal is told")


async def test_connects_starts_noded_and_tells_events() -> None:
    """A link starts noded, tells the node's facts first and its events after, and takes requests."""
    async with ssh_node() as node, linked(node.spec) as (a_link, heard):
        assert noded_pid(node.state_dir) == 0
        await up(heard)
        assert heard.facts is not None
        assert heard.facts.hostname == "stand-in"
        await eventually(lambda: heard.count("telemetry") > 3, "telemetry arrives")
        assert heard.told[0] == "up"
        await a_link.client.launch(launch("dies"))
        await eventually(lambda: heard.exits, "the exit is told")
        assert heard.exits[0].exit is not None
        assert heard.exits[0].exit.cause == "oom"


async def test_one_gpu_is_not_launched_on_twice() -> None:
    """Noded's refusal of a busy GPU reaches the caller as GpuBusy with its facts."""
    async with ssh_node() as node, linked(node.spec) as (a_link, heard):
        await up(heard)
        await a_link.client.launch(launch("l1", ("GPU-1",)))
        with pytest.raises(GpuBusy) as caught:
            await a_link.client.launch(launch("l2", ("GPU-1",)))
        assert caught.value.facts()["lease"] == "l1"


async def test_twenty_requests_and_a_long_answer_share_one_connection() -> None:
    """Twenty requests at once, one of 3 MiB among them, are all answered over one connection."""
    async with ssh_node() as node, linked(node.spec) as (a_link, heard):
        await up(heard)
        names = ["long", *(f"l{n}" for n in range(19))]
        texts = await asyncio.gather(*(a_link.client.logs(name) for name in names))
        assert len(texts[0]) == 3 * 2**20
        assert texts[1:] == [f"log of {name}" for name in names[1:]]


async def test_wrong_host_key_is_refused_before_anything_is_sent() -> None:
    """Another host key than the pinned one: HostKeyRefused, no login and no command, and seldom tried again."""
    async with ssh_node() as node:
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        wrong = replace(node.spec, host_key=" ".join(other.split()[:2]))
        async with linked(wrong, quick_pool(max_backoff=60)) as (a_link, heard):
            await eventually(lambda: heard.errors, "the refusal is told")
            assert isinstance(heard.errors[0], HostKeyRefused)
            assert "pinned" in heard.errors[0].message
            assert fingerprint(other) in heard.errors[0].message
            with pytest.raises(NodeUnreachable, match="pinned"):
                _ = a_link.client
            a_link.kick()
            await eventually(lambda: len(heard.errors) == 2, "a kick tries at once")
        assert noded_pid(node.state_dir) == 0, "a command was run"


async def test_another_algorithm_than_the_pinned_is_refused() -> None:
    """A server that has no key of the pinned algorithm is refused like one with a wrong key."""
    async with ssh_node() as node:
        ecdsa = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
        async with linked(replace(node.spec, host_key=ecdsa)) as (_link, heard):
            # The server may see it first and hang up before it is known here; the next attempt then says it.
            await eventually(lambda: HostKeyRefused in map(type, heard.errors), "the refusal is told")
            assert not noded_pid(node.state_dir)


async def test_known_hosts_decides_for_nodes_without_a_pinned_key(tmp_path: Path) -> None:
    """Without a pinned key the known_hosts file decides; what is not in it, or has no file, is refused."""
    async with ssh_node() as node:
        spec, known = replace(node.spec, host_key=None), tmp_path / "known_hosts"
        pool = quick_pool(known_hosts=str(known))
        with pytest.raises(HostKeyRefused, match="is not in"):
            await pool.connection(spec)
        known.write_text(f"[{spec.host}]:{spec.port} {node.spec.host_key}\n")
        assert not (await pool.connection(spec)).closed
        await pool.aclose()


async def test_a_login_that_is_refused_says_so(tmp_path: Path) -> None:
    """A key that the node does not know is named as the reason, with what to do."""
    async with ssh_node() as node:
        (node.directory / "sshd" / "authorized_keys").write_text("")
        async with linked(node.spec) as (_link, heard):
            await eventually(lambda: heard.errors, "the refusal is told")
            assert "authorized_keys" in heard.errors[0].message
        async with linked(replace(node.spec, ssh_keyfile=str(tmp_path / "none"))) as (_link, heard):
            await eventually(lambda: heard.errors, "the missing key is told")
            assert "private key" in heard.errors[0].message


async def test_sshd_stopped_and_started_brings_the_link_back() -> None:
    """While sshd is away the link is down with a reason; when it is back, so is the link, with the same noded."""
    async with ssh_node() as node, linked(node.spec) as (a_link, heard):
        await up(heard)
        pid = noded_pid(node.state_dir)
        await a_link.client.launch(launch("l1"))
        await node.stop()
        await eventually(lambda: heard.count("down"), "link down")
        with pytest.raises(NodeUnreachable, match="node n1"):
            _ = a_link.client
        await node.start()
        await up(heard, 2)
        assert noded_pid(node.state_dir) == pid
        assert [server.lease for server in heard.servers] == ["l1"]


async def test_requests_that_wait_fail_when_the_server_is_killed() -> None:
    """A killed SSH server fails every request that waits, with NodeUnreachable."""
    async with ssh_node() as node, linked(node.spec) as (a_link, heard):
        await up(heard)
        waiting = [asyncio.create_task(a_link.client.logs("mute")) for _ in range(3)]
        await a_link.client.telemetry()
        await node.stop(signal.SIGKILL)
        got = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [type(error) for error in got] == [NodeUnreachable] * 3


async def test_a_frozen_node_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stops answering without a word is declared lost after keepalive and one quick attempt."""
    async with ssh_node() as node, linked(node.spec) as (_link, heard):
        await steady(heard, monkeypatch)
        node.freeze()
        began = time.monotonic()
        await eventually(lambda: heard.count("down"), "link down", timeout=10)
        # 2 intervals of 0.5 s, then one attempt of at most 1 s.
        assert time.monotonic() - began < 5
        node.thaw()
        await up(heard, 2)


async def test_a_frozen_noded_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A noded that says nothing any more while sshd lives costs the link at once, with that as the reason."""
    monkeypatch.setattr(link, "SILENT_SECONDS", 0.5)
    async with ssh_node() as node, linked(node.spec) as (_link, heard):
        await steady(heard, monkeypatch)
        frozen = noded_pid(node.state_dir)
        os.kill(frozen, signal.SIGSTOP)
        try:
            await eventually(lambda: heard.count("down"), "link down", timeout=10)
            assert "noded hangs: it said nothing for 0.5 s" in heard.errors[0].message
        finally:
            os.kill(frozen, signal.SIGKILL)
        await up(heard, 2)


async def test_killed_noded_is_started_again_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead noded is started again over the same SSH connection within 2 s, and no loss is told."""
    async with ssh_node() as node, linked(node.spec) as (a_link, heard):
        await steady(heard, monkeypatch)
        connection = await a_link._pool.connection(node.spec)
        began = time.monotonic()
        node.kill_noded()
        await up(heard, 2)
        assert time.monotonic() - began < 5  # 2 s on an idle machine, starting Python included
        assert heard.count("down") == 0
        assert await a_link._pool.connection(node.spec) is connection


async def test_a_noded_that_cannot_start_is_the_reason_and_commands_still_run() -> None:
    """When noded cannot be started the reason is its stderr; the SSH connection still serves commands."""
    async with ssh_node(python="/bin/false") as node, linked(node.spec) as (a_link, heard):
        await eventually(lambda: heard.count("down") > 1, "told after each attempt")
        assert isinstance(heard.errors[0], RemoteCommandFailed)
        done = await a_link.run(["cat"], stdin=b"words")
        assert done.stdout == "words"


async def test_commands_are_quoted_bounded_and_checked() -> None:
    """Arguments arrive as they are, a status other than 0 raises, so does a command that takes too long."""
    async with ssh_node() as node, linked(node.spec) as (a_link, heard):
        await up(heard)
        odd = "a b;$(touch /tmp/x)'\"\n"
        assert (await a_link.run(["printf", "%s", odd])).stdout == odd
        with pytest.raises(RemoteCommandFailed, match="status 2"):
            await a_link.run(["ls", "/nonexistent"])
        with pytest.raises(TransportError, match="did not end within"):
            await a_link.run(["sleep", "60"], timeout_seconds=0.2)
        with pytest.raises(TransportError, match="wrote more than"):
            await a_link.run(["head", "-c", "2000000", "/dev/zero"])


async def test_no_more_commands_at_once_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With max_sessions=2, ten commands never have more than two channels open."""
    async with ssh_node() as node:
        pool = quick_pool(max_sessions=2)
        connection = await pool.connection(node.spec)
        at_once = most = 0
        original = connection._run

        async def counted(*args: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return await original(*args)
            finally:
                at_once -= 1

        monkeypatch.setattr(connection, "_run", counted)
        await asyncio.gather(*(connection.run(["true"], 20) for _ in range(10)))
        assert most == 2
        await pool.aclose()


async def test_concurrent_callers_share_one_connection() -> None:
    """Many callers at once get the same connection; a closed one is replaced."""
    async with ssh_node() as node:
        pool = quick_pool()
        first, *others = await asyncio.gather(*(pool.connection(node.spec) for _ in range(5)))
        assert all(other is first for other in others)
        first.abort()
        await eventually(lambda: first.closed, "closed")
        assert await pool.connection(node.spec) is not first
        await pool.aclose()
        await pool.aclose()


async def test_close_is_prompt_and_final() -> None:
    """Closing a link ends its connection at once, may be repeated, and leaves noded running."""
    async with ssh_node() as node, linked(node.spec) as (a_link, heard):
        await up(heard)
        pid = noded_pid(node.state_dir)
        async with asyncio.timeout(3):
            await a_link.aclose()
            await a_link.aclose()
        with pytest.raises(NodeUnreachable, match="closed"):
            _ = a_link.client
        with pytest.raises(NodeUnreachable):
            await a_link.run(["true"])
        assert noded_pid(node.state_dir) == pid
        assert heard.count("down") == 0


async def test_a_link_can_be_closed_at_any_moment_of_its_start() -> None:
    """Closing a link whose connection is just being made, refused or paused ends it, whenever that is."""
    spec, pool = NodeSpec("n1", "127.0.0.1", port=1), quick_pool(max_backoff=0.001)
    for steps in range(60):
        a_link = NodeLink(spec, pool, Heard())
        a_link.start()
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await a_link.aclose()


async def test_a_fault_of_a_listener_does_not_end_the_link(caplog: pytest.LogCaptureFixture) -> None:
    """A listener that fails once costs an attempt and a traceback in the log, not the link."""

    class Faulty(Heard):
        def link_up(self, name: str, facts: NodeFacts, servers: tuple[ServerStatus, ...]) -> None:
            super().link_up(name, facts, servers)
            if self.count("up") == 1:
                raise KeyError("a fault")

    async with ssh_node() as node:
        heard, pool = Faulty(), quick_pool()
        a_link = NodeLink(node.spec, pool, heard)
        a_link.start()
        await up(heard, 2)
        await a_link.aclose()
        assert "a fault" in caplog.text


async def test_the_embedded_server_reaches_only_its_state_directory() -> None:
    """A socket outside the state directory is refused, and so is TCP forwarding."""
    async with ssh_node() as node:
        pool = quick_pool()
        connection = await pool.connection(node.spec)
        with pytest.raises(TransportError, match="AllowStreamLocalForwarding"):
            await connection.open_unix("/run/other.sock", 5)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection._ssh.open_connection("127.0.0.1", 22)
        await pool.aclose()


async def test_the_embedded_server_gives_commands_an_environment_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sees neither the server's own variables nor those a client asks for."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "s3cret")
    async with ssh_node() as node:
        pool = quick_pool()
        connection = await pool.connection(node.spec)
        result = await connection._ssh.run("env", env={"LD_PRELOAD": "x"})
        assert "HOME=" in str(result.stdout)
        assert "s3cret" not in str(result.stdout)
        assert "LD_PRELOAD" not in str(result.stdout)
        await pool.aclose()


async def test_fetch_host_key_prints_what_ssh_keygen_prints(tmp_path: Path) -> None:
    """The fetched key is the server's, without comment; its fingerprint is ssh-keygen's."""
    async with ssh_node() as node:
        key = await fetch_host_key(node.spec.host, node.spec.port, 5)
        assert key.line == node.spec.host_key
        public = tmp_path / "key.pub"
        public.write_text(key.line + "\n")
        keygen = await asyncio.create_subprocess_exec("ssh-keygen", "-lf", str(public), stdout=asyncio.subprocess.PIPE)
        printed, _ = await keygen.communicate()
        assert printed.decode().split()[1] == key.fingerprint == fingerprint(key.line)
        await node.stop()
        with pytest.raises(NodeUnreachable):
            await fetch_host_key(node.spec.host, node.spec.port, 5)


async def test_fetch_host_key_gives_up_on_a_silent_server() -> None:
    """A server that accepts and says nothing is given up after the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NodeUnreachable, match="within"):
        await fetch_host_key("127.0.0.1", silent.getsockname()[1], 0.2)


def test_a_line_that_is_no_key_is_refused() -> None:
    """The error names the field and the form wanted."""
    with pytest.raises(InvalidField, match=r"^Inventory\.nodes\[0\]\.host_key must be a public host key"):
        parse_host_key("ssh-ed25519 nonsense", "Inventory.nodes[0].host_key")


def test_the_report_of_the_stand_in_is_a_record() -> None:
    """The stand-in speaks the protocol: its report parses strictly."""
    assert from_json(Telemetry, report()).cpus == 2
