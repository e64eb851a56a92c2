"""What is about to happen to a user's server: a Jupyter Server extension.

The controller tells noded, noded writes ``notice.json`` into the server's private directory
(:mod:`..noded.directories`), and here it is read and answered at ``<base_url>agentfarm/api/v1/notices``::

    GET notices      {"notices": [Notice, ...]}

JupyterLab shows it: share/jupyter/labextensions holds the extension that asks. Asking is no activity of the user.
"""

from __future__ import annotations

from typing import Any

__all__: list[str] = []


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyterhub_agentfarm.notices"}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    from .handlers import handlers

    serverapp.web_app.add_handlers(".*$", handlers(serverapp.base_url))
