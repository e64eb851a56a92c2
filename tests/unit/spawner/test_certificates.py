"""Certificates of servers: for their node's address alone, of the Hub's authority, never on the Hub's disk."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certipy import Certipy
from cryptography import x509

from jupyterhub_agentfarm.errors import ConfigError, ServerDied
from jupyterhub_agentfarm.models import Lease, PlacementRequest, UserOptions
from jupyterhub_agentfarm.services import tls
from jupyterhub_agentfarm.spawner.certificates import (
    AUTHORITY,
    VALID_FOR,
    Authority,
    ServerCertificate,
    issue,
    only,
)
from jupyterhub_agentfarm.spawner.certified import CertifiedSpawner, certify

TRUST = {"hub-ca": [AUTHORITY, "proxy-client-ca"], AUTHORITY: ["hub-ca", "proxy-client-ca"]}


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a Hub's `internal_certs_location`, made as JupyterHub makes it."""
    path: Path = tmp_path_factory.mktemp("internal-ssl")
    certipy = Certipy(store_dir=str(path))
    certipy.trust_from_graph({**TRUST, "proxy-client-ca": ["hub-ca", AUTHORITY]})
    certipy.create_signed_pair("hub-internal", "hub-ca", alt_names=["IP:127.0.0.1"])
    return path


def authority(certs: Path) -> Authority:
    """Return the authority for servers."""
    return Authority(
        certs / AUTHORITY / f"{AUTHORITY}.key", certs / AUTHORITY / f"{AUTHORITY}.crt", certs / f"{AUTHORITY}_trust.crt"
    )


def everything(folder: Path) -> list[Path]:
    """Return all that is in a folder."""
    return sorted(folder.rglob("*"))


def hub_pair(certs: Path) -> tuple[str, str]:
    """Return the paths of the Hub's key and certificate."""
    pair = tls.of_hub(certs)
    return str(pair.keyfile), str(pair.certfile)


def write(certificate: ServerCertificate, folder: Path) -> tls.Certificates:
    """Write a server's files as noded does."""
    folder.mkdir()
    for name, text in certificate.files().items():
        (folder / name).write_text(text)
    return tls.Certificates(*(folder / name for name in certificate.files()))


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Give the port of a TLS server that answers "hello"."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def heard(port: int, context: ssl.SSLContext) -> bytes:
    """Return what the server on the port says to who connects like this."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


def test_a_certificate_names_the_address_and_nothing_else(certs: Path) -> None:
    """It is for its node's address, by another key each time, no authority, and for a year at most."""
    one, two = (issue(authority(certs), "10.0.0.11", ["IP:10.0.0.11"], "a" * 32) for _ in range(2))
    assert one.key != two.key
    found = x509.load_pem_x509_certificate(one.certificate.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["10.0.0.11"]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert found.not_valid_after_utc - found.not_valid_before_utc < VALID_FOR * 1.01
    signer = x509.load_pem_x509_certificate(authority(certs).certfile.read_bytes())
    found.verify_directly_issued_by(signer)
    assert one.key not in repr(one)


async def test_hub_and_server_accept_each_other(certs: Path, tmp_path: Path) -> None:
    """The Hub's pair gets in, and the Hub knows the server by the Hub's authorities and by the certificate alone."""
    certificate = issue(authority(certs), "127.0.0.1", ["IP:127.0.0.1"], "a" * 32)
    async with listening(write(certificate, tmp_path / "one").server()) as port:
        assert await heard(port, tls.of_hub(certs).client()) == b"hello"
        assert await heard(port, only(certificate.certificate, *hub_pair(certs))) == b"hello"


async def test_a_neighbour_on_the_port_is_not_taken_for_the_server(certs: Path, tmp_path: Path) -> None:
    """Another server's certificate for the same address passes the authorities' check, and not the lease's."""
    mine, theirs = (issue(authority(certs), "127.0.0.1", ["IP:127.0.0.1"], name * 32) for name in "ab")
    async with listening(write(theirs, tmp_path / "theirs").server()) as port:
        assert await heard(port, tls.of_hub(certs).client()) == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError):
            await heard(port, only(mine.certificate, *hub_pair(certs)))


async def test_another_servers_pair_does_not_get_in(certs: Path, tmp_path: Path) -> None:
    """Who shows a server's certificate, or none, is refused by a server and by a service."""
    mine, theirs = (issue(authority(certs), "127.0.0.1", ["IP:127.0.0.1"], name * 32) for name in "ab")
    pair = write(theirs, tmp_path / "theirs")
    nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nameless.load_verify_locations(certs / "hub-ca_trust.crt")
    async with listening(write(mine, tmp_path / "mine").server()) as port:
        for context in (replace(pair, cafile=certs / "hub-ca_trust.crt").client(), nameless):
            with suppress(ssl.SSLError, ConnectionError):  # by TLS 1.3 a client learns of it when it reads
                assert await heard(port, context) == b""


