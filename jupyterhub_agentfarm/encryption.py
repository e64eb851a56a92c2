"""What a Hub with `c.JupyterHub.internal_ssl = True` needs besides that line; :func:`.configure.configure` calls it.

The Hub's own certificate must name every address at which nodes call the Hub, its proxy's API must be an https URL,
and the farm's services listen with TLS. JupyterHub 6.1 cannot wait for such a service:
:func:`let_https_services_start` mends that.
"""

from __future__ import annotations

import functools
import socket
import ssl
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from cryptography import x509
from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

from .services.tls import alt_name

_WILDCARDS = {"", "0.0.0.0", "::", "*"}
_HUB_CERTIFICATE = Path("hub-internal", "hub-internal.crt")


def encrypted(c: Config) -> bool:
    """Return whether the site wants internal_ssl."""
    return bool(_get(c, "JupyterHub", "internal_ssl"))


def certs_dir(c: Config) -> Path:
    """Return where the Hub keeps its certificates."""
    return Path(_get(c, "JupyterHub", "internal_certs_location") or "internal-ssl").absolute()


def encrypt(c: Config) -> None:
    """Set up what internal_ssl needs."""
    c.JupyterHub.internal_certs_location = str(certs_dir(c))
    names = list(dict.fromkeys([*(_get(c, "JupyterHub", "trusted_alt_names") or []), *hub_names(c)]))
    c.JupyterHub.trusted_alt_names = names
    _warn_of_missing_names(certs_dir(c) / _HUB_CERTIFICATE, names)
    api_url = urlsplit(str(_get(c, "ConfigurableHTTPProxy", "api_url") or ""))
    if api_url.scheme == "http":  # the Hub starts its proxy with TLS on this URL whatever it says
        c.ConfigurableHTTPProxy.api_url = urlunsplit(api_url._replace(scheme="https"))
    let_https_services_start()


def hub_names(c: Config) -> list[str]:
    """Return the names and addresses at which the proxy and the nodes call the Hub, as a certificate has them."""
    connect_url = _host(c, "JupyterHub", "hub_connect_url")
    hosts = [connect_url or str(_get(c, "JupyterHub", "hub_connect_ip") or "") or _listens(c)]
    hosts += [host for cls in ("Spawner", "AgentFarmSpawner") if (host := _host(c, cls, "hub_connect_url"))]
    return list(dict.fromkeys(map(alt_name, hosts)))


def _listens(c: Config) -> str:
    """Return by what the Hub is called that is only told where to listen."""
    if _get(c, "JupyterHub", "hub_bind_url"):
        host = _host(c, "JupyterHub", "hub_bind_url")
    else:
        found = _get(c, "JupyterHub", "hub_ip")
        host = "127.0.0.1" if found is None else str(found)
    return socket.gethostname() if host in _WILDCARDS else host


def _host(c: Config, cls: str, option: str) -> str:
    return urlsplit(str(_get(c, cls, option) or "")).hostname or ""


def let_https_services_start() -> None:
    """Let the Hub wait for services that listen with TLS; a second call does nothing.

    JupyterHub 6.1's `start` gives `start_service` the TLS context with which the Hub itself listens, and no connection
    can be opened with one ("Cannot create a client socket with a PROTOCOL_TLS_SERVER context"): no service with an
    https URL is ever seen, and a Hub that manages one ends. Without a context, `start_service` makes the right one.
    """
    from jupyterhub.app import JupyterHub

    original = getattr(JupyterHub, "start_service", None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    async def start_service(
        self: Any, service_name: str, service: Any, ssl_context: ssl.SSLContext | None = None
    ) -> Any:
        """Start a service, with a context that a client can use."""
        if ssl_context is not None and ssl_context.protocol == ssl.PROTOCOL_TLS_SERVER:
            ssl_context = None
        return await original(self, service_name, service, ssl_context)

    JupyterHub.start_service = start_service


def _warn_of_missing_names(certificate: Path, names: list[str]) -> None:
    """Say so when the Hub has a certificate already that lacks a name: it makes no new one by itself."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return  # the Hub makes one, or says what is wrong with it
    has = {f"IP:{address}" for address in extension.get_values_for_type(x509.IPAddress)}
    has |= {f"DNS:{name}" for name in extension.get_values_for_type(x509.DNSName)}
    missing = [name for name in names if name not in has]
    if missing:
        warnings.warn(
            f"the Hub's certificate {certificate} lacks {', '.join(missing)}, so servers cannot verify the Hub: stop "
            "all servers and start the Hub once with c.JupyterHub.recreate_internal_certs = True",
            stacklevel=4,
        )


def _get(c: Config, cls: str, name: str) -> Any:
    value = c[cls].get(name) if cls in c else None
    return value.get_value([]) if isinstance(value, LazyConfigValue) else value
