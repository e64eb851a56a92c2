"""How tools answer: a text for the model and the same as data; errors as values."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec

from mcp.server import MCPServer
from mcp_types import CallToolResult, ContentBlock, TextContent, ToolAnnotations

from ....errors import AgentFarmError

if TYPE_CHECKING:
    from .caller import ToolDesk

P = ParamSpec("P")
Tool = Callable[P, Awaitable[CallToolResult]]

#: Clients of the SDK take events of at most 1 MiB; an answer that is longer goes without its data.
MAX_ANSWER_BYTES = 1_000_000


class ServiceRefused(AgentFarmError):
    """The service's own API refused.

    Its answer is passed on: reason, message and facts are those of the answer.
    """

    def __init__(self, answer: dict[str, Any], status: int) -> None:
        self._answer = answer
        self.http_status = status  # type: ignore[misc]
        super().__init__(str(answer.get("message") or f"the service answered {status}"))

    def facts(self) -> dict[str, object]:
        """Return the facts of the answer, its reason among them."""
        return {key: value for key, value in self._answer.items() if key != "message"}


def answer(data: dict[str, Any], text: str | None = None, *more: ContentBlock) -> CallToolResult:
    """Return an answer.

    Parameters
    ----------
    data
        For programs.
    text
        For the model; None: `data` as JSON.
    more
        Further content, such as images.
    """
    shown = json.dumps(data, ensure_ascii=False) if text is None else text
    content: list[ContentBlock] = [TextContent(type="text", text=shown), *more]
    return _within_bounds(CallToolResult(content=content, structured_content=data))


def failure(error: AgentFarmError) -> CallToolResult:
    """Return an error as a value: a sentence, a fixed reason, and facts."""
    data = {"reason": error.reason, **error.facts(), "message": error.message}
    text = f"{error.message} (reason: {data['reason']})"
    content: list[ContentBlock] = [TextContent(type="text", text=text)]
    return _within_bounds(CallToolResult(content=content, structured_content=data, is_error=True))


def bounded(seconds: float) -> Callable[[Tool[P]], Tool[P]]:
    """Return a decorator for tools: what goes wrong is answered, also that it takes longer than `seconds`."""

    def decorate(function: Tool[P]) -> Tool[P]:
        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> CallToolResult:
            """Call the tool."""
            try:
                async with asyncio.timeout(seconds) as limit:
                    return await function(*args, **kwargs)
            except AgentFarmError as exc:
                return failure(exc)
            except TimeoutError:
                if not limit.expired():
                    raise
                return failure(TookTooLong(f"this took longer than {seconds:g} s and was given up"))

        return call

    return decorate


def tool(seconds: float, annotations: ToolAnnotations) -> Callable[[Tool[P]], Tool[P]]:
    """Return a decorator that makes a method of :class:`Tools` a tool, which may take so many seconds."""

    def decorate(function: Tool[P]) -> Tool[P]:
        made = bounded(seconds)(function)
        made.annotations = annotations  # type: ignore[attr-defined]
        return made

    return decorate


class Tools:
    """Some of the tools; each method that is marked by `tool` is one, its docstring is what models read of it.

    Parameters
    ----------
    desk
        What the tools work with.
    """

    def __init__(self, desk: ToolDesk) -> None:
        self.desk = desk

    def add_to(self, mcp: MCPServer[Any]) -> None:
        """Add the tools to a server."""
        for name in vars(type(self)):
            method = getattr(self, name)
            if hasattr(method, "annotations"):
                mcp.add_tool(method, description=inspect.getdoc(method), annotations=method.annotations)


class TookTooLong(AgentFarmError):
    """A tool did not end in its time."""

    reason = "took_too_long"
    http_status = 504


class AnswerTooLong(AgentFarmError):
    """There is more than can be answered: ask for less."""

    reason = "answer_too_long"
    http_status = 502


def _within_bounds(result: CallToolResult) -> CallToolResult:
    """Return a result that MCP clients take: without its data where it would be too long with it."""
    size = len(json.dumps(result.structured_content))
    for block in result.content:
        size += len(json.dumps(block.text)) if isinstance(block, TextContent) else len(getattr(block, "data", ""))
    if size <= MAX_ANSWER_BYTES:
        return result
    return CallToolResult(content=result.content, is_error=result.is_error)
