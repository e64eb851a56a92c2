"""One controller's connection: lines in, lines out, nothing that another connection could notice.

A controller that reads slowly loses the oldest telemetry first. It never loses an answer or a ``server_exited``:
when too many of those wait for it, the connection ends, and a new one asks for everything anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from jupyterhub_agentfarm.errors import AgentFarmError, NodedError, ProtocolError
from jupyterhub_agentfarm.faults import Edge
from jupyterhub_agentfarm.protocol import Event, decode, encode

log = logging.getLogger(__name__)

_MAX_TELEMETRY = 4
_MAX_WAITING = 1000
_MAX_REQUESTS = 64
#: What a peer is told of a fault.
_FAILED = {"reason": "error", "message": "noded failed; its log on the node says why", "facts": {}}

#: Carries out one request: the connection, the method's name, its params.
Dispatch = Callable[["Connection", str, Any], Awaitable[Any]]


class Connection:
    """Reads requests, answers them in any order, and passes events on.

    Parameters
    ----------
    reader, writer
        The connection's streams; the reader's limit is the protocol's longest line.
    dispatch
        Carries out a request.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dispatch: Dispatch) -> None:
        self._reader, self._writer, self._dispatch = reader, writer, dispatch
        #: The peer said hello in our version.
        self.greeted = False
        #: The peer wants events.
        self.subscribed = False
        self._telemetry: deque[bytes] = deque(maxlen=_MAX_TELEMETRY)
        self._waiting: deque[bytes] = deque()
        self._something = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until the peer goes, or does not keep to the protocol."""
        sender = asyncio.create_task(self._send())
        try:
            await self._receive()
        except ProtocolError as exc:
            log.warning("Ending a connection: %s", exc)
        except ConnectionError:
            log.debug("A connection was lost", exc_info=True)
        finally:
            tasks = [sender, *self._requests]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.transport.abort()

    def end(self) -> None:
        """End the connection."""
        self._writer.transport.abort()

    # ---- in --------------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            try:
                line = await self._reader.readline()
            except ValueError as exc:
                raise ProtocolError("a line is longer than the protocol allows") from exc
            if not line.endswith(b"\n"):
                return
            message = decode(line)
            task = asyncio.create_task(self._request(message))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
            if len(self._requests) >= _MAX_REQUESTS:
                await asyncio.wait(self._requests, return_when=asyncio.FIRST_COMPLETED)

    async def _request(self, message: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"error": _FAILED}
        with Edge(log, f"The method {message.get('method')!r} failed"):
            answer = await self._answer(message)
        self._put(encode({"id": message.get("id")} | answer))

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            method = message.get("method")
            if not isinstance(method, str):
                raise ProtocolError("a request has no method")
            return {"result": await self._dispatch(self, method, message.get("params", {}))}
        except AgentFarmError as exc:
            return {"error": error_body(exc)}

    # ---- out -------------------------------------------------------------------------------------------------

    def event(self, name: Event, data: Any) -> None:
        """Send an event, if the peer subscribed."""
        if not self.subscribed:
            return
        line = encode({"event": name, "data": data})
        if name == "telemetry":
            self._telemetry.append(line)
            self._something.set()
        else:
            self._put(line)

    def _put(self, line: bytes) -> None:
        self._waiting.append(line)
        self._something.set()
        if len(self._waiting) > _MAX_WAITING:
            log.warning("Ending a connection: its peer does not read; %s messages wait for it", len(self._waiting))
            self.end()

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self._something.wait()
                self._something.clear()
                while self._waiting or self._telemetry:
                    queue = self._waiting or self._telemetry
                    self._writer.write(queue.popleft())
                    await self._writer.drain()


def error_body(exc: AgentFarmError) -> dict[str, Any]:
    """Return the ``error`` of an answer."""
    if isinstance(exc, NodedError):
        return {"reason": exc.remote_reason, "message": exc.message, "facts": exc.remote_facts}
    return {"reason": exc.reason, "message": exc.message, "facts": exc.facts()}
