"""One notebook on one server, through the server's runs extension.

The notebook runs on the node, beside its kernel; here it is only submitted and followed. A lost connection is no end:
the same question is asked again until `patience` is over or the node is known to be down. Submitting again with the
same key gives the same run.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import aiohttp

from ..errors import NodeUnreachable, RunFailed

T = TypeVar("T")

#: States of the runs extension that a run does not leave.
FINAL_STATES = ("completed", "failed", "cancelled")


class ServerRuns:
    """A client of the runs extension of one server.

    Parameters
    ----------
    session
        Carries the authorization.
    server_url
        Of the server, with a slash at the end.
    node
        Name of the node, for messages.
    """

    def __init__(self, session: aiohttp.ClientSession, server_url: str, node: str) -> None:
        self._session = session
        self._url = server_url.rstrip("/") + "/agentfarm/api/v1/runs"
        self._node = node

    async def submit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a run and return it."""
        return await self._request("POST", "", body)

    async def get(self, run_id: str) -> dict[str, Any]:
        """Return a run."""
        return await self._request("GET", f"/{run_id}")

    async def results(self, run_id: str) -> dict[str, Any]:
        """Return what the notebook published."""
        return await self._request("GET", f"/{run_id}/results")

    async def cancel(self, run_id: str) -> None:
        """Ask for the end of a run."""
        await self._request("POST", f"/{run_id}/cancel", {})

    async def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return a decoded answer.

        Raises
        ------
        NodeUnreachable
            There is no answer of the server's own: it, the proxy or the way to it is gone for now.
        RunFailed
            The server refused.
        """
        try:
            async with self._session.request(method, self._url + path, json=body, allow_redirects=False) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise NodeUnreachable(self._node, f"its server did not answer ({type(exc).__name__}: {exc})") from exc
        if response.status >= 500 or response.status in (301, 302, 303, 307, 308, 424):
            raise NodeUnreachable(self._node, f"the proxy answered {response.status} for its server")
        data = _decoded(text)
        if response.status >= 400:
            message = data.get("message") if isinstance(data, dict) else None
            raise RunFailed(f"the server on {self._node} answered {response.status}: {message or response.reason}")
        if not isinstance(data, dict):
            raise RunFailed(f"the server on {self._node} answered {method} {path} with no JSON object")
        return data


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


class Patience:
    """Asks again while a server cannot be reached.

    Parameters
    ----------
    seconds
        How long it may not be reachable.
    absent
        Gives why it never will be, or "".
    pause_seconds
        Between two attempts.
    """

    def __init__(self, seconds: float, absent: Callable[[], str], pause_seconds: float = 1) -> None:
        self.seconds = seconds
        self._absent = absent
        self._pause = pause_seconds

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of `question`.

        Raises
        ------
        NodeUnreachable
            There was none within `seconds`, or the node is down.
        """
        deadline = time.monotonic() + self.seconds
        while True:
            try:
                return await question()
            except NodeUnreachable as exc:
                if why := self._absent():
                    raise NodeUnreachable(exc.node, why) from exc
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(self._pause)
