"""The WebSocket to one kernel, and what is executed over it.

A kernel executes one thing at a time, so executions over one connection wait for each other. A connection that is lost
in the middle of one is made again for some seconds, with the same session id: the server has kept the messages. When
that cannot be, or the server says that the kernel died or was restarted, the executions end with that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Any, Literal

import aiohttp

from ...errors import AgentFarmError, KernelBusy, NotFoundError, ServerNotRunning, ServerUnreachable
from ...tasks import OwnedTasks
from .execution import Ended, Execution, Status
from .kernel_messages import SUBPROTOCOL, KernelMessage, decode, encode_request
from .outputs import Outputs
from .server_api import JupyterServer

#: The longest message of a kernel that is taken; a longer one ends the connection, which is then made again.
MAX_MESSAGE_BYTES = 64 * 2**20
#: Pause between pings, in seconds; without an answer within half of it the connection is lost.
HEARTBEAT_SECONDS = 8.0
#: How long a lost connection is tried to be made again, in seconds.
RECONNECT_SECONDS = 5.0
#: How long code has to end after an interrupt, in seconds.
INTERRUPT_SECONDS = 5.0
#: Frames from this size on are read in a thread.
_LARGE_BYTES = 2**18
_PROBE_SECONDS = 2.0
#: Times that code is sent which the kernel drops because something before it failed.
_TRIES = 3

_RESTARTED = "the kernel was restarted: variables and imports are gone"
_SHUT_DOWN = "the kernel was shut down"
_DIED = (
    "the kernel died, for example because it used too much memory, and starts anew: variables and imports are gone. "
    "Send the code again in smaller parts"
)


class KernelConnection:
    """One kernel of a server, as one caller uses it.

    Parameters
    ----------
    server
        The kernel's server.
    kernel_id
        Its id there.
    spec
        Name of its kernelspec.
    tasks
        Owner of what goes on in the background.
    """

    def __init__(self, server: JupyterServer, kernel_id: str, spec: str, tasks: OwnedTasks) -> None:
        self.server, self.kernel_id, self.spec = server, kernel_id, spec
        self.used_at = time.monotonic()
        self._tasks = tasks
        self._session_id = uuid.uuid4().hex
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._executions: dict[str, Execution] = {}
        self._line = asyncio.Lock()
        self._seen_working = False

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        ServerUnreachable
            There is no connection.
        """
        self._socket = await self._connect()
        self._reader = self._tasks.start(self._read(), f"messages of kernel {self.kernel_id}")

    async def aclose(self) -> None:
        """Close the connection; the kernel goes on. A second call does nothing."""
        self._end_all("server_lost", "the connection to the kernel was closed")
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    @property
    def alive(self) -> bool:
        """Whether something can be executed over it."""
        return self._reader is not None and not self._reader.done()

    @property
    def busy(self) -> bool:
        """Whether something is executed over it."""
        return bool(self._executions) or self._line.locked()

    # ---- executing ------------------------------------------------------------------------------------------------

    async def execute(self, code: str, seconds: float, outputs: Outputs) -> Ended:
        """Execute code and return how it ended; when cancelled, the code is interrupted.

        Parameters
        ----------
        seconds
            After that the code is interrupted.

        Raises
        ------
        KernelBusy
            What was sent over this connection before did not end in that time.
        ServerUnreachable
            The connection is lost.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        for _ in range(_TRIES):
            await self._wait_in_line(deadline, seconds)
            ended = await self._execute(code, deadline, seconds, outputs)
            if ended.status != "aborted":
                break
        return ended

    async def _wait_in_line(self, deadline: float, seconds: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._line.acquire()
        except TimeoutError as exc:
            raise KernelBusy(f"the kernel was busy for {seconds:g} s with code that was sent before") from exc

    async def _execute(self, code: str, deadline: float, seconds: float, outputs: Outputs) -> Ended:
        """Execute code while in line, and leave the line."""
        execution = Execution(outputs)
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {},
                   "allow_stdin": False, "stop_on_error": True}  # fmt: skip
        identity, frame = encode_request("shell", "execute_request", content, self._session_id)
        self._executions[identity] = execution
        try:
            await self._send(frame)
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait({execution.ended}, timeout=max(left, 0))
            ended = execution.ended.result() if execution.ended.done() else await self._time_out(execution, seconds)
        except asyncio.CancelledError:
            self._tasks.start(self._abandon(identity), f"end of what is executed in kernel {self.kernel_id}")
            raise
        except ServerUnreachable:
            self._leave(identity)
            raise
        self._leave(identity)
        return ended

    async def _abandon(self, identity: str) -> None:
        """End what nobody waits for any more; the kernel would drop what is sent before that."""
        execution = self._executions[identity]
        if execution.begun and not execution.ended.done():
            await self._interrupt()
        await asyncio.wait({execution.ended}, timeout=INTERRUPT_SECONDS)
        self._leave(identity)

    def _leave(self, identity: str) -> None:
        del self._executions[identity]
        self.used_at = time.monotonic()
        self._line.release()

    async def _time_out(self, execution: Execution, seconds: float) -> Ended:
        if not execution.begun:
            return Ended("timeout", f"the kernel was busy with somebody else's code for all {seconds:g} s; yours waits "
                         "in its line and will still be executed")  # fmt: skip
        await self._interrupt()
        await asyncio.wait({execution.ended}, timeout=INTERRUPT_SECONDS)
        if not execution.ended.done():
            return Ended("timeout", f"the code did not end within {seconds:g} s and does not react to an interrupt: "
                         "restart the kernel")  # fmt: skip
        execution.outputs.error = None  # the KeyboardInterrupt that was our own doing
        return Ended("timeout", f"the code did not end within {seconds:g} s and was interrupted; what it had defined "
                     "before is still there", execution.ended.result().execution_count)  # fmt: skip

    async def _interrupt(self) -> None:
        with contextlib.suppress(AgentFarmError):
            await self.server.request("POST", f"kernels/{self.kernel_id}/interrupt", {}, seconds=10)

    async def _send(self, frame: bytes) -> None:
        try:
            if self._socket is None:
                raise ServerUnreachable(f"there is no connection to {self.server.label}")
            await self._socket.send_bytes(frame)
        except (aiohttp.ClientError, ConnectionError) as exc:
            raise ServerUnreachable(f"the connection to {self.server.label} is lost") from exc

    def _end_all(self, status: Status, detail: str, *, begun: bool = False) -> None:
        """End all executions, or those that the kernel has begun: a kernel that was restarted does the others."""
        for execution in list(self._executions.values()):
            if execution.begun or not begun:
                execution.end(status, detail)

    # ---- reading --------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read until the connection is lost and is not worth another."""
        try:
            while True:
                assert self._socket is not None
                async for message in self._socket:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        await self._take_frame(message.data)
                if not self._executions or not await self._reconnect():
                    return
        finally:
            self._end_all("server_lost", "the connection to the kernel ended")

    async def _take_frame(self, frame: bytes) -> None:
        # Whoever has the kernel may send whatever they like over it; what makes no sense is passed over.
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            message = decode(frame) if len(frame) < _LARGE_BYTES else await asyncio.to_thread(decode, frame)
            if message.parent in self._executions:
                self._seen_working = True
                self._executions[message.parent].take(message)
            elif message.channel == "iopub":
                self._heed(message)

    def _heed(self, message: KernelMessage) -> None:
        """Take what is said about the kernel itself."""
        state = message.content.get("execution_state")
        if message.kind == "shutdown_reply":
            again = bool(message.content.get("restart"))
            end: tuple[Status, str] = ("kernel_restarted", _RESTARTED) if again else ("kernel_died", _SHUT_DOWN)
            self._end_all(*end, begun=again)
        elif message.kind == "status" and state in ("restarting", "autorestarting", "dead"):
            self._end_all("kernel_died", _DIED if state != "dead" else "the kernel died and could not be started anew")
        elif message.kind == "status" and state == "starting" and self._seen_working:
            self._end_all("kernel_restarted", _RESTARTED, begun=True)

    # ---- connecting -----------------------------------------------------------------------------------------------

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        url = f"{self.server.url}api/kernels/{self.kernel_id}/channels?session_id={self._session_id}"
        options: dict[str, Any] = {"protocols": (SUBPROTOCOL,), "heartbeat": HEARTBEAT_SECONDS}
        try:
            async with asyncio.timeout(10):
                socket: aiohttp.ClientWebSocketResponse = await self.server.session.ws_connect(
                    url, headers=self.server.headers, max_msg_size=MAX_MESSAGE_BYTES, **options
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise ServerUnreachable(f"there is no connection to the kernels of {self.server.label}") from exc
        if socket.protocol != SUBPROTOCOL:
            await socket.close()
            raise ServerUnreachable(f"{self.server.label} does not speak {SUBPROTOCOL}: it needs jupyter_server 2")
        return socket

    async def _reconnect(self) -> bool:
        """Connect again; where that is no use end the executions, and return False."""
        deadline = time.monotonic() + RECONNECT_SECONDS
        while time.monotonic() < deadline:
            state = await self._kernel_state()
            if state == "gone":
                self._end_all("kernel_died", _SHUT_DOWN)
                return False
            if state == "server_gone":
                break
            with contextlib.suppress(ServerUnreachable):
                if state != "unknown":
                    self._socket = await self._connect()
                    self._tasks.start(self._expect_replies(state), f"replies of kernel {self.kernel_id}")
                    return True
            await asyncio.sleep(0.3)
        self._end_all("server_lost", f"{self.server.label} is gone, and its kernels with it: look at list_servers, and "
                      "start it again")  # fmt: skip
        return False

    async def _kernel_state(self) -> Literal["gone", "server_gone", "unknown", "idle", "busy"]:
        try:
            model = await self.server.request("GET", f"kernels/{self.kernel_id}", seconds=_PROBE_SECONDS)
        except NotFoundError:
            return "gone" if await self._server_answers() else "server_gone"
        except ServerNotRunning:
            return "server_gone"
        except AgentFarmError:
            return "unknown"
        return "idle" if model["execution_state"] == "idle" else "busy"

    async def _server_answers(self) -> bool:
        """Whether what answers is this server: the proxy sends what was a named server's to the default one."""
        try:
            await self.server.request("GET", "status", seconds=_PROBE_SECONDS)
        except AgentFarmError:
            return False
        return True

    async def _expect_replies(self, state: str) -> None:
        """End executions whose replies were lost: the kernel is idle, and nothing comes."""
        waiting = list(self._executions.values())
        await asyncio.sleep(_PROBE_SECONDS)
        if state == "idle" and await self._kernel_state() == "idle":
            for execution in waiting:
                execution.end("output_lost", "the connection was lost for a moment, and with it how the code ended")
