"""Pages in a browser, and errors as pages there; everybody else gets JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from jupyterhub_agentfarm.errors import NotFoundError
from jupyterhub_agentfarm.services import local
from jupyterhub_agentfarm.services.app import ServiceApp
from jupyterhub_agentfarm.services.handlers import PageHandler
from jupyterhub_agentfarm.services.hub import close_shared_client

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class _Missing(PageHandler):
    async def get(self) -> None:
        """Find nothing."""
        raise NotFoundError("there is no run <b>7</b>")


class _Broken(PageHandler):
    async def get(self) -> None:
        """Fail with what nobody outside may read."""
        raise RuntimeError("secret-detail")


class _App(ServiceApp):
    name = "pages"

    def handlers(self) -> list[tuple[Any, ...]]:
        """Return pages that fail."""
        return [(r"missing", _Missing), (r"broken", _Broken)]


class Site:
    """The running service."""

    def __init__(self, app: _App, session: aiohttp.ClientSession, url: str) -> None:
        self.app, self._session, self._url = app, session, url
        self.token = local.local_token(app.runtime_path)

    async def get(self, path: str, token: str | None = None, **headers: str) -> tuple[int, str, str, str]:
        """Return status, type, policy and text of an answer."""
        headers["Authorization"] = f"token {self.token if token is None else token}"
        async with self._session.get(self._url + path, headers=headers, allow_redirects=False) as response:
            policy = response.headers.get("Content-Security-Policy", "")
            return response.status, response.content_type, policy, await response.text()


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A service with pages that fail."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "none")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:1/hub/api")
    app = _App(runtime_dir=str(tmp_path / "run"), service_url="http://127.0.0.1:0")
    server = app.listen()
    async with aiohttp.ClientSession() as session:
        yield Site(app, session, local.find_service(app.runtime_path, "pages"))
    server.stop()
    await server.close_all_connections()
    await close_shared_client()


async def test_a_browser_is_shown_an_error_as_a_page(site: Site) -> None:
    """The page says what is wrong, escaped, under a policy that nobody can frame or extend."""
    status, kind, policy, text = await site.get("missing", **BROWSER)
    assert (status, kind) == (404, "text/html")
    assert "there is no run &lt;b&gt;7&lt;/b&gt;" in text
    for part in ("default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert part in policy
    assert "object-src 'none'" in policy


async def test_a_program_is_told_an_error_as_json(site: Site) -> None:
    """Who does not ask for a page gets message and reason."""
    status, kind, _, text = await site.get("missing")
    assert (status, kind) == (404, "application/json")
    assert '"reason": "not_found"' in text


async def test_a_fault_shows_no_detail(site: Site) -> None:
    """An unexpected fault is a page without what the fault says."""
    status, kind, _, text = await site.get("broken", **BROWSER)
    assert (status, kind) == (500, "text/html")
    assert "Internal Server Error" in text
    assert "secret-detail" not in text


@pytest.mark.parametrize(("headers", "kind"), [(BROWSER, "text/html"), ({}, "application/json")])
async def test_a_path_that_is_none_of_ours(site: Site, headers: dict[str, str], kind: str) -> None:
    """It is a page for a browser and JSON for everybody else, and what it names is escaped."""
    status, found, _, text = await site.get("no/such<script>", **headers)
    assert (status, found) == (404, kind)
    assert "there is nothing at" in text
    if headers:
        assert "<script>" not in text


async def test_an_empty_secret_opens_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the service has an empty token, `Authorization: token` with nothing after it is nobody."""
    application = site.app.application()
    application.settings["local_token"] = ""
    server = application.listen(0, "127.0.0.1")
    (socket,) = server._sockets.values()
    monkeypatch.setattr(site, "_url", f"http://127.0.0.1:{socket.getsockname()[1]}{site.app.prefix}")
    status, *_ = await site.get("missing", token="")
    server.stop()
    await server.close_all_connections()
    assert status in (302, 403)
