"""ASGI applications inside a service: tornado's request in, the application's answer out, in one process.

So a library that speaks ASGI is served with the service's own authentication, certificates and port. What the
application is given and promised:

- who asks was identified before, as for every other handler; `scope()` of a subclass passes it on
- the body at once: the service has read it, within its bounds
- every part of the answer is on its way when `send` returns, and a client that reads slowly holds `send` back
- a client that goes away is seen: `receive` tells it, `scope["state"]["gone"]` is set, and after a short grace the
  application's call is cancelled. Nothing of it goes on after the request
- an answer that does not begin in time is 504
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from tornado import iostream, web

from .handlers import ServiceHandler

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: Headers of one connection, which are tornado's own business.
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade"})


class ClientGone(OSError):
    """The client went away before its answer was complete."""


class AsgiHandler(ServiceHandler):
    """A handler whose answers are those of an ASGI application."""

    #: Time for the first part of an answer, in seconds.
    start_seconds = 60.0
    #: Time that the application has to end when its client went away, in seconds.
    leave_seconds = 2.0

    def initialize(self) -> None:
        """Begin with an answer of nothing."""
        self._gone = asyncio.Event()
        self._begun = asyncio.Event()
        self._body_given = False

    def asgi_app(self) -> AsgiApp:
        """Return the application."""
        raise NotImplementedError

    def asgi_scope(self) -> Mapping[str, Any]:
        """Return what the application's scope has beyond the request, such as `user`."""
        return {}

    async def get(self) -> None:
        """Answer as the application does."""
        await self._call()

    async def post(self) -> None:
        """Answer as the application does."""
        await self._call()

    async def delete(self) -> None:
        """Answer as the application does."""
        await self._call()

    def on_connection_close(self) -> None:
        """Tell the application that its client went away."""
        self._gone.set()

    async def _call(self) -> None:
        # Small parts follow each other; with Nagle's algorithm the second would wait for the client's delayed ACK.
        self.request.connection.stream.set_nodelay(True)  # type: ignore[union-attr]
        call: asyncio.Future[Any] = asyncio.ensure_future(self.asgi_app()(self._scope(), self._receive, self._send))
        try:
            await self._watch(call)
            call.result()
        except (ClientGone, ExceptionGroup):  # a group: from an application whose tasks met the same end
            if not self._gone.is_set():
                raise
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
        finally:
            await _end(call)
        await self._complete()

    async def _watch(self, call: asyncio.Future[Any]) -> None:
        """Return when the call has ended, or has been ended because nobody waits for it."""
        begun: asyncio.Future[Any] = asyncio.ensure_future(self._begun.wait())
        gone: asyncio.Future[Any] = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({call, begun, gone}, timeout=self.start_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not (call.done() or begun.done() or gone.done()):
                raise web.HTTPError(504, f"there was no answer within {self.start_seconds:g} s")
            await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                await asyncio.wait({call}, timeout=self.leave_seconds)
                call.cancel()
                await asyncio.wait({call})
        finally:
            begun.cancel()
            gone.cancel()

    async def _complete(self) -> None:
        if not (self._finished or self._gone.is_set()):
            raise web.HTTPError(500, "the application ended without an answer")

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer an error; in the middle of an answer end the connection, so that half of one does not look whole."""
        if self._headers_written and not self._finished:
            self.detach().close()
        else:
            super().send_error(status_code, **kwargs)

    def _scope(self) -> MutableMapping[str, Any]:
        request = self.request
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.get_all()
        ]
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.version.removeprefix("HTTP/"),
            "method": request.method,
            "scheme": request.protocol,
            "path": request.path,
            "raw_path": request.path.encode("latin-1"),
            "query_string": request.query.encode("latin-1"),
            "root_path": "",
            "headers": headers,
            "client": (request.remote_ip, 0),
            "server": None,
            "state": {"gone": self._gone},
        }
        extra = dict(self.asgi_scope())
        scope["state"] |= extra.pop("state", {})
        return scope | extra

    async def _receive(self) -> Message:
        if not self._body_given:
            self._body_given = True
            return {"type": "http.request", "body": self.request.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._gone.is_set():
            raise ClientGone("the client went away")
        if message["type"] == "http.response.start":
            self._start(message)
            return
        try:
            self.write(bytes(message.get("body", b"")))
            if message.get("more_body", False):
                await self.flush()
            else:
                await self.finish()
        except iostream.StreamClosedError as exc:
            self._gone.set()
            raise ClientGone("the client went away") from exc

    def _start(self, message: Message) -> None:
        self.set_status(message["status"])
        self.clear_header("Content-Type")
        for name, value in message.get("headers", ()):
            if (text := name.decode("latin-1")).lower() not in _HOP_BY_HOP:
                self.add_header(text, value.decode("latin-1"))
        self._begun.set()


async def _end(call: asyncio.Future[Any]) -> None:
    """Cancel `call` unless it has ended, and take its end."""
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
