"""The client of the benchmark service's REST API, for the command line and for programs."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from traitlets import Unicode, default
from traitlets.config import LoggingConfigurable

from ..errors import AgentFarmError, ConflictError, FarmUnavailable, InvalidField, NotFoundError, RunFailed
from ..services import local
from ..services.tls import HubConnections
from ..traitlets import Seconds


class BenchmarkClient(LoggingConfigurable):
    """A client of the benchmark service.

    It finds the service of this machine in the runtime directory; for another machine it is given `url` and `token`.
    """

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
        "large reports get through.",
    ).tag(config=True)

    @default("runtime_dir")
    def _runtime_dir_default(self) -> str:
        return str(local.default_runtime_dir())

    @default("url")
    def _url_default(self) -> str:
        return local.find_service(Path(self.runtime_dir), "benchmark")

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

    async def suites(self) -> list[dict[str, Any]]:
        """Return the suites."""
        return list((await self._json("GET", "suites"))["suites"])

    async def runs(self) -> list[dict[str, Any]]:
        """Return the newest runs, the newest first."""
        return list((await self._json("GET", "runs"))["runs"])

    async def start(self, suite: str, nodes: Sequence[str] | None = None) -> dict[str, Any]:
        """Start a run of `suite` on `nodes`, or on all eligible ones, and return it.

        Raises
        ------
        NotFoundError
            There is no such suite.
        InvalidField
            There is no such node.
        ConflictError
            Another run is going, or no node can take part.
        """
        body = {"suite": suite, "nodes": None if nodes is None else list(nodes)}
        return dict(await self._json("POST", "runs", body))

    async def run(self, run_id: str) -> dict[str, Any]:
        """Return a run with its results and progress."""
        return dict(await self._json("GET", f"runs/{run_id}"))

    async def cancel(self, run_id: str) -> dict[str, Any]:
        """Ask for the end of a run and return it as it is now."""
        return dict(await self._json("POST", f"runs/{run_id}/cancel", {}))

    async def report(self, run_id: str, form: str = "html") -> str:
        """Return the report as text: html, json, csv or md."""
        return (await self._request("GET", f"runs/{run_id}/report?format={form}"))[1]

    async def samples(self, run_id: str) -> list[dict[str, Any]]:
        """Return the samples of a run in the order of time."""
        return list((await self._json("GET", f"runs/{run_id}/samples"))["samples"])

    async def events(self, run_id: str) -> AsyncGenerator[tuple[str, Any], None]:
        """Follow a run: `run`, `result`, `progress` and `sample`, until it has ended.

        Raises
        ------
        FarmUnavailable
            The connection was lost.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=self.timeout, sock_read=60)
        event = ""
        try:
            async with self._open().get(self._address(f"runs/{run_id}/events"), timeout=timeout) as response:
                if response.status >= 400:
                    raise _error(response.status, await response.text())
                async for raw in response.content:
                    key, _, value = raw.decode().rstrip("\n").partition(": ")
                    if key == "event":
                        event = value
                    elif key == "data":
                        yield event, json.loads(value)
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise FarmUnavailable(f"the connection to the benchmark service was lost ({type(exc).__name__})") from exc

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
            if self.url == local.find_service(Path(self.runtime_dir), "benchmark"):
                return local.find_certs_dir(Path(self.runtime_dir), "benchmark")
        except FarmUnavailable:
            pass  # another machine's: no such service was ever here
        return None

    def _address(self, path: str) -> str:
        return self.url.rstrip("/") + "/api/v1/" + path

    async def _request(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        try:
            async with self._open().request(method, self._address(path), json=body) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise FarmUnavailable(f"the benchmark service does not answer at {self.url}: is the Hub running?") from exc
        if response.status >= 400:
            raise _error(response.status, text)
        return response.status, text

    async def _json(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads((await self._request(method, path, body))[1])


def _error(status: int, text: str) -> AgentFarmError:
    """Return the error that an answer stands for."""
    try:
        data = json.loads(text)
        message, reason = str(data["message"]), data["reason"]
    except (ValueError, KeyError, TypeError):
        return FarmUnavailable(f"the benchmark service answered {status} without saying why")
    if reason == InvalidField.reason:
        error = InvalidField(data.get("field", ""), data.get("wanted", ""), None)
        error.args = (message,)
        return error
    kinds = {kind.reason: kind for kind in (NotFoundError, ConflictError, FarmUnavailable, RunFailed)}
    return kinds.get(reason, AgentFarmError)(message)
