"""internal_ssl: the Hub's names, its proxy's URL, and services that the Hub can wait for."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certipy import Certipy
from jupyterhub import orm
from jupyterhub.app import JupyterHub
from jupyterhub.utils import make_ssl_context
from traitlets.config import Config

from jupyterhub_agentfarm.encryption import certs_dir, encrypt, hub_names, let_https_services_start
from jupyterhub_agentfarm.services.hub import close_shared_client


def config(**sections: dict[str, Any]) -> Config:
    """Return a configuration with internal_ssl."""
    c = Config({name: dict(options) for name, options in sections.items()})
    c.JupyterHub.internal_ssl = True
    return c


@pytest.mark.parametrize(
    ("c", "names"),
    [
        (config(), ["IP:127.0.0.1"]),
        (config(JupyterHub={"hub_ip": "10.0.0.1"}), ["IP:10.0.0.1"]),
        (config(JupyterHub={"hub_ip": "0.0.0.0"}), [f"DNS:{socket.gethostname()}"]),
        (config(JupyterHub={"hub_ip": "0.0.0.0", "hub_connect_ip": "hub.example"}), ["DNS:hub.example"]),
        (config(JupyterHub={"hub_bind_url": "http://10.0.0.2:8081"}), ["IP:10.0.0.2"]),
        (config(JupyterHub={"hub_bind_url": "http://:8081"}), [f"DNS:{socket.gethostname()}"]),
        (
            config(JupyterHub={"hub_ip": ""}, Spawner={"hub_connect_url": "http://[fd00::1]:8081"}),
            [f"DNS:{socket.gethostname()}", "IP:fd00::1"],
        ),
    ],
)
def test_the_hubs_certificate_names_what_nodes_call(c: Config, names: list[str]) -> None:
    """Each way of saying where the Hub is found is a name of the Hub's certificate."""
    assert hub_names(c) == names


def test_what_the_site_names_stays(tmp_path: Path) -> None:
    """The site's alternative names and folder stay; the proxy's API is reached by https."""
    c = config(JupyterHub={"hub_ip": "10.0.0.1", "internal_certs_location": str(tmp_path)})
    c.JupyterHub.trusted_alt_names = ["DNS:hub.example"]
    c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:8001"
    encrypt(c)
    assert c.JupyterHub.trusted_alt_names == ["DNS:hub.example", "IP:10.0.0.1"]
    assert c.ConfigurableHTTPProxy.api_url == "https://127.0.0.1:8001"
    assert certs_dir(c) == tmp_path


def test_a_certificate_without_the_name_is_noticed(tmp_path: Path) -> None:
    """The Hub keeps the certificate that it has: one that lacks a name is warned of, with what to do."""
    certipy = Certipy(store_dir=str(tmp_path))
    certipy.create_ca("hub-ca")
    certipy.create_signed_pair("hub-internal", "hub-ca", alt_names=["IP:127.0.0.1", "DNS:localhost"])
    options = {"internal_certs_location": str(tmp_path)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encrypt(config(JupyterHub=options))
    with pytest.warns(UserWarning, match=r"lacks IP:10\.0\.0\.1.*recreate_internal_certs"):
        encrypt(config(JupyterHub={**options, "hub_ip": "10.0.0.1"}))


@pytest.fixture
def certs(tmp_path: Path) -> dict[str, str]:
    """Give one pair and its authority."""
    certipy = Certipy(store_dir=str(tmp_path))
    authority = certipy.create_ca("hub-ca")
    pair = certipy.create_signed_pair("hub-internal", "hub-ca", alt_names=["IP:127.0.0.1"])
    return {"key": pair["files"]["key"], "cert": pair["files"]["cert"], "ca": authority["files"]["cert"]}


async def test_the_hub_waits_for_https_services(certs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """JupyterHub's own way never sees a service that listens with TLS; with ours it does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    monkeypatch.setattr(JupyterHub, "start_service", JupyterHub.start_service)  # put back afterwards
    # A captured record would hold the exceptions, and these the sockets.
    monkeypatch.setattr("jupyterhub.utils.app_log", logging.Logger("quiet", logging.CRITICAL))
    listens = make_ssl_context(certs["key"], certs["cert"], certs["ca"], purpose=ssl.Purpose.CLIENT_AUTH)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=listens) as server:
        port = server.sockets[0].getsockname()[1]
        row = orm.Server(proto="https", ip="127.0.0.1", port=port, base_url="/", cookie_name="")
        service: Any = SimpleNamespace(
            url=f"https://127.0.0.1:{port}",
            managed=False,
            kind="external",
            timeout=1,
            orm=SimpleNamespace(server=row),
        )
        app: Any = SimpleNamespace(
            internal_ssl_key=certs["key"],
            internal_ssl_cert=certs["cert"],
            internal_ssl_ca=certs["ca"],
            log=SimpleNamespace(info=print, warning=print, critical=print),
        )
        let_https_services_start()
        let_https_services_start()
        ours, original = JupyterHub.start_service, JupyterHub.start_service.__wrapped__
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # asyncio leaves open what it cannot use
            assert not await original(app, "a", service, listens), "JupyterHub waits by itself now: ours can go"
            gc.collect()
        assert await ours(app, "a", service, listens)
    await close_shared_client()
