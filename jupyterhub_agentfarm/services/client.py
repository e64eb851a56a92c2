"""ServiceClient: what the clients of the services' REST APIs have in common, for the command line and for programs."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from traitlets import Unicode, default
from traitlets.config import LoggingConfigurable

from ..errors import (
    AgentFarmError,
    ConflictError,
    FarmUnavailable,
    InvalidField,
    NotFoundError,
    PlacementRefused,
    QuotaExceeded,
    RunFailed,
)
from ..traitlets import Seconds
from . import local
from .tls import HubConnections

_KINDS = {
    kind.reason: kind for kind in (NotFoundError, ConflictError, FarmUnavailable, RunFailed, QuotaExceeded)
}  # fmt: skip


class ServiceClient(LoggingConfigurable):
    """A client of one service.

    It finds the service of this machine in the runtime directory; for another machine it is given `url` and `token`.
    """

    #: Name of the service.
    service: ClassVar[str] = "service"

    url = Unicode(
        help="URL of the service, as in https://hub.example.org/services/benchmark/. Default: the service that the "
        "runtime directory names."
    ).tag(config=True)
    token = Unicode(
        help="Hub token that may use the service. Default: this machine's local token, else $JUPYTERHUB_API_TOKEN."
    ).tag(config=True)
    runtime_dir = Unicode(help="The runtime directory of the Hub. Default: $AGENTFARM_RUNTIME_DIR.").tag(config=True)
    timeout = Seconds(
        30,
        help="Deadline of one request, in seconds. Smaller: a dead service is seen sooner; larger: slow networks and "
        "large answers get through.",
    ).tag(config=True)

    @default("runtime_dir")
    def _runtime_dir_default(self) -> str:
        return str(local.default_runtime_dir())

    @default("url")
    def _url_default(self) -> str:
        return local.find_service(Path(self.runtime_dir), self.service)

    @default("token")
    def _token_default(self) -> str:
        path = Path(self.runtime_dir) / "token"
        if path.exists():
            return path.read_text().strip()
        return os.environ.get("JUPYTERHUB_API_TOKEN", "")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections; a second call does nothing."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def follow(self, path: str, after: int | None = None) -> AsyncGenerator[tuple[str, Any], None]:
        """Yield the events of a stream until it ends; those after the one with the id `after`, where it has ids.

        Raises
        ------
        FarmUnavailable
            The connection was lost.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=self.timeout, sock_read=60)
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        event = ""
        try:
            async with self._open().get(self._address(path), timeout=timeout, headers=headers) as response:
                if response.status >= 400:
                    raise self._error(response.status, await response.text())
                async for raw in response.content:
                    key, _, value = raw.decode().rstrip("\n").partition(": ")
                    if key == "event":
                        event = value
                    elif key == "data":
                        yield event, json.loads(value)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise FarmUnavailable(
                f"the connection to the {self.service} service was lost ({type(exc).__name__})"
            ) from exc

    async def download(self, path: str) -> AsyncGenerator[bytes, None]:
        """Yield the content of a file, piece by piece.

        Raises
        ------
        FarmUnavailable
            The connection was lost.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=self.timeout, sock_read=60)
        try:
            async with self._open().get(self._address(path), timeout=timeout) as response:
                if response.status >= 400:
                    raise self._error(response.status, await response.text())
                async for chunk in response.content.iter_chunked(2**18):
                    yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise FarmUnavailable(
                f"the connection to the {self.service} service was lost ({type(exc).__name__})"
            ) from exc

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Authorization": f"token {self.token}"}
            timeout = aiohttp.ClientTimeout(total=self.timeout)
            connector = aiohttp.TCPConnector(ssl=HubConnections().context(self._certs_dir()))
            # A line of events is one event, and an event may hold a whole run.
            self._session = aiohttp.ClientSession(
                headers=headers, timeout=timeout, read_bufsize=2**23, connector=connector
            )
        return self._session

    def _certs_dir(self) -> Path | None:
        """Return where the Hub's certificates are, for the service of this machine and with internal_ssl."""
        try:
            if self.url == local.find_service(Path(self.runtime_dir), self.service):
                return local.find_certs_dir(Path(self.runtime_dir), self.service)
        except FarmUnavailable:
            pass  # another machine's: no such service was ever here
        return None

    def _address(self, path: str) -> str:
        return self.url.rstrip("/") + "/api/v1/" + path

    async def _request(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        # As a file: a large body is then sent piece by piece.
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        try:
            async with self._open().request(method, self._address(path), data=data, headers=headers) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise FarmUnavailable(
                f"the {self.service} service does not answer at {self.url}: is the Hub running?"
            ) from exc
        if response.status >= 400:
            raise self._error(response.status, text)
        return response.status, text

    async def _json(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads((await self._request(method, path, body))[1])

    def _error(self, status: int, text: str) -> AgentFarmError:
        """Return the error that an answer stands for."""
        try:
            data = json.loads(text)
            message, reason = str(data["message"]), data["reason"]
        except (ValueError, KeyError, TypeError):
            return FarmUnavailable(f"the {self.service} service answered {status} without saying why")
        if reason == InvalidField.reason:
            error = InvalidField(data.get("field", ""), data.get("wanted", ""), None)
            error.args = (message,)
            return error
        if reason == PlacementRefused.reason:
            return PlacementRefused(data.get("refusals") or {}, message)
        return _KINDS.get(reason, AgentFarmError)(message)
