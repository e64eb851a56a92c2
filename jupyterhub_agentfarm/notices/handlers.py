"""The HTTP API of notices, behind the server's own authentication."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from ..errors import InvalidField
from ..protocol import NOTICE_FILE, Notice
from ..records import from_json, to_json


def handlers(base_url: str) -> list[tuple[str, type[web.RequestHandler]]]:
    """Return the routes below `base_url`, for `Application.add_handlers`."""
    return [(url_path_join(base_url, r"agentfarm/api/v1/notices"), NoticesHandler)]


class NoticesHandler(APIHandler):
    """The notices of this server."""

    auth_resource = "agentfarm_notices"
    #: It is a page that asks, every few seconds: to the culler of idle servers that must not look like a user.
    _track_activity = False

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer what is about to happen."""
        notice = await asyncio.to_thread(read_notice)
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps({"notices": [] if notice is None else [to_json(notice)]}))


def read_notice() -> Notice | None:
    """Return what noded wrote down for this server; None when there is nothing."""
    folder = os.environ.get("AGENTFARM_SERVER_DIR")
    if not folder:
        return None
    try:
        data: Any = json.loads(Path(folder, NOTICE_FILE).read_text(encoding="utf-8"))
        return from_json(Notice, data)
    except (OSError, ValueError, InvalidField):
        return None  # there is none, or what is there is no notice: the file belongs to the server's own account
