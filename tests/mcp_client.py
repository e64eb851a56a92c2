"""MCP sessions of the SDK's own client with the agents service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent


class Session:
    """A connected client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        #: What the last call's progress said, in its order.
        self.told: list[str] = []

    async def call(self, tool: str, **arguments: Any) -> CallToolResult:
        """Call a tool."""
        self.told = []

        async def progress(progress: float, total: float | None, message: str | None) -> None:
            if message:
                self.told.append(message)

        return await self.client.call_tool(tool, arguments, progress_callback=progress)

    async def data(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that works, and return its data."""
        result = await self.call(tool, **arguments)
        assert not result.is_error, text_of(result)
        assert result.structured_content is not None
        return result.structured_content

    async def error(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that fails, and return its error."""
        result = await self.call(tool, **arguments)
        assert result.is_error, text_of(result)
        return result.structured_content or {"message": text_of(result)}

    async def code(self, code: str, **arguments: Any) -> dict[str, Any]:
        """Execute code."""
        return await self.data("execute_code", code=code, **arguments)


def text_of(result: CallToolResult) -> str:
    """Return the text of a result."""
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def images_of(result: CallToolResult) -> list[ImageContent]:
    """Return the images of a result."""
    return [block for block in result.content if isinstance(block, ImageContent)]


@asynccontextmanager
async def mcp_session(url: str, token: str, mode: str = "auto") -> AsyncIterator[Session]:
    """Connect with a token; `mode` "legacy" is a client older than protocol version 2026-07-28."""
    ready: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()
    # In a task of its own, as the SDK wants what it enters to be left by the same task: fixtures end in another one.
    holding = asyncio.ensure_future(_hold(url, token, mode, ready, done))
    await asyncio.wait({holding, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if holding.done():
            await holding
        yield await ready
    finally:
        done.set()
        await holding


async def _hold(url: str, token: str, mode: str, ready: asyncio.Future[Session], done: asyncio.Event) -> None:
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=httpx2.Timeout(30, read=120))
    async with http, Client(streamable_http_client(url, http_client=http), mode=mode) as client:
        ready.set_result(Session(client))
        await done.wait()
