"""One notebook on one server, through the server's runs extension.

The notebook runs on the node, beside its kernel; here it is only submitted and followed. A lost connection is no end:
the same question is asked again until `patience` is over or the node is known to be down. Submitting again with the
same key gives the same run.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from ..errors import NodeUnreachable, RunFailed
from .models import MOST_WAIT_SECONDS

T = TypeVar("T")
Headers = Mapping[str, str]

#: What the farm's servers send with every answer.
LEASE_HEADER = "X-AgentFarm-Lease"
#: Deadline of one request, a download not counted.
REQUEST_SECONDS = 60.0
#: A download in which nothing arrives for so long is lost.
SILENCE_SECONDS = 30.0

#: Most that is read of an answer in JSON, of a notebook, and of why a request was refused.
MAX_JSON_BYTES = 8 * 2**20
MAX_NOTEBOOK_BYTES = 64 * 2**20
_MAX_REFUSAL_BYTES = 64 * 2**10
_MAX_WHY_CHARACTERS = 2000

#: States of the runs extension that a run does not leave; a tuple, since a server may tell what cannot be in a set.
FINAL_STATES = ("completed", "failed", "cancelled")


class ServerUnready(NodeUnreachable):
    """The server is there and says that it cannot answer now, as when it cannot ask the Hub who asks."""


class RunRefused(RunFailed):
    """The server refused a request about a run.

    Parameters
    ----------
    node
        Where the server is.
    status
        HTTP status of its answer.
    why
        Its message.
    """

    def __init__(self, node: str, status: int, why: str) -> None:
        self.status, self.why = status, why
        super().__init__(f"the server on {node} answered {status}: {why}")


class RunsNotServed(RunFailed):
    """The server runs, and knows nothing of runs: its environment lacks the farm's extension.

    Parameters
    ----------
    node
        Where the server is.
    """

    def __init__(self, node: str) -> None:
        super().__init__(
            f"the server on {node} carries out no notebooks: install jupyterhub-agentfarm with pip in the environment "
            "that the node's servers start from (`jupyter server extension list` there shows jupyterhub_agentfarm.runs)"
        )


class AnswerTooLong(RunFailed):
    """The server's answer is longer than what is read of it.

    Parameters
    ----------
    node
        Where the server is.
    what
        What was asked for.
    most
        Bytes that are read.
    """

    def __init__(self, node: str, what: str, most: int) -> None:
        super().__init__(f"the server on {node} gave {what} of more than the {most} bytes that are read")


async def _no_headers() -> Headers:
    return {}


class ServerRuns:
    """A client of the runs extension of one server.

    Every method raises :class:`~..errors.NodeUnreachable` where there is no answer of the server's own: it, the proxy
    or the way to it is gone for now (:class:`ServerUnready`: it is there, and fails); and :class:`RunRefused` where the
    server refused.

    Parameters
    ----------
    session
        Makes the requests.
    server_url
        Of the server, with a slash at the end.
    node
        Name of the node, for messages.
    headers
        Gives the headers of each request, where the session does not carry the authorization.
    request_seconds
        Deadline of a request, a download not counted.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server_url: str,
        node: str,
        headers: Callable[[], Awaitable[Headers]] = _no_headers,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._session = session
        self._url = server_url.rstrip("/") + "/agentfarm/api/v1/runs"
        self._node = node
        self._headers = headers
        self._request_seconds = request_seconds

    async def submit(self, body: Mapping[str, Any] | bytes) -> dict[str, Any]:
        """Submit a run, as an object or as its JSON, and return it."""
        return await self._request("POST", "", body)

    async def get(self, run_id: str, wait_seconds: float = 0) -> dict[str, Any]:
        """Return a run: at once, or when it has ended, and no later than after `wait_seconds`."""
        began, wait = time.monotonic(), min(wait_seconds, MOST_WAIT_SECONDS)
        timeout = aiohttp.ClientTimeout(total=self._request_seconds + wait)
        run = await self._request("GET", f"/{run_id}?wait_seconds={wait:g}", timeout=timeout)
        if run.get("state") not in FINAL_STATES:  # a server of an earlier version does not wait
            await asyncio.sleep(max(0.0, wait - (time.monotonic() - began)))
        return run

    async def results(self, run_id: str) -> dict[str, Any]:
        """Return what the notebook published."""
        return await self._request("GET", f"/{run_id}/results", most=MAX_NOTEBOOK_BYTES)

    async def artifacts(self, run_id: str) -> dict[str, Any]:
        """Return `artifacts`, what the notebook left, and `refused`, sentences about what is left out."""
        return await self._request("GET", f"/{run_id}/artifacts")

    async def artifact(self, run_id: str, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the content of an artifact."""
        async with self._download(f"/{run_id}/artifacts/{quote(path)}") as chunks:
            async for chunk in chunks:
                yield chunk

    async def notebook(self, run_id: str, max_bytes: int = MAX_NOTEBOOK_BYTES) -> bytes:
        """Return the notebook as executed so far.

        Raises
        ------
        AnswerTooLong
            It is larger than `max_bytes`.
        """
        async with self._download(f"/{run_id}/notebook") as chunks:
            return await self._whole(chunks, "a notebook", max_bytes)

    async def cancel(self, run_id: str) -> None:
        """Ask for the end of a run."""
        await self._request("POST", f"/{run_id}/cancel", {})

    async def remove(self, run_id: str) -> None:
        """Have the server forget a run that has ended, with its notebook and artifacts."""
        async with self._asked("DELETE", f"/{run_id}"):
            pass

    async def _request(
        self, method: str, path: str, body: Any = None, most: int = MAX_JSON_BYTES, **about: Any
    ) -> dict[str, Any]:
        """Return a decoded answer."""
        content: dict[str, Any] = {"json": body}
        if isinstance(body, bytes):
            content = {"data": io.BytesIO(body), "headers": {"Content-Type": "application/json"}}
        async with self._asked(method, path, **content, **about) as response:
            data = _decoded(await self._whole(response.content.iter_chunked(2**16), "an answer", most))
        if not isinstance(data, dict):
            raise RunFailed(f"the server on {self._node} answered {method} {path} with no JSON object")
        return data

    async def _whole(self, chunks: AsyncIterator[bytes], what: str, most: int) -> bytes:
        """Return all chunks together; a user's server must not fill the memory of who asks it."""
        read: list[bytes] = []
        left = most
        async for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise AnswerTooLong(self._node, what, most)
            read.append(chunk)
        return b"".join(read)

    @asynccontextmanager
    async def _download(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
        async with self._asked("GET", path, timeout=timeout) as response:
            yield response.content.iter_chunked(2**20)

    @asynccontextmanager
    async def _asked(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Give the answer of a request that the server took."""
        about: dict[str, Any] = {
            "timeout": aiohttp.ClientTimeout(total=self._request_seconds),
            "headers": {**await self._headers(), **options.pop("headers", {})},
            "allow_redirects": False,
        } | options
        # A path that is quoted already would otherwise be quoted anew, or its %2F taken for a slash.
        url = URL(self._url + path, encoded=True)
        try:
            async with self._session.request(method, url, **about) as response:
                await self._check(response)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise NodeUnreachable(self._node, f"its server did not answer ({type(exc).__name__}: {exc})") from exc

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status < 300:
            return
        if status >= 500 or status < 400 or status == 424:
            if LEASE_HEADER in response.headers:
                why = str((await self._refusal(response)).get("message") or response.reason)[:_MAX_WHY_CHARACTERS]
                raise ServerUnready(self._node, f"its server answered {status}: {why}")
            raise NodeUnreachable(self._node, f"the proxy answered {status} for its server")
        told = await self._refusal(response)
        if LEASE_HEADER not in response.headers and not isinstance(told.get("reason"), str):
            # A proxy that was started a moment ago, or the Hub behind it, knows no way to the server.
            raise NodeUnreachable(self._node, f"the proxy or the Hub answered {status} for its server")
        if status == 404 and not isinstance(told.get("reason"), str):
            raise RunsNotServed(self._node)
        raise RunRefused(self._node, status, str(told.get("message") or response.reason)[:_MAX_WHY_CHARACTERS])

    async def _refusal(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        """Return what an answer says of why the request was refused; what is too long or no JSON says nothing."""
        try:
            data = _decoded(await self._whole(response.content.iter_chunked(2**16), "a refusal", _MAX_REFUSAL_BYTES))
        except AnswerTooLong:
            return {}
        return data if isinstance(data, dict) else {}


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
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
