"""A server's key and certificate, as JupyterHub's own authority for servers signs them, without a file.

A certificate names its server's address and nothing else, unless the site sets `ssl_alt_names`: JupyterHub would add
localhost and the names of the Hub, as which no user's server should pass.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import ConfigError, ServerDied
from ..models import Lease

AUTHORITY = "notebooks-ca"
KEY, CERTIFICATE, TRUST = "server.key", "server.crt", "ca.crt"
#: A server that runs for longer must be started again. The authority itself lasts five years.
VALID_FOR = dt.timedelta(days=365)
#: The clocks of Hub and node may differ by this.
_CLOCKS_DIFFER = dt.timedelta(hours=1)
_USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True)
class Authority:
    """Paths of what signs, and of the authorities that servers trust."""

    keyfile: Path
    certfile: Path
    trustfile: Path


@dataclass(frozen=True)
class ServerCertificate:
    """A server's key and certificate, as PEM."""

    address: str
    key: str = field(repr=False)
    certificate: str
    #: The authorities of those who may connect: the Hub and its proxy.
    trust: str

    def files(self) -> dict[str, str]:
        """Return the private files that the server is launched with."""
        return {KEY: self.key, CERTIFICATE: self.certificate, TRUST: self.trust}

    def check(self, lease: Lease) -> None:
        """Refuse a server that listens elsewhere than at the address that the certificate names.

        Raises
        ------
        ServerDied
            The node's address changed between certificate and launch.
        """
        host = urlsplit(lease.url or "").hostname
        if host != self.address.lower():
            raise ServerDied(
                f"node {lease.node} listens on {host}, and the server's certificate names {self.address}: "
                "start the server again"
            )


def only(certificate: str, keyfile: str, certfile: str) -> ssl.SSLContext:
    """Return what accepts the one server with this very certificate, for a client with the pair in the two files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    context.load_cert_chain(certfile, keyfile)
    return context


def issue(authority: Authority, address: str, names: Sequence[str], lease_id: str) -> ServerCertificate:
    """Return a new key and its certificate; reads three files and takes about two milliseconds.

    Parameters
    ----------
    authority
        What signs.
    address
        Where the server listens.
    names
        Subject alternative names as OpenSSL writes them: ``IP:10.0.0.11``, ``DNS:gpu1``.
    lease_id
        Becomes the certificate's common name.

    Raises
    ------
    ConfigError
        The authority cannot sign, or a name is of another form.
    """
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    signer_key, signer, trust = _loaded(authority)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"agentfarm-{lease_id}"[:64])]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(min(now + VALID_FOR, signer.not_valid_after_utc))
    )
    for extension, critical in _extensions(key, signer_key, alternatives):
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(signer_key, hashes.SHA256())
    return ServerCertificate(address, _pem(key), certificate.public_bytes(serialization.Encoding.PEM).decode(), trust)


def _extensions(
    key: ec.EllipticCurvePrivateKey, signer_key: Any, alternatives: x509.SubjectAlternativeName
) -> list[tuple[x509.ExtensionType, bool]]:
    """Return all that Python 3.13's strict verification wants."""
    usage = dict.fromkeys(
        (
            "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
            "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    return [
        (alternatives, False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.KeyUsage(digital_signature=True, **usage), True),
        (x509.ExtendedKeyUsage(_USAGES), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), False),
    ]


def _loaded(authority: Authority) -> tuple[Any, x509.Certificate, str]:
    """Return the authority's key, its certificate, and whom servers trust."""
    try:
        pem = authority.keyfile.read_bytes()
        # Checking an RSA key's primes takes 40 ms and the interpreter's lock; the file is the Hub's own.
        key = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
        certificate = x509.load_pem_x509_certificate(authority.certfile.read_bytes())
        trust = authority.trustfile.read_text()
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(
            f"internal_ssl: the authority {authority.certfile} with its key {authority.keyfile} cannot sign ({exc}): "
            "give c.JupyterHub.external_ssl_authorities its unencrypted key, or leave it to JupyterHub"
        ) from exc
    if not isinstance(key, RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ConfigError(f"internal_ssl: {authority.keyfile} must be an RSA or an EC key")
    return key, certificate, trust


def _general_name(name: str) -> x509.GeneralName:
    kind, _, value = name.partition(":")
    try:
        if kind == "IP":
            return x509.IPAddress(ipaddress.ip_address(value))
        if kind == "DNS" and value:
            return x509.DNSName(value)
    except ValueError as exc:
        raise ConfigError(f"c.Spawner.ssl_alt_names: {name!r} is no address and no name ({exc})") from exc
    raise ConfigError(f"c.Spawner.ssl_alt_names: {name!r} must be like IP:10.0.0.11 or DNS:gpu1")


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    unencrypted = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted).decode()
