"""An application that keeps no more of a request's body than it says it reads.

tornado ends the connection of a request that is longer than the server's limit, with an answer that has no words and
often does not arrive. Here what is beyond the limit is read and dropped, and the handler answers 413 with the reason.
Of a body that is declared to be longer nothing is kept.
"""

from __future__ import annotations

from typing import Any

from tornado import httputil, web


class BoundedApplication(web.Application):
    """A tornado application; the most of a body that handlers see is a setting of it.

    A handler's class names the setting as its `body_bound`; for those that do not it is `max_body_bytes`.
    """

    def get_handler_delegate(
        self, request: httputil.HTTPServerRequest, target_class: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the delegate of a request, within bounds."""
        most = self.settings[getattr(target_class, "body_bound", "max_body_bytes")]
        return _Bounded(super().get_handler_delegate(request, target_class, *args, **kwargs), request, most)


class _Bounded(httputil.HTTPMessageDelegate):
    def __init__(self, inner: Any, request: httputil.HTTPServerRequest, most: int) -> None:
        self._inner, self._request, self._left = inner, request, most

    def headers_received(self, start_line: Any, headers: httputil.HTTPHeaders) -> Any:
        declared = headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared[:20]) > self._left:
            self._drop_all()
        return self._inner.headers_received(start_line, headers)

    def _drop_all(self) -> None:
        self._left = -1
        self._request.too_large = True  # type: ignore[attr-defined]

    def data_received(self, chunk: bytes) -> Any:
        self._left -= len(chunk)
        if self._left < 0:
            self._drop_all()
            return None
        return self._inner.data_received(chunk)

    def finish(self) -> None:
        self._inner.finish()

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()


def is_too_large(request: httputil.HTTPServerRequest) -> bool:
    """Whether a part of the request's body was dropped."""
    return getattr(request, "too_large", False)
