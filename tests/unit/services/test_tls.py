"""A service behind internal_ssl: who gets in, how clients find it, and what is refused."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certipy import Certipy

from jupyterhub_agentfarm.benchmark.client import BenchmarkClient
from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.errors import ConfigError, FarmUnavailable, NotFoundError
from jupyterhub_agentfarm.services import local, tls
from jupyterhub_agentfarm.services.app import ServiceApp
from jupyterhub_agentfarm.services.hub import HubClient, close_shared_client

AUTHORITIES = ("hub-ca", "notebooks-ca", "proxy-client-ca")


class _App(ServiceApp):
    name = "agentfarm"

    def handlers(self) -> list[tuple[Any, ...]]:
        """Return nothing: every answer is a 404 that the API gives."""
        return []


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """Give a Hub's `internal_certs_location` with the Hub's pair and that of services."""
    path = tmp_path / "internal-ssl"
    certipy = Certipy(store_dir=str(path))
    certipy.trust_from_graph(
        {"hub-ca": list(AUTHORITIES), "notebooks-ca": ["hub-ca", "proxy-client-ca"], "proxy-client-ca": ["hub-ca"]}
    )
    for name, authority in (("hub-internal", "hub-ca"), ("user-service", "notebooks-ca")):
        certipy.create_signed_pair(name, authority, alt_names=["IP:127.0.0.1"])
    return path


def service_pair(certs: Path) -> tls.Certificates:
    """Return what the Hub gives its services."""
    pair = certs / "user-service" / "user-service"
    return tls.Certificates(pair.with_suffix(".key"), pair.with_suffix(".crt"), certs / "notebooks-ca_trust.crt")


@pytest.fixture
def app(certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _App:
    """Give a service that was started as the Hub starts one."""
    pair = service_pair(certs)
    for name, value in {
        "JUPYTERHUB_API_TOKEN": "none",
        "JUPYTERHUB_API_URL": "https://127.0.0.1:1/hub/api",
        "JUPYTERHUB_SSL_KEYFILE": str(pair.keyfile),
        "JUPYTERHUB_SSL_CERTFILE": str(pair.certfile),
        "JUPYTERHUB_SSL_CLIENT_CA": str(pair.cafile),
        "AGENTFARM_CERTS_DIR": str(certs),
    }.items():
        monkeypatch.setenv(name, value)
    return _App(runtime_dir=str(tmp_path / "run"), service_url="https://127.0.0.1:0")


@pytest.fixture
async def url(app: _App) -> AsyncIterator[str]:
    """Give the URL of the running service."""
    server = app.listen()
    yield local.find_service(app.runtime_path, app.name)
    server.stop()
    await server.close_all_connections()
    await close_shared_client()


async def test_local_clients_find_certificates_by_themselves(app: _App, url: str) -> None:
    """Clients of the Hub's account read in the runtime directory how to connect."""
    assert url.startswith("https://127.0.0.1:")
    farm = FarmClient(runtime_dir=app.runtime_dir)
    (app.runtime_path / "benchmark.json").write_text((app.runtime_path / "agentfarm.json").read_text())
    benchmark = BenchmarkClient(runtime_dir=app.runtime_dir)
    try:
        for answer in (farm.queue(), benchmark.suites()):
            with pytest.raises(NotFoundError):  # which is the service's own answer
                await answer
    finally:
        await farm.aclose()
        await benchmark.aclose()


async def test_a_named_url_needs_a_named_folder(app: _App, certs: Path, url: str) -> None:
    """With `url` the system's authorities count, which do not know the Hub's, unless `certs_dir` names the Hub's."""
    knowing = FarmClient(url=url, certs_dir=str(certs), runtime_dir=app.runtime_dir)
    ignorant = FarmClient(url=url, runtime_dir=app.runtime_dir)
    try:
        with pytest.raises(NotFoundError):
            await knowing.queue()
        with pytest.raises(FarmUnavailable, match="certificate"):
            await ignorant.queue()
    finally:
        await knowing.aclose()
        await ignorant.aclose()


async def test_only_the_hub_and_the_proxy_get_in(certs: Path, url: str) -> None:
    """Who shows no certificate, or one of the kind that users' servers have, does not get through the handshake."""
    nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nameless.load_verify_locations(certs / "hub-ca_trust.crt")
    theirs = service_pair(certs)
    server = tls.Certificates(theirs.keyfile, theirs.certfile, certs / "hub-ca_trust.crt").client()
    for context in (nameless, server):
        async with aiohttp.ClientSession() as session:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await session.get(url, ssl=context)


async def test_the_hubs_api_is_asked_with_the_services_pair(app: _App, url: str, certs: Path) -> None:
    """HubClient verifies the Hub by the Hub's authority, and does not accept one of another."""
    hub = HubClient(api_url=url)  # a server of notebooks-ca, which is not trusted to be the Hub
    try:
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            await hub.request("GET", "/user")
    finally:
        await hub.aclose()


async def test_an_external_service_needs_the_hubs_folder_alone(
    certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With $AGENTFARM_CERTS_DIR it has the Hub's pair and lets the Hub and its proxy in."""
    for name in ("KEYFILE", "CERTFILE", "CLIENT_CA"):
        monkeypatch.delenv(f"JUPYTERHUB_SSL_{name}", raising=False)
    monkeypatch.setenv("AGENTFARM_CERTS_DIR", str(certs))
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "none")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "https://127.0.0.1:1/hub/api")
    found = tls.of_environment()
    assert found is not None
    assert found.keyfile == tls.of_hub(certs).keyfile
    assert found.cafile == certs / "notebooks-ca_trust.crt"

    app = _App(runtime_dir=str(tmp_path / "external"), service_url="https://127.0.0.1:0")
    server = app.listen()
    farm = FarmClient(runtime_dir=app.runtime_dir)
    try:
        assert app.hub_auth().certfile == str(found.certfile)
        with pytest.raises(NotFoundError):
            await farm.queue()
    finally:
        await farm.aclose()
        server.stop()
        await server.close_all_connections()
        await close_shared_client()


@pytest.mark.parametrize(
    ("url", "encrypted", "said"),
    [("http://127.0.0.1:0", True, "https://"), ("https://127.0.0.1:0", False, "AGENTFARM_CERTS_DIR")],
)
def test_scheme_and_certificates_must_agree(
    app: _App, monkeypatch: pytest.MonkeyPatch, url: str, encrypted: bool, said: str
) -> None:
    """Plain HTTP with certificates, and https without, are refused in one sentence."""
    app.service_url = url
    if not encrypted:
        for name in ("JUPYTERHUB_SSL_KEYFILE", "JUPYTERHUB_SSL_CERTFILE", "AGENTFARM_CERTS_DIR"):
            monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=said):
        app.listen()


def test_a_missing_key_is_named(certs: Path) -> None:
    """A folder without the Hub's pair is refused with the path and what to do."""
    with pytest.raises(ConfigError, match=r"hub-internal\.crt.*start the Hub once"):
        tls.of_hub(certs / "elsewhere").client()
