"""TLS between the Hub's parts, where `c.JupyterHub.internal_ssl` is on: who shows and trusts what.

JupyterHub keeps one certificate authority per kind of component in its `internal_certs_location`. Both ends of every
connection show a certificate, and each trusts the authorities that it may meet, never the system's::

    a managed service   the pair that the Hub makes for services (JUPYTERHUB_SSL_*); lets the Hub and its proxy in
    the Hub's account   the Hub's own pair: FarmClient in the Hub and in the services, the command line
    a user's server     the pair of its lease (:mod:`jupyterhub_agentfarm.spawner.certificates`)

A service that the Hub does not start names `internal_certs_location` in $AGENTFARM_CERTS_DIR and listens with the
Hub's own pair. So a users' server, whose certificate neither kind trusts, gets no further than the handshake.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ConfigError

ENV_CERTS_DIR = "AGENTFARM_CERTS_DIR"
_VARIABLES = ("JUPYTERHUB_SSL_KEYFILE", "JUPYTERHUB_SSL_CERTFILE", "JUPYTERHUB_SSL_CLIENT_CA")
#: What the Hub and its proxy sign with, as certipy names the bundle that users' servers and services trust.
_HUB_AND_PROXY = "notebooks-ca_trust.crt"
_ALL_COMPONENTS = "hub-ca_trust.crt"


@dataclass(frozen=True)
class Certificates:
    """Paths of a private key, its certificate, and the authorities that are trusted."""

    keyfile: Path
    certfile: Path
    cafile: Path

    def server(self) -> ssl.SSLContext:
        """Return what a server listens with: whoever shows no certificate that it trusts is sent away.

        Raises
        ------
        ConfigError
            A file is missing or is none.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._loaded(context)

    def client(self) -> ssl.SSLContext:
        """Return what a client connects with: the peer's certificate must be trusted and name the peer.

        Raises
        ------
        ConfigError
            A file is missing or is none.
        """
        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        try:
            context.load_cert_chain(self.certfile, self.keyfile)
            context.load_verify_locations(self.cafile)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"internal_ssl: {self.certfile}, its key {self.keyfile} and {self.cafile} cannot be used ({exc}): "
                "start the Hub once, and be the account that it runs as"
            ) from exc
        return context


def of_environment() -> Certificates | None:
    """Return this service's own certificates, or None where internal_ssl is off."""
    paths = [os.environ.get(variable, "") for variable in _VARIABLES]
    if all(paths):
        return Certificates(*map(Path, paths))
    directory = os.environ.get(ENV_CERTS_DIR, "")
    return replace(of_hub(Path(directory)), cafile=Path(directory, _HUB_AND_PROXY)) if directory else None


def of_hub(certs_dir: Path) -> Certificates:
    """Return the Hub's own certificates; only its account can read the key."""
    pair = certs_dir / "hub-internal" / "hub-internal"
    return Certificates(pair.with_suffix(".key"), pair.with_suffix(".crt"), certs_dir / _ALL_COMPONENTS)


class HubConnections:
    """The TLS context with which the Hub's account reaches its services; made once, so that connections are reused."""

    def __init__(self) -> None:
        self._made: tuple[Path, ssl.SSLContext] | None = None

    def context(self, certs_dir: Path | None) -> ssl.SSLContext | bool:
        """Return aiohttp's `ssl` argument: True, its own way, where there is no directory of certificates.

        Raises
        ------
        ConfigError
            The Hub's certificates cannot be read.
        """
        if certs_dir is None:
            return True
        if self._made is None or self._made[0] != certs_dir:
            self._made = certs_dir, of_hub(certs_dir).client()
        return self._made[1]


def alt_name(host: str) -> str:
    """Return a host name or an address as a certificate has it: ``DNS:gpu1``, ``IP:10.0.0.11``."""
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