async def test_another_address_is_refused(certs: Path, tmp_path: Path) -> None:
    """A certificate for one node does not serve on another."""
    certificate = issue(authority(certs), "10.0.0.11", ["IP:10.0.0.11"], "a" * 32)
    async with listening(write(certificate, tmp_path / "one").server()) as port:
        for context in (tls.of_hub(certs).client(), only(certificate.certificate, *hub_pair(certs))):
            with pytest.raises(ssl.SSLCertVerificationError):
                await heard(port, context)


def lease() -> Lease:
    """Return a granted lease on n1."""
    request = PlacementRequest("ada", "", UserOptions())
    return Lease("a" * 32, "ada", "", "granted", 1, request, 0.0, "n1")


@pytest.mark.parametrize(
    ("address", "url", "right"),
    [
        ("10.0.0.11", "https://10.0.0.11:5", True),
        ("10.0.0.11", "https://10.0.0.12:5", False),
        ("fd00::1", "https://[fd00::1]:5", True),
        ("GPU1", "https://gpu1:5", True),
    ],
)
def test_a_node_that_listens_elsewhere_is_noticed(certs: Path, address: str, url: str, right: bool) -> None:
    """A launch at an address other than the certificate's is refused with both in the sentence."""
    certificate = ServerCertificate(address, "key", "certificate", "trust")
    if right:
        certificate.check(replace(lease(), url=url))
    else:
        with pytest.raises(ServerDied, match=r"10\.0\.0\.12.*10\.0\.0\.11"):
            certificate.check(replace(lease(), url=url))


class _Spawner(CertifiedSpawner):
    """As much of a spawner as a certificate needs."""

    def __init__(self, certs: Path, address: str) -> None:
        self.internal_ssl = True
        self.internal_certs_location = str(certs)
        self.internal_trust_bundles = {AUTHORITY: str(certs / f"{AUTHORITY}_trust.crt")}
        self.ssl_alt_names: Any = self._ssl_alt_names_default()
        self.ssl_alt_names_include_local = self._ssl_alt_names_include_local_default()
        self.user = SimpleNamespace(settings={})
        self.address, self.kept = address, ""
        self.watch = self
        self.client = self

    async def patiently(self, call: Any) -> Any:
        """Call."""
        return await call()

    async def node(self, name: str) -> dict[str, Any]:
        """Return what the controller tells of the node."""
        return {"name": name, "address": self.address}

    def keep_state(self) -> None:
        """Note what would be written down."""
        self.kept = str(self.certificate)


def names_of(certificate: ServerCertificate | None) -> list[str]:
    """Return the names that a certificate is for."""
    assert certificate is not None
    found = x509.load_pem_x509_certificate(certificate.certificate.encode())
    return [str(name.value) for name in found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


async def test_a_start_makes_a_certificate_for_the_granted_node(certs: Path) -> None:
    """Paths are those in the server's directory on the node, the state has the certificate, the Hub's disk nothing."""
    before = everything(certs)
    spawner: Any = _Spawner(certs, "gpu1.example")
    assert await spawner.create_certs() == {}
    certificate = await certify(spawner, lease())
    assert names_of(certificate) == ["gpu1.example"]
    assert certificate is not None
    assert spawner.cert_paths["keyfile"] == "{server_dir}/server.key"
    assert spawner.kept == certificate.certificate
    assert everything(certs) == before


async def test_without_internal_ssl_there_is_none(certs: Path) -> None:
    """Plain HTTP asks for nothing."""
    spawner: Any = _Spawner(certs, "10.0.0.11")
    spawner.internal_ssl = False
    assert await certify(spawner, lease()) is None
    assert spawner.server_context() is None


async def test_a_site_can_add_names(certs: Path) -> None:
    """`ssl_alt_names` may be a list or an async function; a name of another form is refused in a sentence."""
    spawner: Any = _Spawner(certs, "10.0.0.11")

    async def names(of: Any) -> list[str]:
        assert of is spawner
        return ["DNS:gpu1"]

    spawner.ssl_alt_names, spawner.ssl_alt_names_include_local = names, True
    assert names_of(await certify(spawner, lease())) == ["10.0.0.11", "localhost", "127.0.0.1", "gpu1"]
    spawner.ssl_alt_names = ["gpu1"]
    with pytest.raises(ConfigError, match="DNS:gpu1"):
        await certify(spawner, lease())


async def test_an_authority_without_a_key_is_named(certs: Path) -> None:
    """A site's own authority that cannot sign is refused with the option to change."""
    spawner: Any = _Spawner(certs, "10.0.0.11")
    spawner.user.settings["internal_authorities"] = {AUTHORITY: {"key": "/nowhere.key"}}
    with pytest.raises(ConfigError, match="external_ssl_authorities"):
        await certify(spawner, lease())
