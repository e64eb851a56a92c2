"""The farm's certificate authority for logins: nodes trust one key, and the Hub keeps no key that logs in.

::

    agentfarm ca init ──▶ CA key (0600, controller's machine)          node: TrustedUserCAKeys = its public half
    every connection ──▶ a new key pair, in memory only ──▶ certificate: one account, a few minutes, signed by the CA

sshd looks at the certificate at login only: a connection that is open goes on when the certificate has expired. A
certificate permits what the farm does on a node and no more: OpenSSH's ``permit-port-forwarding`` also covers unix
sockets, noded's among them; a terminal, agent and X11 forwarding, and the account's ``~/.ssh/rc`` are not permitted.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from pathlib import Path

import asyncssh

from jupyterhub_agentfarm.errors import ConfigError, ConflictError

#: A node's clock may be behind by this much (in seconds) and still takes a certificate that was just made.
CLOCK_SKEW_SECONDS = 60.0

Credentials = list[tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]]


def make_ca(path: Path) -> str:
    """Write a new CA key to `path` (0600) and its public half beside it (``.pub``); return the public line.

    Raises
    ------
    ConflictError
        There is a file already: a CA that nodes may trust is never overwritten.
    ConfigError
        The file cannot be written.
    """
    key = asyncssh.generate_private_key("ssh-ed25519", comment=f"agentfarm-ca@{socket.gethostname()}")
    public = key.export_public_key("openssh").decode().strip()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.export_private_key("openssh"))
        path.with_name(f"{path.name}.pub").write_text(public + "\n", "ascii")
    except FileExistsError as exc:
        raise ConflictError(f"{path} is there already: nodes may trust it, so name another file") from exc
    except OSError as exc:
        raise ConfigError(f"the CA's key cannot be written to {path}: {exc.strerror}") from exc
    return public


def load_ca(path: Path) -> asyncssh.SSHKey:
    """Return the CA's private key.

    Raises
    ------
    ConfigError
        It cannot be read, or others can read it too: who has it can log in to every node.
    """
    try:
        status = path.stat()
        if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
            raise ConfigError(f"the CA's key {path} must be yours alone: `chmod 600` it, and see who owns it")
        return asyncssh.read_private_key(path)
    except OSError as exc:
        raise ConfigError(
            f"the CA's key {path} cannot be read ({exc.strerror}): `agentfarm ca init` makes one"
        ) from exc
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise ConfigError(f"the CA's key {path} cannot be used (it must have no passphrase): {exc}") from exc


def public_line(key: asyncssh.SSHKey) -> str:
    """Return a key's public half as one line of ``authorized_keys``."""
    return key.export_public_key("openssh").decode().strip()


def credentials(ca: asyncssh.SSHKey, user: str, node: str, lifetime_seconds: float) -> Credentials:
    """Return a new key and a certificate for it; both exist in memory only.

    Parameters
    ----------
    ca
        The authority's private key.
    user
        The account that the certificate logs in as, and no other.
    node
        Name of the node, for the line in its sshd's log.
    lifetime_seconds
        Until the certificate expires.
    """
    now = time.time()
    key = asyncssh.generate_private_key("ssh-ed25519")
    certificate = ca.generate_user_certificate(
        key,
        f"agentfarm controller on {socket.gethostname()} for node {node}",
        serial=secrets.randbits(63),
        principals=[user],
        valid_after=int(now - CLOCK_SKEW_SECONDS),
        valid_before=int(now + lifetime_seconds) + 1,
        permit_x11_forwarding=False,
        permit_agent_forwarding=False,
        permit_port_forwarding=True,
        permit_pty=False,
        permit_user_rc=False,
    )
    return [(key, certificate)]
