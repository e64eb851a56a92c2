"""Why a start failed: a sentence for the user, a fixed reason for metrics and programs.

JupyterHub 6 has `SpawnException`, whose `reason` becomes a label of its metrics. Earlier versions get tornado's
`HTTPError`.
"""

from __future__ import annotations

import html
from typing import Any, cast

from tornado import web

from ..errors import AgentFarmError, NodedError
from .hub_workarounds import show_to_user
from .progress import preformatted

try:
    from jupyterhub.spawner import SpawnException
except ImportError:  # JupyterHub 5
    SpawnException = None


def start_failure(message: str, reason: str, status: int = 500, log_tail: str = "") -> web.HTTPError:
    """Return the exception that `Spawner.start` raises.

    Parameters
    ----------
    message
        For the user, as plain text.
    reason
        One of a few fixed words.
    status
        HTTP status that the request to start is answered with.
    log_tail
        Last lines of the server's log, shown below the message.
    """
    shown = preformatted(message, log_tail) if log_tail else html.escape(message)
    if SpawnException is not None:
        error: Any = SpawnException(message, reason=reason, message_html=shown, status_code=status)
    else:
        error = web.HTTPError(status, message, reason=reason)
    show_to_user(error, message, shown)
    return cast("web.HTTPError", error)


def explain(error: AgentFarmError, log_tail: str = "") -> web.HTTPError:
    """Return the exception that tells the user of `error`."""
    return start_failure(error.message, error.reason, error.http_status, log_tail or log_of(error))


def log_of(error: AgentFarmError) -> str:
    """Return the last log lines that came with `error`."""
    if isinstance(error, NodedError):
        return str(error.remote_facts.get("log_tail") or "")
    return str(error.facts().get("log_tail") or "")
