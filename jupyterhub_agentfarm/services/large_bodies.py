"""Handlers whose bodies may be long: who asks is known before anything of a body is kept.

tornado reads a body before it asks the handler, so that whoever may not even be here fills memory. Here the request is
identified when its headers came. The body of one that is refused is read and dropped, and then answered: an answer in
the middle of a body often does not arrive.

What is answered before tornado has looked for a body ends the connection. Such an answer says so: a proxy that keeps
its connections would send the next request on one that is being closed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from tornado import web

from ..errors import AgentFarmError, BodyTooLarge, TooMany
from .bounds import is_too_large
from .handlers import Principal, ServiceHandler

#: Bodies of one user, longer than others may be, that are kept at a time.
LARGE_EACH = 2


@web.stream_request_body
class LargeBodyHandler(ServiceHandler):
    """A handler whose method POST takes long bodies; it gets them by `received`."""

    #: Long bodies that are kept, by who sent them.
    _large: ClassVar[Counter[tuple[str, str]]] = Counter()

    _refusal: Exception | None = None
    _place: tuple[str, str] | None = None
    _complete = False
    _prepared = False

    async def prepare(self) -> None:
        """Identify who asks; a refusal is kept until the body has been dropped."""
        self._chunks = bytearray()
        try:
            await super().prepare()
        except (web.HTTPError, AgentFarmError) as exc:
            if self.request.method != "POST":
                raise
            self._refusal = exc
        self._prepared = True

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error; one that comes before the body is the last answer on its connection."""
        if not self._prepared:
            self.set_header("Connection", "close")
        super().write_error(status_code, **kwargs)

    def data_received(self, chunk: bytes) -> None:
        """Keep a piece of the body, or drop it when the request is refused."""
        if self._refusal is not None or self.request.method != "POST":
            return
        self._chunks += chunk
        if self._place is None and len(self._chunks) > self.settings["max_body_bytes"]:
            self._take_place(self.principal)

    def _take_place(self, principal: Principal) -> None:
        who = (principal.kind, principal.name)
        if self._large[who] >= LARGE_EACH:
            self._refusal = TooMany(f"{LARGE_EACH} long requests of yours are under way: wait until one has ended")
            self._chunks = bytearray()
            return
        self._large[who] += 1
        self._place = who

    def received(self) -> bytes:
        """Return the body; the handler no longer has it.

        Raises
        ------
        tornado.web.HTTPError
            The request was refused before its body came.
        AgentFarmError
            It was refused, or the body is too long.
        """
        self._complete = True
        chunks, self._chunks = self._chunks, bytearray()
        if self._refusal is not None:
            raise self._refusal
        if is_too_large(self.request):
            raise BodyTooLarge(self.settings[self.body_bound])
        return bytes(chunks)

    def on_connection_close(self) -> None:
        """Forget what came of a body whose rest will not come."""
        super().on_connection_close()
        if not self._complete:
            self._refusal = self._refusal or web.HTTPError(400, "the connection was lost")
            self._let_go()

    def on_finish(self) -> None:
        """Let the next body come."""
        self._let_go()

    def _let_go(self) -> None:
        self._chunks = bytearray()
        if self._place is not None:
            self._large[self._place] -= 1
            if not self._large[self._place]:
                del self._large[self._place]
            self._place = None
