"""The server itself answers, with its identity.

That a port accepts connections says nothing: noded made the socket, and a stranger may have taken a port. So the Hub
asks ``GET <url><base_url>api`` until an answer is 200 and carries ``X-JupyterHub-Version`` and, from a server that was
started by :mod:`jupyterhub_agentfarm.server`, ``X-AgentFarm-Lease`` with the id of the lease. With internal_ssl it
must also show the certificate that was made for the lease.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

import aiohttp
from yarl import URL

INTERVAL_SECONDS = 0.1
#: A socket that was inherited accepts before the server does: such a request is answered the moment the server runs.
REQUEST_SECONDS = 10.0
LEASE_HEADER = "X-AgentFarm-Lease"
VERSION_HEADER = "X-JupyterHub-Version"


def identified(status: int, headers: Mapping[str, str], lease_id: str | None) -> bool:
    """Whether an answer comes from the server of `lease_id` (None: from any single-user server)."""
    if status != 200 or VERSION_HEADER not in headers:
        return False
    return lease_id is None or headers.get(LEASE_HEADER) == lease_id


async def until_ready(url: str, lease_id: str | None, tls: ssl.SSLContext | None = None) -> None:
    """Return when the server at `url` answers as the server of `lease_id`; the deadline is the caller's.

    Parameters
    ----------
    url
        The server's API: base URL and ``api``.
    lease_id
        The identity to check; None for a program that does not tell it.
    tls
        What an https server must show, and what is shown to it; None for plain HTTP.
    """
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    connector = aiohttp.TCPConnector(ssl=True if tls is None else tls)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        while True:
            if await _ask(session, url, lease_id):
                return
            await asyncio.sleep(INTERVAL_SECONDS)


async def _ask(session: aiohttp.ClientSession, url: str, lease_id: str | None) -> bool:
    try:
        async with session.get(URL(url, encoded=True), allow_redirects=False) as answer:
            return identified(answer.status, answer.headers, lease_id)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
