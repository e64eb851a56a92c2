"""The REST API of one Jupyter server behind the Hub's proxy, with the token of whoever asks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp

from ...errors import NotFoundError, ServerNotRunning, ServerRefused, ServerUnreachable

#: Deadline of a request, in seconds.
REQUEST_SECONDS = 30.0
#: Statuses with which proxy and Hub answer for a server that is not there.
_NOT_RUNNING = frozenset({301, 302, 303, 307, 308, 424})
_NOT_REACHED = frozenset({502, 503, 504})


def open_session() -> aiohttp.ClientSession:
    """Return a session for any number of servers; each request carries its own token."""
    # Without a cookie jar: a cookie beside a token would bring the server's XSRF check upon us, or mix users up.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, connect=10)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())


@dataclass(frozen=True)
class JupyterServer:
    """A server as one caller reaches it."""

    session: aiohttp.ClientSession = field(repr=False, compare=False)
    #: Through the proxy, with a slash at the end.
    url: str
    #: Name of the server, for messages; "" is the default one.
    name: str
    token: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What identifies the caller."""
        return {"Authorization": f"token {self.token}"}

    @property
    def label(self) -> str:
        """The server, in a sentence."""
        return f"the server {self.name!r}" if self.name else "the default server"

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> Any:
        """Return the decoded answer to a request, None when it is empty.

        Parameters
        ----------
        path
            Below ``api/``, quoted.
        seconds
            Its deadline.

        Raises
        ------
        ServerNotRunning
            The Hub says so.
        ServerUnreachable
            It did not answer.
        NotFoundError
            The server has no such thing.
        ServerRefused
            The server refused.
        """
        about: dict[str, Any] = {"headers": self.headers, "timeout": aiohttp.ClientTimeout(total=seconds, connect=10)}
        try:
            async with self.session.request(
                method, f"{self.url}api/{path}", json=body, params=query, allow_redirects=False, **about
            ) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise ServerUnreachable(f"{self.label} does not answer ({type(exc).__name__})") from exc
        return self._answer(response.status, text)

    def _answer(self, status: int, text: str) -> Any:
        try:
            data = json.loads(text) if text else None
        except ValueError:
            data = None
        if status in _NOT_RUNNING:
            raise ServerNotRunning(f"{self.label} is not running")
        if status in _NOT_REACHED:
            raise ServerUnreachable(f"{self.label} cannot be reached through the proxy")
        if status >= 400:
            message = str((data or {}).get("message") or f"status {status}") if isinstance(data, dict) else str(status)
            raise NotFoundError(message) if status == 404 else ServerRefused(f"{self.label} refused: {message}", status)
        return data


def quoted(path: str) -> str:
    """Return a path of the workspace as a part of a URL."""
    return quote(path.strip("/"))
