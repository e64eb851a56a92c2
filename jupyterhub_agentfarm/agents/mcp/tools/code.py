"""Tools that execute code in named kernels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Annotated, Any

from mcp_types import CallToolResult, ImageContent, ToolAnnotations
from pydantic import Field

from ....errors import AgentFarmError
from ...jupyter.execution import Ended
from ...jupyter.kernel_connection import KernelConnection
from ...jupyter.kernels import kernel_name
from ...jupyter.outputs import Outputs
from .answers import Tools, answer, tool
from .caller import Caller, Ctx, ToolDesk, caller_of
from .servers import ServerName

MAX_SECONDS = 3600.0
MAX_OUTPUT = 30_000
#: Time beyond an execution's own, in seconds: for the kernel's start, and for an interrupt.
_MARGIN_SECONDS = 120.0
#: Code that ends within this time sends no news before its answer, which so needs no stream.
_PACE_SECONDS = 0.1
#: While code says nothing the client is told so often that it goes on, in seconds.
_QUIET_SECONDS = 10.0
_ACTS = ToolAnnotations(destructive_hint=True, open_world_hint=False)
#: Ends that are no result of the code.
_FAILED = frozenset({"kernel_died", "kernel_restarted", "server_lost", "output_lost", "aborted"})

KernelName = Annotated[
    str,
    Field(description="Name of a kernel on that server; each has its own variables.", max_length=64, min_length=1),
]


class CodeTools(Tools):
    """Tools that execute code, and for the kernels that do."""

    @tool(MAX_SECONDS + _MARGIN_SECONDS, ToolAnnotations(destructive_hint=True, open_world_hint=True))
    async def execute_code(
        self,
        ctx: Ctx,
        code: Annotated[str, Field(description="What to execute, as in a notebook's cell.", max_length=1_000_000)],
        server: ServerName = "",
        kernel: KernelName = "main",
        language: Annotated[str, Field(description="Of a new kernel: python (the default), R, …", max_length=64)] = "",
        timeout_seconds: Annotated[float, Field(description="Then it is interrupted.", gt=0, le=MAX_SECONDS)] = 120,
        max_output: Annotated[int, Field(description="Characters of output.", ge=200, le=MAX_OUTPUT)] = 10_000,
    ) -> CallToolResult:
        """Execute code on your server and return what it shows: text, the value of the last line, images, errors.

        The kernel is persistent: variables, imports and files stay for your next call with the same kernel name. The
        working directory is the root of your workspace. Plots come back as images. An exception is returned with its
        traceback: read it, correct the code, and call again. When the output is long its middle is left out; print
        less, or write to a file. Work of more than some minutes is better submitted by submit_task.
        """
        outputs = Outputs(max_output)
        began = time.monotonic()
        connection = await _connection(self.desk, caller_of(ctx), server, kernel, language)
        ended = await _follow(ctx, outputs, connection.execute(code, timeout_seconds, outputs))
        return _answer(kernel, connection, ended, outputs, time.monotonic() - began)

    @tool(_MARGIN_SECONDS, _ACTS)
    async def interrupt_kernel(self, ctx: Ctx, server: ServerName = "", kernel: KernelName = "main") -> CallToolResult:
        """Interrupt what a kernel executes, as Ctrl+C does; its variables stay."""
        await self.desk.kernels.act(await self.desk.server(caller_of(ctx), server), kernel, "interrupt")
        return answer({"server": server, "kernel": kernel, "done": "interrupted"})

    @tool(_MARGIN_SECONDS, _ACTS)
    async def restart_kernel(self, ctx: Ctx, server: ServerName = "", kernel: KernelName = "main") -> CallToolResult:
        """Restart a kernel: its variables and imports are gone, files stay. For a kernel that hangs or is too large."""
        await self.desk.kernels.act(await self.desk.server(caller_of(ctx), server), kernel, "restart")
        return answer({"server": server, "kernel": kernel, "done": "restarted"})

    @tool(_MARGIN_SECONDS, _ACTS)
    async def shutdown_kernel(self, ctx: Ctx, server: ServerName = "", kernel: KernelName = "main") -> CallToolResult:
        """End a kernel and free its memory; its variables are gone, and its name can be used for a new one."""
        await self.desk.kernels.act(await self.desk.server(caller_of(ctx), server), kernel, "shutdown")
        return answer({"server": server, "kernel": kernel, "done": "shut down"})

    @tool(60, ToolAnnotations(read_only_hint=True, open_world_hint=False))
    async def list_kernels(self, ctx: Ctx, server: ServerName = "") -> CallToolResult:
        """List the kernels of a server, and whether they are idle or busy.

        The ones with an id as their name belong to notebooks; interrupt, restart and shut down take that id too.
        """
        there = await self.desk.server(caller_of(ctx), server)
        return answer({"server": server, "kernels": [_view(one) for one in await self.desk.kernels.sessions(there)]})


async def _connection(desk: ToolDesk, caller: Caller, server: str, kernel: str, language: str) -> KernelConnection:
    """Return a connection to the kernel; one that is open is taken without a question to the Hub."""
    warm = desk.kernels.warm(caller.token, server, kernel)
    if warm is not None and language in ("", warm.spec):
        return warm
    return await desk.kernels.connection(await desk.server(caller, server), kernel, language)


async def _follow(ctx: Ctx, outputs: Outputs, execution: Coroutine[Any, Any, Ended]) -> Ended:
    """Execute, and tell the client what is shown meanwhile; a client that goes away ends the execution."""
    began = time.monotonic()
    gone = asyncio.ensure_future(caller_of(ctx).gone.wait())
    running = asyncio.ensure_future(execution)
    running.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to take it
    try:
        await asyncio.wait({running, gone}, timeout=_PACE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        while not (running.done() or gone.done()):
            await ctx.report_progress(round(time.monotonic() - began, 3), None, outputs.news() or None)
            await _pause(running, gone, outputs)
        if not running.done():
            raise ClientLeft("the client went away")
        return running.result()
    finally:
        gone.cancel()
        running.cancel()


async def _pause(running: asyncio.Future[Any], gone: asyncio.Future[Any], outputs: Outputs) -> None:
    """Wait for news or an end, and not less than the pace."""
    news = asyncio.ensure_future(outputs.changed.wait())
    try:
        ended = {running, gone}
        await asyncio.wait({*ended, news}, timeout=_QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(ended, timeout=_PACE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        news.cancel()


class ClientLeft(AgentFarmError):
    """Nobody waits for the answer any more."""

    reason = "client_left"
    http_status = 499


def _answer(
    kernel: str, connection: KernelConnection, ended: Ended, outputs: Outputs, seconds: float
) -> CallToolResult:
    transcript = outputs.transcript()
    data: dict[str, Any] = {"status": ended.status, "output": transcript, "truncated": outputs.truncated}
    data |= {"server": connection.server.name, "kernel": kernel, "language": connection.spec}
    data |= {"execution_count": ended.execution_count, "seconds": round(seconds, 3), "images": len(outputs.images)}
    parts = [transcript.rstrip("\n")]
    if outputs.error is not None:
        data["error"] = asdict(outputs.error)
        parts.append(outputs.error.traceback or f"{outputs.error.ename}: {outputs.error.evalue}")
    if ended.detail:
        data["detail"] = ended.detail
        parts.append(f"[{ended.status}: {ended.detail}]")
    text = "\n".join(part for part in parts if part) or "[done, nothing was shown]"
    images = [ImageContent(type="image", data=image.data, mime_type=image.mime_type) for image in outputs.images]
    result = answer(data, text, *images)
    result.is_error = ended.status in _FAILED
    return result


def _view(session: dict[str, Any]) -> dict[str, Any]:
    kernel = session["kernel"]
    return {
        "kernel": kernel_name(session),
        "language": kernel["name"],
        "state": kernel.get("execution_state"),
        "last_activity": kernel.get("last_activity"),
        "belongs_to": session.get("name") or session.get("path"),
    }
