"""The Hub's REST API, as far as the services use it."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any
from urllib.parse import quote

import aiohttp

from ..errors import HubApiError
from . import tls


class HubClient:
    """A client of the Hub's API with a token of its own.

    Parameters
    ----------
    api_url
        As in ``http://127.0.0.1:8081/hub/api``; None: $JUPYTERHUB_API_URL.
    token
        None: $JUPYTERHUB_API_TOKEN.
    timeout_seconds
        Deadline of one request.
    """

    def __init__(self, api_url: str | None = None, token: str | None = None, timeout_seconds: float = 60) -> None:
        self.api_url = (api_url or os.environ["JUPYTERHUB_API_URL"]).rstrip("/")
        self._headers = {"Authorization": f"token {token or os.environ['JUPYTERHUB_API_TOKEN']}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections; a second call does nothing."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and decoded body of one request.

        Parameters
        ----------
        path
            Below the API's URL, quoted, as in ``/users/ada``.

        Raises
        ------
        HubApiError
            The Hub answered 400 or above, or did not answer (status 0).
        """
        try:
            async with self._http().request(method, self.api_url + path, json=body) as response:
                data = await response.json() if "json" in response.headers.get("Content-Type", "") else None
        except (aiohttp.ClientError, OSError) as exc:
            raise HubApiError(method, path, 0, f"{type(exc).__name__}: {exc}") from exc
        if response.status >= 400:
            message = (data or {}).get("message") or response.reason
            raise HubApiError(method, path, response.status, str(message))
        return response.status, data

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            ours = tls.of_environment()
            connector = aiohttp.TCPConnector(ssl=True if ours is None else ours.client())
            self._session = aiohttp.ClientSession(headers=self._headers, timeout=self._timeout, connector=connector)
        return self._session

    async def user(self, name: str) -> dict[str, Any]:
        """Return the model of a user, with its servers, the stopped ones included."""
        _, model = await self.request("GET", f"{_user_path(name)}?include_stopped_servers")
        return dict(model)

    async def start_server(self, user: str, server_name: str, options: dict[str, Any]) -> None:
        """Ask for a server; it is ready when :meth:`server` says so, not when this returns."""
        await self.request("POST", _server_path(user, server_name), options)

    async def server(self, user: str, server_name: str) -> dict[str, Any] | None:
        """Return the model of a server, or None when the user has none of that name."""
        model: dict[str, Any] | None = (await self.user(user))["servers"].get(server_name)
        return model

    async def start_failure(self, user: str, server_name: str) -> str | None:
        """Return why the newest start of a server failed; None when the Hub knows of no failure.

        Raises
        ------
        HubApiError
            The Hub did not answer.
        """
        path = _server_path(user, server_name) + "/progress"
        try:
            async with self._http().get(self.api_url + path) as response:
                text = await response.text()
        except (aiohttp.ClientError, OSError) as exc:
            raise HubApiError("GET", path, 0, f"{type(exc).__name__}: {exc}") from exc
        if response.status >= 400:
            return None
        events = [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line.startswith("data:")]
        failures = [str(event.get("message", "")) for event in events if event.get("failed")]
        return failures[-1].removeprefix("Spawn failed: ") if failures else None

    async def stop_server(self, user: str, server_name: str, *, remove: bool = False) -> None:
        """Ask for a server's end; with `remove` its name is forgotten too. A server that is not there is fine."""
        try:
            body = {"remove": True} if remove and server_name else None
            await self.request("DELETE", _server_path(user, server_name), body)
        except HubApiError as exc:
            if exc.status not in (404, 400):
                raise


async def close_shared_client() -> None:
    """Close the connections with which JupyterHub's own code asked the Hub from this loop, as `HubOAuth` does.

    They are there since JupyterHub 6; before, there is nothing to close.
    """
    with contextlib.suppress(ImportError):
        from jupyterhub.httpclient import JupyterHubHTTPClient

        if JupyterHubHTTPClient.initialized():
            await JupyterHubHTTPClient.loop_instance().close()


def _server_path(user: str, server_name: str) -> str:
    path = _user_path(user)
    return f"{path}/servers/{quote(server_name, safe='')}" if server_name else f"{path}/server"


def _user_path(name: str) -> str:
    """Return the path of a user; no name leads to another path of the API, but `.` and `..`, which nobody has."""
    if name in ("", ".", ".."):
        raise HubApiError("GET", "/users", 404, f"there is no user {name!r}")
    return f"/users/{quote(name, safe='')}"
