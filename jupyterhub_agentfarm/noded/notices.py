"""What a server is to tell its user: a file in its private directory, which the server's extension reads."""

from __future__ import annotations

import json

from jupyterhub_agentfarm.errors import NodedError, NotFoundError
from jupyterhub_agentfarm.protocol import NOTICE_FILE, Notice
from jupyterhub_agentfarm.records import to_json

from .directories import ServerDirectories


def put_notice(directories: ServerDirectories, lease: str, notice: Notice | None) -> None:
    """Write a server's notice, or remove it when there is None.

    Raises
    ------
    NotFoundError
        The server has no directory: it ended, or an older noded started it.
    NodedError
        The directory, which the server may write to, does not take it.
    """
    try:
        if notice is None:
            directories.discard(lease, NOTICE_FILE)
        else:
            text = json.dumps(to_json(notice))
            directories.write(lease, NOTICE_FILE, text, directories.owner(lease))
    except FileNotFoundError as exc:
        raise NotFoundError(f"the server of lease {lease} has no directory") from exc
    except OSError as exc:
        raise NodedError(f"the directory of lease {lease} does not take a notice: {exc.strerror}") from exc
