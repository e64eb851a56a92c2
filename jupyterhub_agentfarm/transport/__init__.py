"""Reaching a node: one SSH connection for each, and the only code that speaks noded's protocol.

::

    NodeLink ──▶ SSHPool ──▶ NodeConnection ──▶ sshd of the node
        │                         ├─ exec: `python -m jupyterhub_agentfarm.noded --ensure`
        └──▶ NodedClient ─────────┴─ direct-streamlocal: noded's unix socket

Host keys are verified before anything is sent; what is not pinned and not in known_hosts is refused.
"""

from __future__ import annotations

from .connection import CompletedCommand, NodeConnection
from .host_key import HostKey, fetch_host_key, fingerprint
from .link import LinkListener, NodeLink
from .noded_client import NodedClient
from .ssh import SSHPool

__all__ = [
    "CompletedCommand",
    "HostKey",
    "LinkListener",
    "NodeConnection",
    "NodeLink",
    "NodedClient",
    "SSHPool",
    "fetch_host_key",
    "fingerprint",
]
