"""NodeLink: keeps one node connected for as long as the controller runs.

::

    connect ──▶ ensure noded ──▶ open its socket ──▶ hello, subscribe, servers ──▶ up ──▶ lost
       ▲                                                                                  │
       ├────────────── at once, when it had been up: a hiccup is no loss ◀────────────────┤
       └────────────── after a capped, jittered pause ◀── down, with the reason ◀─────────┘

A noded that died while SSH is up is started again over the same connection. The first attempt after a loss is quick
and quiet; only when it fails too, the listener hears of it. A noded that says nothing for some intervals of telemetry
hangs, although SSH is up: its link is dropped, and the listener hears of it at once. A refused host key is tried again
at the longest pause only: nothing on this side can mend it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Literal, Protocol

from jupyterhub_agentfarm.errors import AgentFarmError, HostKeyRefused, NodeUnreachable, TransportError
from jupyterhub_agentfarm.faults import Edge
from jupyterhub_agentfarm.models import NodeFacts, NodeSpec, ServerStatus, Telemetry

from .connection import CompletedCommand, NodeConnection
from .noded_client import NodedClient
from .ssh import SSHPool

log = logging.getLogger(__name__)

#: Starting Python and noded on a busy node, in seconds.
ENSURE_SECONDS = 30.0
#: Starting Python on a busy node and ending noded, in seconds.
STOP_SECONDS = 30.0
#: Intervals of telemetry without a word from noded after which it counts as hanging, and the least such time in
#: seconds: a node that is very busy may be late.
SILENT_INTERVALS, SILENT_SECONDS = 3, 8.0
#: Opening noded's socket, in seconds.
OPEN_SECONDS = 10.0
#: A link that was up for less than this (in seconds) did not work: it pauses before it tries again.
STEADY_SECONDS = 1.0
#: First pause between two attempts, in seconds.
FIRST_PAUSE_SECONDS = 0.5
#: For how long a launch waits for the first attempt to connect to have ended.
FIRST_ATTEMPT_SECONDS = 15.0


class LinkListener(Protocol):
    """What a link tells; called on the loop, must not block."""

    def link_up(self, name: str, facts: NodeFacts, servers: tuple[ServerStatus, ...]) -> None:
        """The node's noded answers; these servers are there."""

    def link_down(self, name: str, exc: AgentFarmError) -> None:
        """An attempt failed; said again after each."""

    def telemetry(self, name: str, report: Telemetry) -> None:
        """The node reported."""

    def server_exited(self, name: str, status: ServerStatus) -> None:
        """A server ended."""


def ensure_command(spec: NodeSpec) -> list[str]:
    """Return the command that starts noded on the node when it is not running, and prints where it listens."""
    command = [spec.python, "-m", "jupyterhub_agentfarm.noded", "--ensure"]
    if spec.state_dir is not None:
        command.append(f"--state-dir={spec.state_dir}")
    if spec.simulated_gpus > 0:
        command.append(f"--simulated-gpus={spec.simulated_gpus}")
    return [*command, *spec.noded_args]


def stop_command(spec: NodeSpec) -> list[str]:
    """Return the command that ends the node's noded; its servers go on."""
    command = [spec.python, "-m", "jupyterhub_agentfarm.noded", "--stop"]
    return command if spec.state_dir is None else [*command, f"--state-dir={spec.state_dir}"]


def printed_field(node: str, output: str, field: Literal["socket", "pid"]) -> str:
    """Return a field of the last JSON line of what the ensure command printed.

    Raises
    ------
    TransportError
        No line has it.
    """
    for line in reversed(output.splitlines()):  # A login shell's own words may go before it.
        with suppress(ValueError, TypeError, KeyError):
            return str(json.loads(line)[field])
    raise TransportError(node, f"noded was started, but did not print its {field}; it printed {output[:200]!r}")


