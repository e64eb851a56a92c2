"""Which host keys a node may show, and what is said when it shows another one.

``host_key``         the key that was pinned with the node; nothing else vouches for it
``SSHPool.known_hosts``  for nodes without one: keys, ``@cert-authority`` lines for host certificates
``@revoked``         lines of that file hold for every node, also for one whose revoked key is pinned

A host certificate counts when an authority of the file signed it, its names have the node's `host`, and its time has
come and has not passed. The file is read at every connection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncssh

from jupyterhub_agentfarm.errors import HostKeyRefused
from jupyterhub_agentfarm.models import NodeSpec

from .host_key import parse_host_key

#: What asyncssh says, by its beginning, and what is said of it here; "{host}" and "{file}" are filled in.
_SENTENCES = {
    "Host key is revoked": "the host key of {host} is marked @revoked in {file}: give its sshd a new key, compare the "
    "fingerprint on the node's console, and pin that one",
    "Host CA key is revoked": "the authority that signed the host certificate of {host} is marked @revoked in {file}: "
    "have the node's key signed by another one",
    "Host CA key is not trusted": "{host} shows a host certificate of an authority that no @cert-authority line of "
    "{file} names: if it is yours, add it there; if not, somebody may stand in between",
    "Certificate expired": "the host certificate of {host} has expired: sign the node's key anew (`ssh-keygen -s CA "
    "-h`) and reload its sshd",
    "Certificate not yet valid": "the host certificate of {host} is not valid yet: compare the clocks of this machine "
    "and of the one that signed it",
    "Certificate principal mismatch": "the host certificate of {host} was made for other names: sign the node's key "
    "with `-n {host}`",
    "Invalid certificate type": "{host} shows a user's certificate as its host key: sign the node's key with `-h`",
}


class _Watched(asyncssh.SSHClient):
    """Remembers the connection, also one that comes to nothing."""

    def __init__(self, trust: HostTrust) -> None:
        self._trust = trust

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._trust.connection = conn


def _offered(kexinit: bytes) -> set[bytes]:
    """Return the kinds of host keys that a server has: the second list of its SSH_MSG_KEXINIT, RFC 4253 §7.1."""
    if not kexinit:
        return set()
    start = 17 + 4 + int.from_bytes(kexinit[17:21], "big")  # after the type, the cookie, and the kinds of exchange
    length = int.from_bytes(kexinit[start : start + 4], "big")
    return set(kexinit[start + 4 : start + 4 + length].split(b","))


class HostTrust:
    """The keys that one node may show; what asyncssh asks as its known hosts.

    Parameters
    ----------
    spec
        The node.
    known_hosts
        Path of the file, as configured.

    Raises
    ------
    HostKeyRefused
        The file cannot be read, so that nothing vouches for the node.
    """

    def __init__(self, spec: NodeSpec, known_hosts: str) -> None:
        self._spec = spec
        self._file = known_hosts
        self._pinned = parse_host_key(spec.host_key) if spec.host_key is not None else None
        self._lines = self._read()
        #: Whether the file has keys, and whether it has authorities, for this node; known after the call.
        self._has_keys = self._has_authorities = False
        self.connection: asyncssh.SSHClientConnection | None = None

    def _read(self) -> asyncssh.SSHKnownHosts:
        try:
            return asyncssh.read_known_hosts(str(Path(self._file).expanduser()))
        except FileNotFoundError:
            return asyncssh.import_known_hosts("")
        except (OSError, ValueError) as exc:
            raise HostKeyRefused(
                self._spec.name, f"SSHPool.known_hosts {self._file} cannot be read, nor what it revokes: {exc}"
            ) from exc

    def __call__(self, host: str, address: str, port: int | None) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the trusted keys, the trusted authorities and the revoked keys for a host."""
        keys, authorities, *_ = self._lines.match(host, address, port)
        self._has_keys, self._has_authorities = bool(keys), bool(authorities)
        # asyncssh looks at lines without a port only when none has it; what is revoked is revoked on every port.
        revoked = [*self._lines.match(host, address, port)[2], *self._lines.match(host, address, None)[2]]
        if self._pinned is not None:
            return [self._pinned], [], revoked
        return list(keys), list(authorities), revoked

    def watch(self) -> asyncssh.SSHClient:
        """Return a client for asyncssh that remembers its connection; see :attr:`agrees`."""
        return _Watched(self)

    @property
    def agrees(self) -> bool:
        """Whether the node has a host key of a kind that is trusted; True as long as it did not say what it has.

        asyncssh does not look at that: a node that has none just ends the connection.
        """
        offered = _offered(getattr(self.connection, "_server_kexinit", b""))
        wanted = set(getattr(self.connection, "_server_host_key_algs", None) or offered)
        return not offered or bool(wanted & offered)

    def refusal(self, exc: OSError | asyncssh.Error) -> HostKeyRefused:
        """Return why a node's host key was refused, and what to do."""
        for beginning, sentence in _SENTENCES.items():
            if str(exc).startswith(beginning):
                return HostKeyRefused(self._spec.name, sentence.format(host=self._spec.host, file=self._file))
        return HostKeyRefused(self._spec.name, self._untrusted())

    def _untrusted(self) -> str:
        host, between = self._spec.host, "if not, somebody may stand in between"
        if self._pinned is not None:
            return (
                f"{host} shows another host key than the pinned one ({self._pinned.get_fingerprint()}): if the node "
                f"was set up anew, compare the new fingerprint on its console and enrol it again; {between}"
            )
        if self._has_keys:
            return (
                f"{host} shows another host key than {self._file} has for it: if the node was set up anew, compare the "
                f"new fingerprint on its console and replace that line; {between}"
            )
        if self._has_authorities:
            return (
                f"{host} shows no host certificate, and {self._file} trusts only certificates there: sign its key and "
                "set HostCertificate in its sshd_config"
            )
        return (
            f"the host key of {host} is not in {self._file}: compare its fingerprint on the node's console and pin it "
            "as `host_key`"
        )
