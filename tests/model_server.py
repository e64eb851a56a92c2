"""A model server without a model: it speaks OpenAI's chat completions, and says what a script tells it to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tornado import httpserver, netutil, web

KEY = "the-key-of-the-tests"
Messages = list[dict[str, Any]]


class Call:
    """A step of a script: a call of a tool."""

    def __init__(self, tool: str, **arguments: Any) -> None:
        self.tool, self.arguments = tool, arguments

    def message(self, messages: Messages) -> dict[str, Any]:
        """Return the assistant's message."""
        function = {"name": self.tool, "arguments": json.dumps(self.arguments)}
        call = {"id": f"call_{len(messages)}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}


class Say:
    """A step of a script: words, or what a function makes of the conversation so far."""

    def __init__(self, words: str | Callable[[Messages], str]) -> None:
        self._words = words

    def message(self, messages: Messages) -> dict[str, Any]:
        """Return the assistant's message."""
        return {"role": "assistant", "content": self._words if isinstance(self._words, str) else self._words(messages)}


Step = Call | Say


class ModelServer:
    """The server; `script` is what it says next, and its last step is repeated."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.script: list[Step] = []
        self.requests: list[dict[str, Any]] = []
        #: Statuses that the next requests are answered with instead.
        self.failures: list[int] = []

    def play(self, *script: Step) -> None:
        """Begin with a script."""
        self.script, self.requests, self.failures = list(script), [], []

    def next(self, messages: Messages) -> dict[str, Any]:
        """Return what the script says next."""
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return step.message(messages)


class _Completions(web.RequestHandler):
    def post(self) -> None:
        """Answer a completion."""
        server: ModelServer = self.settings["model"]
        if self.request.headers.get("Authorization") != f"Bearer {KEY}":
            raise web.HTTPError(401)
        if server.failures:
            self.set_status(server.failures.pop(0))
            self.finish({"error": {"message": "busy"}})
            return
        body = json.loads(self.request.body)
        server.requests.append(body)
        message = server.next(body["messages"])
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        self.finish({"id": "c", "object": "chat.completion", "created": 0, "model": body["model"],
                     "choices": [choice], "usage": usage})  # fmt: skip


def tool_results(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the tools have answered in a conversation."""
    return [_text(message["content"]) for message in messages if message["role"] == "tool"]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    """Serve on a free port."""
    (socket,) = netutil.bind_sockets(0, "127.0.0.1")
    model = ModelServer(socket.getsockname()[1])
    server = httpserver.HTTPServer(web.Application([(r"/v1/chat/completions", _Completions)], model=model))  # type: ignore[arg-type]
    server.add_socket(socket)
    try:
        yield model
    finally:
        server.stop()
        await server.close_all_connections()