class NodeLink:
    """The connection to one node, kept up.

    Parameters
    ----------
    spec
        The node.
    pool
        Opens the SSH connection.
    listener
        Hears of everything that happens.
    """

    def __init__(self, spec: NodeSpec, pool: SSHPool, listener: LinkListener) -> None:
        self.spec = spec
        self._pool = pool
        self._listener = listener
        self._client: NodedClient | None = None
        #: The node's IP address as the last connection had it; None: it is not known.
        self.peer_address: str | None = None
        self._why = "it was not connected yet"
        self._early: list[Telemetry | ServerStatus] | None = None
        self._kicked = asyncio.Event()
        #: The first attempt to connect has ended, well or not.
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def name(self) -> str:
        """The node's name."""
        return self.spec.name

    @property
    def client(self) -> NodedClient:
        """The client of the node's noded.

        Raises
        ------
        NodeUnreachable
            The link is down.
        """
        if self._client is None:
            raise NodeUnreachable(self.name, self._why)
        return self._client

    async def tried(self) -> None:
        """Wait until the first attempt to connect has ended: before that nobody knows whether the node is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ATTEMPT_SECONDS):
                await self._tried.wait()

    def start(self) -> None:
        """Begin to connect; returns at once."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._keep(), name=f"node-link-{self.name}")

    def kick(self) -> None:
        """Try now instead of after the pause."""
        self._kicked.set()

    async def run(
        self, argv: Sequence[str], timeout_seconds: float = 30, stdin: bytes | None = None
    ) -> CompletedCommand:
        """Run a command on the node, also while noded does not answer; see :meth:`~.connection.NodeConnection.run`.

        Raises
        ------
        RemoteCommandFailed
            It ended with a status other than 0.
        TransportError
            It did not end within `timeout_seconds`.
        NodeUnreachable
            There is no connection.
        """
        if self._closed:
            raise NodeUnreachable(self.name, self._why)
        connection = await self._pool.connection(self.spec)
        return await connection.run(argv, timeout_seconds, stdin)

    async def restart_noded(self) -> int:
        """End the node's noded and start it again; servers go on. Return the process id of the new one.

        What is started is what is installed on the node now, with the options that the node has now. The link loses
        its connection and makes a new one by itself. The process id is 0 when the new noded speaks another version of
        the protocol.

        Raises
        ------
        RemoteCommandFailed
            noded did not end, or could not be started again.
        TransportError
            It did not do so in time.
        NodeUnreachable
            There is no connection.
        """
        await self.run(stop_command(self.spec), STOP_SECONDS)
        done = await self.run(ensure_command(self.spec), ENSURE_SECONDS)
        self.kick()
        return int(printed_field(self.name, done.stdout, "pid"))

    async def aclose(self) -> None:
        """Close the link and its connection; may be called again."""
        self._closed = True
        self._why = "its link was closed"
        self._tried.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._pool.drop(self.name)

    # ---- the loop -----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        failures, quick = 0, False
        # A cancellation that meets the end of a connection attempt can be lost in it (`wait_for` of Python 3.11).
        while not self._closed:
            error, up_seconds = await self._attempt(quick)
            self._tried.set()
            if self._closed:
                return
            self._why = error.message.removeprefix(f"node {self.name}: ")
            quick = up_seconds >= STEADY_SECONDS
            if quick:
                failures = 0
                log.info("node %s: %s; trying again at once", self.name, self._why)
                continue
            self._listener.link_down(self.name, error)
            await self._pause(self._pause_seconds(failures, error))
            failures += 1

    async def _attempt(self, quick: bool) -> tuple[AgentFarmError, float]:
        """Connect and stay until the connection is lost; return why it ended and the seconds it was up."""
        client = None
        edge = Edge(log, f"node {self.name}: an unexpected fault of its link", AgentFarmError)
        try:
            with edge:
                client, silent_seconds = await self._open(quick)
                up_since = time.monotonic()
                lost = await client.wait_lost(silent_seconds)
                # A noded that hangs is no hiccup: that is told at once.
                return lost, 0 if client.hangs else time.monotonic() - up_since
            return NodeUnreachable(self.name, f"a fault of the controller, see its log: {edge.fault!r}"), 0
        except AgentFarmError as exc:
            return exc, 0
        finally:
            self._client = None
            if client is not None:
                await client.aclose()

    async def _open(self, quick: bool) -> tuple[NodedClient, float]:
        timeout = min(self._pool.connect_timeout, max(1.0, self._pool.keepalive_interval)) if quick else None
        connection = await self._pool.connection(self.spec, timeout)
        self.peer_address = connection.peer_address
        try:
            return await self._open_client(connection)
        except NodeUnreachable:
            # Whatever is left of the connection is not to be trusted: the next attempt makes a new one.
            connection.abort()
            raise

    async def _open_client(self, connection: NodeConnection) -> tuple[NodedClient, float]:
        path = await self._ensure(connection)
        reader, writer = await connection.open_unix(path, OPEN_SECONDS)
        self._early = []
        client = NodedClient(self.name, reader, writer, self._on_event)
        async with AsyncExitStack() as undo:
            undo.push_async_callback(client.aclose)
            interval_seconds = await self._greet(client)
            undo.pop_all()
        return client, max(SILENT_INTERVALS * interval_seconds, SILENT_SECONDS)

    async def _ensure(self, connection: NodeConnection) -> str:
        done = await connection.run(ensure_command(self.spec), ENSURE_SECONDS)
        return printed_field(self.name, done.stdout, "socket")

    async def _greet(self, client: NodedClient) -> float:
        facts = await client.hello()
        interval_seconds = await client.subscribe()
        servers = await client.servers()
        self._client = client
        self._tried.set()
        self._listener.link_up(self.name, facts, servers)
        early, self._early = self._early or [], None
        for event in early:
            self._on_event(event)
        return interval_seconds

    def _on_event(self, event: Telemetry | ServerStatus) -> None:
        if self._early is not None:
            self._early.append(event)  # The listener hears of the node before it hears from it.
        elif isinstance(event, Telemetry):
            self._listener.telemetry(self.name, event)
        else:
            self._listener.server_exited(self.name, event)

    def _pause_seconds(self, failures: int, error: AgentFarmError) -> float:
        longest = float(self._pool.max_backoff)
        if isinstance(error, HostKeyRefused):
            return longest
        pause = min(longest, FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 16))
        return pause * random.uniform(0.5, 1)  # noqa: S311 - spreads the attempts, guards nothing

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._kicked.wait()
        self._kicked.clear()
