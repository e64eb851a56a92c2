"""Notebooks executed beside their kernel: a Jupyter Server extension.

Whoever submits a notebook gets a run, and may go away: nothing depends on the connection. The HTTP API lies under
``<base_url>agentfarm/api/v1/runs``::

    POST   runs                  RunRequest -> 201 Run (200 when the idempotency key is known)
    GET    runs                  {"runs": [Run, ...]}, newest first
    GET    runs/ID               Run
    GET    runs/ID/events        server-sent events; resume with Last-Event-ID or ?after=
    POST   runs/ID/cancel        Run
    DELETE runs/ID               204; of a run that has ended
    GET    runs/ID/notebook      the notebook as executed so far
    GET    runs/ID/artifacts     {"artifacts": [{path, size_bytes, sha256}, ...], "refused": [...]}
    GET    runs/ID/artifacts/PATH    one file that the notebook left in the folder $AGENTFARM_ARTIFACTS
    GET    runs/ID/results       what the notebook published as application/vnd.agentfarm.result+json, merged

A run moves one way, and every way out has a fixed reason (:data:`~.models.Reason`)::

    queued --> executing --> completed
       |           |-------> failed     cell_error, kernel_died, cell_timeout, run_timeout, server_stopped, ...
       `-----------+-------> cancelled

The parts, in the order of the data flow: `handlers` (HTTP), `book` (all runs of one server), `plan` (what to execute,
checked), `execution` (a thread for each executing run), `kernel`, `channels` and `recorder` (nbclient), `journal` (what
is kept on disk, after every cell), `artifacts` (files that the notebook leaves), `events` (what followers are told).
"""

from __future__ import annotations

from typing import Any

__all__: list[str] = []


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "jupyterhub_agentfarm.runs"}]


def _load_jupyter_server_extension(serverapp: Any) -> None:
    import atexit

    from .book import RunBook
    from .handlers import handlers

    book = RunBook(
        parent=serverapp,
        root_directory=serverapp.root_dir,
        server=serverapp.base_url,
        kernel_specs=serverapp.kernel_spec_manager,
        default_kernel_name=serverapp.kernel_manager.default_kernel_name,
        activity=serverapp.web_app.settings["last_activity_times"],
    )
    book.open()
    # The server has no hook for extensions that are not applications of their own; this runs after its loop has ended.
    atexit.register(book.close)
    serverapp.web_app.add_handlers(".*$", handlers(serverapp.base_url, book))
    serverapp.log.info("Notebook runs are kept in %s", book.directory)
