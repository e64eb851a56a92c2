"""What the controller logs in to a node with, and what is said when the node does not take it.

In this order: the node's own `ssh_keyfile`; a certificate that the farm's authority signs now (:mod:`.user_ca`); the
keys of `SSHPool.client_keys`; those of the account and its agent. A certificate ``KEY-cert.pub`` beside a key file is
used with it, as ssh does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from jupyterhub_agentfarm.errors import ConfigError, LoginRefused, NodeUnreachable
from jupyterhub_agentfarm.models import NodeSpec

from .user_ca import credentials, load_ca


@dataclass(frozen=True)
class Login:
    """How to log in to one node."""

    spec: NodeSpec
    #: The account there.
    user: str
    #: Path of the authority's private key; "" is none.
    user_ca: str
    lifetime_seconds: float
    client_keys: Sequence[str]

    @property
    def signs(self) -> bool:
        """Whether a certificate is made for this login."""
        return bool(self.user_ca) and not self.spec.ssh_keyfile

    def _paths(self) -> list[Path]:
        paths = ([self.spec.ssh_keyfile] if self.spec.ssh_keyfile else []) or list(self.client_keys)
        return [Path(path).expanduser() for path in paths]

    def options(self) -> dict[str, Any]:
        """Return the keys as options of :func:`asyncssh.connect`.

        Raises
        ------
        NodeUnreachable
            A key cannot be used.
        """
        try:
            if self.signs:
                ca = load_ca(Path(self.user_ca).expanduser())
                made = credentials(ca, self.user, self.spec.name, self.lifetime_seconds)
                return {"client_keys": made, "agent_path": None}
            if not self._paths():
                return {}
            return {"client_keys": asyncssh.load_keypairs(list(map(str, self._paths()))), "agent_path": None}
        except ConfigError as exc:
            raise NodeUnreachable(self.spec.name, f"SSHPool.user_ca: {exc.message}") from exc
        except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
            raise NodeUnreachable(self.spec.name, f"the private key to log in with cannot be used: {exc}") from exc

    def refusal(self) -> LoginRefused:
        """Return why the node did not let us in, as far as that can be known here, and what to do."""
        refused = f"the login as {self.user} was refused: "
        if self.signs:
            return LoginRefused(
                self.spec.name,
                f"{refused}see that sshd there trusts the farm's authority (TrustedUserCAKeys, with the line that "
                f"`agentfarm ca show {self.user_ca}` prints) and does not revoke it, that the account exists, and that "
                f"its clock is right: a certificate is good for {self.lifetime_seconds:g} s",
            )
        expired = [path for path in self._paths() if _expired(path)]
        if expired:
            return LoginRefused(self.spec.name, f"{refused}the certificate {expired[0]}-cert.pub has expired")
        return LoginRefused(
            self.spec.name,
            f"{refused}put the controller's public key into that account's authorized_keys on the node, and see that "
            "it is not revoked there",
        )


def _expired(keyfile: Path) -> bool:
    """Return whether the certificate beside a key is there and over."""
    try:
        certificate = asyncssh.read_certificate(f"{keyfile}-cert.pub")
    except (OSError, asyncssh.KeyImportError):
        return False
    # asyncssh has no public name for it.
    return bool(getattr(certificate, "_valid_before", float("inf")) <= time.time())
