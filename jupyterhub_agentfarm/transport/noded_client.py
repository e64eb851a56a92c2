"""NodedClient: the only code that speaks noded's protocol (:mod:`jupyterhub_agentfarm.protocol`).

One client belongs to one connection. Requests run side by side; each has its own deadline. When the connection is
lost, every request that waits fails with `NodeUnreachable`, and so does every later one: a new connection has a new
client.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import asyncssh

from jupyterhub_agentfarm.errors import (
    AgentFarmError,
    GpuBusy,
    InvalidField,
    LaunchFailed,
    NodedError,
    NodeUnreachable,
    ProtocolError,
)
from jupyterhub_agentfarm.isolation import Isolation
from jupyterhub_agentfarm.models import LaunchSpec, NodeFacts, ServerStatus, Telemetry
from jupyterhub_agentfarm.protocol import (
    LAUNCH_SECONDS,
    MAX_LINE_BYTES,
    PROTOCOL_VERSION,
    LogsParams,
    Notice,
    NotifyParams,
    Orphan,
    OrphansParams,
    ProjectsParams,
    ProjectsReport,
    StopParams,
    StopResult,
    decode,
    encode,
)
from jupyterhub_agentfarm.records import from_json, to_json

log = logging.getLogger(__name__)
T = TypeVar("T")

#: Deadline of a request that has no other, in seconds.
REQUEST_SECONDS = 10.0
#: What a stop may take beyond its grace, in seconds: a GPU is free some time after its process.
STOP_MARGIN_SECONDS = 30.0
#: Parts in which a silence is measured.
SILENT_PARTS = 5
_CHUNK_BYTES = 2**16


class Reader(Protocol):
    """The reading half of a stream, of asyncio or of asyncssh."""

    async def read(self, n: int, /) -> bytes:
        """Return up to `n` bytes; none at the end."""


class Writer(Protocol):
    """The writing half of a stream, of asyncio or of asyncssh."""

    def write(self, data: bytes, /) -> None:
        """Queue `data`."""

    async def drain(self) -> None:
        """Wait until the queue is short."""

    def close(self) -> None:
        """Close the stream."""


class _Lines:
    """Splits a stream into lines of at most MAX_LINE_BYTES; asyncssh's own readline ends at its window's 2 MiB."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._buffer = bytearray()
        self.received_bytes = 0

    async def read(self) -> bytes | None:
        """Return the next line, or None at the end of the stream."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE_BYTES:
                raise ProtocolError(f"a line is longer than the {MAX_LINE_BYTES} bytes of the protocol")
            chunk = await self._reader.read(_CHUNK_BYTES)
            if not chunk:
                return None
            self._buffer += chunk
            self.received_bytes += len(chunk)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line


class NodedClient:
    """Typed requests to one noded over one connection.

    Parameters
    ----------
    node
        Name of the node, for errors.
    reader, writer
        The connection to noded's socket; the client closes it.
    on_event
        Called on the loop with every event's record, in their order.
    """

    def __init__(
        self,
        node: str,
        reader: Reader,
        writer: Writer,
        on_event: Callable[[Telemetry | ServerStatus], None] = lambda _event: None,
    ) -> None:
        self.node = node
        self._lines = _Lines(reader)
        self._writer = writer
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._lost: str | None = None
        #: Whether it was lost because noded said nothing any more.
        self.hangs = False
        self._task = asyncio.create_task(self._read(), name=f"noded-client-{node}")

    # ---- requests -----------------------------------------------------------------------------------------------

    async def hello(self) -> NodeFacts:
        """Open the conversation; return what the node is.

        Raises
        ------
        ProtocolError
            noded speaks another version.
        """
        facts = await self._ask(NodeFacts, "hello", {"protocol": PROTOCOL_VERSION})
        if facts.protocol != PROTOCOL_VERSION:
            raise ProtocolError(
                f"node {self.node}: noded {facts.version} speaks protocol {facts.protocol}, the controller speaks "
                f"{PROTOCOL_VERSION}: {self._same_version()}"
            )
        return facts

    async def subscribe(self) -> float:
        """Ask for events from now on; return the seconds between two reports of telemetry."""
        answer = await self._request("subscribe", {})
        interval = answer.get("telemetry_interval_seconds")
        if not isinstance(interval, (int, float)):
            raise ProtocolError(f"node {self.node}: noded's answer to subscribe has no telemetry_interval_seconds")
        return float(interval)

    async def telemetry(self) -> Telemetry:
        """Return the node's latest report."""
        return await self._ask(Telemetry, "telemetry", {})

    async def servers(self) -> tuple[ServerStatus, ...]:
        """Return every server that noded knows, those that ended lately included."""
        answer = await self._request("servers", {})
        return tuple(self._record(ServerStatus, item, "servers") for item in answer.get("servers", []))

    async def launch(self, spec: LaunchSpec) -> ServerStatus:
        """Start a server.

        Raises
        ------
        GpuBusy
            A live server holds one of the GPUs.
        LaunchFailed
            The process could not be started; the fact `log_tail` has its last lines.
        """
        return await self._ask(ServerStatus, "launch", to_json(spec), LAUNCH_SECONDS)

    async def stop(self, lease: str, grace_seconds: float = 10) -> StopResult:
        """Stop a server; return when everything of it is gone."""
        params = to_json(StopParams(lease, grace_seconds))
        return await self._ask(StopResult, "stop", params, grace_seconds + STOP_MARGIN_SECONDS)

    async def logs(self, lease: str, lines: int = 50) -> str:
        """Return the last lines of a server's log."""
        answer = await self._request("logs", to_json(LogsParams(lease, lines)))
        return str(answer.get("text", ""))

    async def notify(self, lease: str, notice: Notice | None) -> None:
        """Have a server tell its user something; None takes back what it was to tell."""
        await self._request("notify", to_json(NotifyParams(lease, notice)))

    async def orphans(self, held: Iterable[str]) -> tuple[Orphan, ...]:
        """Return the processes that noded has no record of; `held` are the leases that the controller has there."""
        answer = await self._request("orphans", to_json(OrphansParams(tuple(held))))
        return tuple(self._record(Orphan, item, "orphans") for item in answer.get("orphans", []))

    async def projects(self, isolation: Isolation) -> ProjectsReport:
        """Return what is there of the projects' workspaces under an isolation."""
        return await self._ask(ProjectsReport, "projects", to_json(ProjectsParams(isolation)))

    # ---- the connection -----------------------------------------------------------------------------------------

    async def wait_lost(self, silent_seconds: float | None = None) -> NodeUnreachable:
        """Return, once the connection is lost, why.

        Parameters
        ----------
        silent_seconds
            Time without a byte from noded after which it counts as hanging, and the connection as lost; None: never.
            It is watched in parts, so that a pause of this process itself is no silence of noded.
        """
        silent, part = 0, None if silent_seconds is None else silent_seconds / SILENT_PARTS
        while silent < SILENT_PARTS:
            before = self._lines.received_bytes
            done, _going_on = await asyncio.wait([self._task], timeout=part)
            if done:
                return self._unreachable()
            silent = silent + 1 if self._lines.received_bytes == before else 0
        self.hangs = True
        self._fail(f"noded hangs: it said nothing for {silent_seconds:g} s")
        return self._unreachable()

    async def aclose(self) -> None:
        """Close the connection and fail what waits; may be called again."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled() and (fault := self._task.exception()) is not None:
            log.error("node %s: the reader of noded's answers failed", self.node, exc_info=fault)

    # ---- inside -------------------------------------------------------------------------------------------------

    async def _ask(
        self, record: type[T], method: str, params: Mapping[str, Any], timeout_seconds: float = REQUEST_SECONDS
    ) -> T:
        return self._record(record, await self._request(method, params, timeout_seconds), method)

    async def _request(self, method: str, params: Mapping[str, Any], timeout_seconds: float = REQUEST_SECONDS) -> Any:
        if self._lost is not None:
            raise self._unreachable()
        number = next(self._ids)
        line = encode({"id": number, "method": method, "params": params})
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        try:
            async with asyncio.timeout(timeout_seconds):
                self._writer.write(line)
                await self._writer.drain()
                return await answer
        except TimeoutError as exc:
            raise NodeUnreachable(self.node, f"noded did not answer `{method}` within {timeout_seconds:g} s") from exc
        except (OSError, asyncssh.Error) as exc:
            raise NodeUnreachable(self.node, f"the connection was lost during `{method}`: {exc}") from exc
        finally:
            del self._pending[number]
            answer.cancel()

    async def _read(self) -> None:
        reason = "the connection to noded was closed"
        try:
            while (line := await self._lines.read()) is not None:
                self._handle(decode(line))
            reason = "noded ended the connection"
        except ProtocolError as exc:
            reason = f"noded broke the protocol: {exc}"
        except (OSError, asyncssh.Error) as exc:
            reason = f"the connection was lost: {exc}"
        finally:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(self._unreachable())
        with suppress(OSError, asyncssh.Error):
            self._writer.close()

    def _handle(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._event(message["event"], message.get("data"))
            return
        answer = self._pending.get(message.get("id", 0))
        if answer is None or answer.done():
            return  # Its request was given up.
        if "error" in message:
            answer.set_exception(self._error(message["error"]))
        elif isinstance(message.get("result"), dict):
            answer.set_result(message["result"])
        else:
            answer.set_exception(ProtocolError(f"node {self.node}: an answer has neither a result nor an error"))

    def _event(self, event: object, data: object) -> None:
        if event == "telemetry":
            self._on_event(self._record(Telemetry, data, "telemetry"))
        elif event == "server_exited":
            self._on_event(self._record(ServerStatus, data, "server_exited"))
        else:
            log.debug("node %s: unknown event %.40r", self.node, event)

    def _record(self, record: type[T], data: object, what: str) -> T:
        try:
            return from_json(record, data, what)
        except InvalidField as exc:
            raise ProtocolError(f"node {self.node}: {exc}") from exc

    def _error(self, error: object) -> AgentFarmError:
        if not isinstance(error, dict):
            return ProtocolError(f"node {self.node}: an error is not a JSON object")
        reason, facts = str(error.get("reason", "error")), error.get("facts")
        message = f"node {self.node}: {error.get('message', 'noded gave no message')}"
        if reason == "protocol":
            return ProtocolError(f"{message} ({self._same_version()})")
        kind = {"gpu_busy": GpuBusy, "launch_failed": LaunchFailed}.get(reason, NodedError)
        return kind(message, reason, facts if isinstance(facts, dict) else {})

    def _same_version(self) -> str:
        restart = f"`agentfarm nodes restart-noded {self.node}`"
        return f"install the same jupyterhub-agentfarm on both, then run {restart}"

    def _unreachable(self) -> NodeUnreachable:
        return NodeUnreachable(self.node, self._lost or "the connection to noded was closed")
