"""Host keys at enrolment: fetch the one a node shows, and print it as `ssh-keygen -l` does.

The key that is fetched here is not trusted yet: a person compares the fingerprint with the one on the node's
console, and only then it is written down as `NodeSpec.host_key`.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncssh

from jupyterhub_agentfarm.errors import InvalidField, NodeUnreachable


@dataclass(frozen=True)
class HostKey:
    """A node's public host key."""

    #: As in known_hosts without the host, and without a comment: "ssh-ed25519 AAAA…".
    line: str
    #: "SHA256:…", as ssh-keygen prints it.
    fingerprint: str


def parse_host_key(line: str, field: str = "host_key") -> asyncssh.SSHKey:
    """Return the public key that `line` holds.

    Raises
    ------
    InvalidField
        The line is no public key; the error names `field`.
    """
    try:
        return asyncssh.import_public_key(line)
    except (asyncssh.KeyImportError, ValueError) as exc:
        raise InvalidField(field, 'a public host key such as "ssh-ed25519 AAAA…"', line) from exc


def fingerprint(line: str) -> str:
    """Return the SHA256 fingerprint of the public key in `line`, as `ssh-keygen -l` prints it.

    Raises
    ------
    InvalidField
        The line is no public key.
    """
    return parse_host_key(line).get_fingerprint()


async def fetch_host_key(host: str, port: int = 22, timeout_seconds: float = 5) -> HostKey:
    """Return the host key that an SSH server shows; no login is tried.

    Parameters
    ----------
    host, port
        Address of the server.
    timeout_seconds
        Until the server is given up.

    Raises
    ------
    NodeUnreachable
        There is no SSH server, or it did not answer in time.
    """
    options = asyncssh.SSHClientConnectionOptions(
        config=None, connect_timeout=timeout_seconds, x509_trusted_certs=None, x509_trusted_cert_paths=None
    )
    try:
        key = await asyncssh.get_server_host_key(host, port, config=None, options=options)
    except TimeoutError as exc:
        raise NodeUnreachable(host, f"no SSH server answered on port {port} within {timeout_seconds:g} s") from exc
    except (OSError, asyncssh.Error) as exc:
        raise NodeUnreachable(host, f"no host key could be read from port {port}: {exc}") from exc
    if key is None:
        raise NodeUnreachable(host, f"the SSH server on port {port} showed no host key")
    parts = key.export_public_key("openssh").decode().split()
    return HostKey(" ".join(parts[:2]), key.get_fingerprint())
