"""SSHPool: the one place that opens SSH connections, one for each node.

A host key is verified on every connection: against `NodeSpec.host_key` where the node was pinned, otherwise against
`SSHPool.known_hosts`. There is no third way. The check is a part of the key exchange, so a wrong key ends the
connection before the login: no user name, no command and no environment was sent.
"""

from __future__ import annotations

import asyncio
import getpass
import os
from pathlib import Path
from typing import Any

import asyncssh
from traitlets import Integer, List, Unicode
from traitlets.config import LoggingConfigurable

from jupyterhub_agentfarm.errors import HostKeyRefused, NodeUnreachable
from jupyterhub_agentfarm.models import NodeSpec
from jupyterhub_agentfarm.traitlets import Seconds

from .connection import NodeConnection
from .host_key import parse_host_key


def account() -> str:
    """Return the name of the account of this process; its uid where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


#: Only the pinned key vouches for a node: no certificate authority that lies in the account's ~/.ssh, which asyncssh
#: would look for, and fail where the account may not read there.
NO_X509: dict[str, Any] = {"x509_trusted_certs": None, "x509_trusted_cert_paths": None}


class SSHPool(LoggingConfigurable):
    """Opens, shares and closes the SSH connections to the nodes."""

    known_hosts = Unicode(
        "~/.ssh/known_hosts",
        help="""File with the host keys of nodes that have no `host_key` of their own, in OpenSSH's format.
        It is read at every connection. A pinned `host_key` is stricter: it holds for that node only.""",
    ).tag(config=True)
    client_keys = List(
        Unicode(),
        help="""Private keys to log in with, as paths. Empty: the keys of ~/.ssh and those of the SSH agent.
        A node's `ssh_keyfile` goes before them. Keys with a passphrase must be in the agent.""",
    ).tag(config=True)
    ssh_config = Unicode(
        "",
        help="""OpenSSH client configuration to read, for jump hosts and the like. Empty: none is read, so that
        nodes are reached in the same way whoever's account the controller runs as.""",
    ).tag(config=True)
    connect_timeout = Seconds(
        5.0,
        help="""Time for connecting and logging in (in seconds). Smaller notices a dead node sooner; larger bears slow
        networks and name servers.""",
    ).tag(config=True)
    keepalive_interval = Seconds(
        2.0,
        help="""Time between two signs of life that are asked of a silent node (in seconds).""",
    ).tag(config=True)
    keepalive_count = Integer(
        3,
        min=1,
        help="""Intervals without any answer after which the connection counts as lost: with 3 intervals of 2 s a
        frozen node is noticed after 6 s. Smaller notices sooner, larger bears hiccups of the network.""",
    ).tag(config=True)
    max_backoff = Seconds(
        30.0,
        help="""Longest pause between two attempts to reach a node (in seconds). The pauses grow from half a second,
        with jitter. Smaller brings a node back sooner, larger makes less noise while it is off.""",
    ).tag(config=True)
    max_sessions = Integer(
        8,
        min=1,
        help="""Commands that run on one connection at once, besides noded's channel. sshd's own limit (`MaxSessions`)
        is 10: more than 8 needs that raised on the nodes.""",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._open: dict[str, NodeConnection] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def connection(self, spec: NodeSpec, timeout_seconds: float | None = None) -> NodeConnection:
        """Return the connection to a node, opened when there is none.

        Parameters
        ----------
        spec
            The node.
        timeout_seconds
            For connecting; None: `connect_timeout`.

        Raises
        ------
        HostKeyRefused
            The node's host key is not the pinned one, or is not known. Nothing was sent.
        NodeUnreachable
            No connection, or no login.
        """
        lock = self._locks.setdefault(spec.name, asyncio.Lock())
        async with lock:
            connection = self._open.get(spec.name)
            if connection is None or connection.closed:
                ssh = await self._connect(spec, timeout_seconds or self.connect_timeout)
                connection = self._open[spec.name] = NodeConnection(spec.name, ssh, self.max_sessions)
            return connection

    async def drop(self, name: str) -> None:
        """Close the connection to a node, if there is one."""
        connection = self._open.pop(name, None)
        if connection is not None:
            await connection.aclose()

    async def aclose(self) -> None:
        """Close every connection; may be called again."""
        await asyncio.gather(*(self.drop(name) for name in list(self._open)))

    async def _connect(self, spec: NodeSpec, timeout_seconds: float) -> asyncssh.SSHClientConnection:
        options = self._options(spec)
        try:
            return await asyncssh.connect(spec.host, spec.port, connect_timeout=timeout_seconds, **options)
        except asyncssh.HostKeyNotVerifiable as exc:
            raise self._host_key_refused(spec) from exc
        except asyncssh.KeyExchangeFailed as exc:
            if "host key" in str(exc).lower():
                raise self._host_key_refused(spec) from exc
            raise NodeUnreachable(spec.name, f"the key exchange failed: {exc}") from exc
        except asyncssh.PermissionDenied as exc:
            raise NodeUnreachable(
                spec.name,
                f"the login as {options['username']} was refused: put the controller's public key into that "
                "account's authorized_keys on the node",
            ) from exc
        except TimeoutError as exc:
            where = f"{spec.host}:{spec.port}"
            raise NodeUnreachable(spec.name, f"{where} did not answer within {timeout_seconds:g} s") from exc
        except (OSError, asyncssh.Error) as exc:
            raise NodeUnreachable(spec.name, f"{spec.host}:{spec.port} cannot be reached: {exc}") from exc

    def _options(self, spec: NodeSpec) -> dict[str, Any]:
        return {
            "config": self.ssh_config or None,
            "username": spec.user or account(),
            "known_hosts": self._trusted(spec),
            **NO_X509,
            "preferred_auth": "publickey",
            "gss_host": None,
            "keepalive_interval": self.keepalive_interval,
            # asyncssh gives up one interval after the last probe of its count.
            "keepalive_count_max": self.keepalive_count - 1,
            **self._keys(spec),
        }

    def _keys(self, spec: NodeSpec) -> dict[str, Any]:
        paths = ([spec.ssh_keyfile] if spec.ssh_keyfile else []) or list(self.client_keys)
        if not paths:
            return {}
        try:
            return {
                "client_keys": [asyncssh.read_private_key(Path(path).expanduser()) for path in paths],
                "agent_path": None,
            }
        except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
            raise NodeUnreachable(spec.name, f"the private key to log in with cannot be used: {exc}") from exc

    def _trusted(self, spec: NodeSpec) -> Any:
        if spec.host_key is not None:
            return ([parse_host_key(spec.host_key)], [], [])
        try:
            return asyncssh.read_known_hosts(str(Path(self.known_hosts).expanduser()))
        except FileNotFoundError:
            # An empty object, not an empty text: for that asyncssh would look into ~/.ssh.
            return asyncssh.import_known_hosts("")
        except (OSError, ValueError) as exc:
            raise HostKeyRefused(spec.name, f"SSHPool.known_hosts {self.known_hosts} cannot be read: {exc}") from exc

    def _host_key_refused(self, spec: NodeSpec) -> HostKeyRefused:
        if spec.host_key is None:
            return HostKeyRefused(
                spec.name,
                f"the host key of {spec.host} is not in {self.known_hosts}: compare its fingerprint on the node's "
                "console and pin it as `host_key`",
            )
        pinned = parse_host_key(spec.host_key).get_fingerprint()
        return HostKeyRefused(
            spec.name,
            f"{spec.host} shows another host key than the pinned one ({pinned}): if the node was set up anew, compare "
            "the new fingerprint on its console and enrol it again; if not, somebody may stand in between",
        )
