"""An application that keeps no more of a request's body than it says it reads.

tornado ends the connection of a request that is longer than the server's limit, with an answer that has no words and
often does not arrive. Here what is beyond the limit is read and dropped, and the handler answers 413 with the reason.
"""

from __future__ import annotations

from typing import Any

from tornado import httputil, web


class BoundedApplication(web.Application):
    """A tornado application; its setting `max_body_bytes` is the most of a body that handlers see."""

    def find_handler(self, request: httputil.HTTPServerRequest, **kwargs: Any) -> Any:
        """Return the delegate of a request, within bounds."""
        return _Bounded(super().find_handler(request, **kwargs), request, self.settings["max_body_bytes"])


class _Bounded(httputil.HTTPMessageDelegate):
    def __init__(self, inner: Any, request: httputil.HTTPServerRequest, most: int) -> None:
        self._inner, self._request, self._left = inner, request, most

    def headers_received(self, start_line: Any, headers: httputil.HTTPHeaders) -> Any:
        return self._inner.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Any:
        self._left -= len(chunk)
        if self._left < 0:
            self._request.too_large = True  # type: ignore[attr-defined]
            return None
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()


def is_too_large(request: httputil.HTTPServerRequest) -> bool:
    """Whether a part of the request's body was dropped."""
    return getattr(request, "too_large", False)
