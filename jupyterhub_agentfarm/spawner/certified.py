"""internal_ssl with a node that is chosen inside `start()`.

JupyterHub asks for certificates before `start()`, and so before the farm has chosen a node::

    create_certs() ── nothing ─▶ start() ─▶ lease granted ─▶ the address that its node listens on
                                                 └─▶ key and certificate for that address, in memory
                                                         └─▶ LaunchOrder.files ─▶ 0600 on the node, gone with the server

The Hub keeps no key: no file of one server can be taken for another's, and a Hub's disk holds no secret of a user's.

Two servers of one node have certificates that the proxy cannot tell apart. The Hub can, when a server starts and when a
restarted Hub finds it again: it accepts the very certificate that was made for the lease. In between it is the socket
that the server inherited from noded, and the removal of a dead server's route, that keep a neighbour from taking its
place.
"""

from __future__ import annotations

import asyncio
import ssl
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models import Lease
from ..noded.directories import PLACEHOLDER
from ..services import tls
from ..services.tls import alt_name
from .certificates import AUTHORITY, CERTIFICATE, KEY, TRUST, Authority, ServerCertificate, issue, only

if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner

    from .spawner import AgentFarmSpawner
else:
    Spawner = object


class CertifiedSpawner(Spawner):
    """A spawner whose servers get their certificates inside `start()`; JupyterHub's own is mixed in with it."""

    #: The server's certificate, as PEM; None where it has none. It is no secret, and a later Hub needs it.
    certificate: str | None = None

    def get_state(self) -> dict[str, Any]:
        """Return the state with the certificate."""
        state = dict(super().get_state())
        return state if self.certificate is None else state | {"certificate": self.certificate}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the certificate."""
        super().load_state(state)
        self.certificate = state.get("certificate")

    def clear_state(self) -> None:
        """Forget the certificate."""
        super().clear_state()
        self.certificate = None
        self.cert_paths = dict[str, str]()

    # By these names traitlets finds defaults in a class that is mixed in.

    def _ssl_alt_names_default(self) -> list[str]:
        return []  # not the Hub's names, which are JupyterHub's default

    def _ssl_alt_names_include_local_default(self) -> bool:
        return False

    async def create_certs(self) -> dict[str, str]:
        """Return no certificate yet: it names the node, which is chosen in `start()`."""
        return {}

    def server_context(self) -> ssl.SSLContext | None:
        """Return what the Hub connects to its server with, to know it for itself; None for plain HTTP."""
        if not self.internal_ssl:
            return None
        settings = self.user.settings
        keyfile, certfile = settings["internal_ssl_key"], settings["internal_ssl_cert"]
        if self.certificate is None:  # made by the Hub before internal_ssl was on, perhaps
            return tls.Certificates(Path(keyfile), Path(certfile), Path(settings["internal_ssl_ca"])).client()
        return only(self.certificate, keyfile, certfile)


async def certify(spawner: AgentFarmSpawner, lease: Lease) -> ServerCertificate | None:
    """Return a certificate for the server of a granted lease; None where internal_ssl is off.

    Raises
    ------
    ConfigError
        The Hub's authority cannot sign.
    """
    if not spawner.internal_ssl:
        return None
    node = str(lease.node)
    address = str((await spawner.watch.patiently(lambda: spawner.watch.client.node(node)))["address"])
    names = [alt_name(address), *await _configured_names(spawner)]
    authority = _authority(spawner)
    certificate = await asyncio.to_thread(issue, authority, address, list(dict.fromkeys(names)), lease.id)
    spawner.cert_paths = {
        "keyfile": f"{PLACEHOLDER}/{KEY}",
        "certfile": f"{PLACEHOLDER}/{CERTIFICATE}",
        "cafile": f"{PLACEHOLDER}/{TRUST}",
    }
    spawner.certificate = certificate.certificate
    spawner.keep_state()  # before the launch: a Hub that is killed after it must know its server again
    return certificate


def _authority(spawner: Spawner) -> Authority:
    """Return where the Hub keeps its authority for servers, or where the site said that it is."""
    files = (spawner.user.settings.get("internal_authorities") or {}).get(AUTHORITY) or {}
    usual = Path(spawner.internal_certs_location, AUTHORITY, AUTHORITY)
    return Authority(
        Path(files.get("key") or usual.with_suffix(".key")),
        Path(files.get("cert") or usual.with_suffix(".crt")),
        Path(spawner.internal_trust_bundles[AUTHORITY]),
    )


async def _configured_names(spawner: Spawner) -> list[str]:
    """Return the names that the site wants in every certificate."""
    names = spawner.ssl_alt_names
    if callable(names):
        names = names(spawner)
        if isawaitable(names):
            names = await names
    usual = ["DNS:localhost", "IP:127.0.0.1"] if spawner.ssl_alt_names_include_local else []
    return [*usual, *names]
