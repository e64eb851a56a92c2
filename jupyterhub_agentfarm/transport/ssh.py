"""SSHPool: the one place that opens SSH connections, one for each node.

A host key is verified on every connection: against `NodeSpec.host_key` where the node was pinned, otherwise against
`SSHPool.known_hosts` (:mod:`.host_trust`). There is no third way. The check is a part of the key exchange, so a wrong
key ends the connection before the login: no user name, no command and no environment was sent.
"""

from __future__ import annotations

import asyncio
import getpass
import os
from typing import Any

import asyncssh
from traitlets import Integer, List, Unicode
from traitlets.config import LoggingConfigurable

from jupyterhub_agentfarm.errors import NodeUnreachable
from jupyterhub_agentfarm.models import NodeSpec
from jupyterhub_agentfarm.traitlets import Seconds

from .connection import NodeConnection
from .host_trust import HostTrust
from .login import Login


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
        help="""File with the host keys of nodes that have no `host_key` of their own, in OpenSSH's format;
        `@cert-authority` lines are for host certificates. It is read at every connection. A pinned `host_key` is
        stricter: it holds for that node only. `@revoked` lines refuse a key on every node, pinned or not.""",
    ).tag(config=True)
    client_keys = List(
        Unicode(),
        help="""Private keys to log in with, as paths. Empty: the keys of ~/.ssh and those of the SSH agent.
        A node's `ssh_keyfile` goes before them. A certificate `KEY-cert.pub` beside a key is used with it. Keys with a
        passphrase must be in the agent.""",
    ).tag(config=True)
    user_ca = Unicode(
        "",
        help="""Private key (0600) of the farm's certificate authority, a path on the controller's machine;
        `agentfarm ca init` makes one. With it, the controller logs in with a new key and a certificate that it signs
        at that moment: there is no key that logs in on the Hub, and none of the farm's on a node, which has only the
        authority's public half in `TrustedUserCAKeys`. Whoever has this file can log in to every such node. A node
        with an `ssh_keyfile` of its own uses that instead. Empty: `client_keys`.""",
    ).tag(config=True)
    certificate_lifetime = Seconds(
        300.0,
        help="""Time for which a certificate signed by `user_ca` can log in (in seconds, or as '5m'). Smaller makes one
        that leaks worthless sooner; larger bears nodes whose clocks are ahead of the controller's by so much (those
        behind may be so by a minute). An open connection outlasts its certificate.""",
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
        4.0,
        help="""Longest pause between two attempts to reach a node (in seconds). The pauses grow from half a second,
        with jitter. Smaller brings a node back, and fences what was replaced meanwhile, sooner; larger makes less noise
        while many nodes are off.""",
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
            The node's host key or certificate is not one that vouches for it. Nothing was sent.
        LoginRefused
            The node does not take our key or certificate.
        NodeUnreachable
            No connection.
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
        trust = HostTrust(spec, self.known_hosts)
        login = self._login(spec)
        options = self._options(trust, login)
        try:
            return await asyncssh.connect(spec.host, spec.port, connect_timeout=timeout_seconds, **options)
        except asyncssh.HostKeyNotVerifiable as exc:
            raise trust.refusal(exc) from exc
        except asyncssh.PermissionDenied as exc:
            raise login.refusal() from exc
        except TimeoutError as exc:
            where = f"{spec.host}:{spec.port}"
            raise NodeUnreachable(spec.name, f"{where} did not answer within {timeout_seconds:g} s") from exc
        except (OSError, asyncssh.Error) as exc:
            if not trust.agrees:
                raise trust.refusal(exc) from exc
            raise NodeUnreachable(spec.name, f"{spec.host}:{spec.port} cannot be reached: {exc}") from exc

    def _login(self, spec: NodeSpec) -> Login:
        user = spec.user or account()
        return Login(spec, user, self.user_ca, self.certificate_lifetime, tuple(self.client_keys))

    def _options(self, trust: HostTrust, login: Login) -> dict[str, Any]:
        return {
            "config": self.ssh_config or None,
            "username": login.user,
            "known_hosts": trust,
            "client_factory": trust.watch,
            **NO_X509,
            "preferred_auth": "publickey",
            "gss_host": None,
            "keepalive_interval": self.keepalive_interval,
            # asyncssh gives up one interval after the last probe of its count.
            "keepalive_count_max": self.keepalive_count - 1,
            **login.options(),
        }
