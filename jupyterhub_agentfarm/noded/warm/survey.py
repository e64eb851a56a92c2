"""``python -m jupyterhub_agentfarm.noded.warm.survey FD FOLDER NAME…``: what a server of this environment imports.

It is a server: the same launcher, with a small stand-in of its Hub, asked for what a browser asks first. What it has
imported then, and what its kernels would import, goes to FD as JSON, and the process ends::

    modules     in the order of their import, those for kernels last
    for_kernels those that only kernels need
    absent      those of them that the launcher keeps from being imported
    late        those of them that have to be imported in each server: they keep something that differs between servers
                (an identity, or one of the variables NAME…), or cannot be imported without one that does

FOLDER is the home of its account, and is empty. Only who has its token, which nobody learns, can use the server.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import secrets
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any

from jupyterhub_agentfarm.kernels.zygote import BASE

from .fixed import CARRIED, FIXED, leave_directory
from .mending import MENDED
from .recording import EVERYTHING, IDENTITY, Recording, kept_apart

LAUNCHER = "jupyterhub_agentfarm.server"
PREFIX = "/user/survey/"
#: What a browser asks a new server for, beside what it has in its cache.
PATHS = (
    *("api", "lab", "api/contents", "api/kernelspecs", "api/kernels", "api/sessions", "api/terminals", "api/me"),
    *("lab/api/settings", "lab/api/workspaces", "lab/api/translations"),
)
#: What an answer may take, in seconds; the first one waits for the server.
_ANSWER_SECONDS = 120.0
#: Variables that each server has with a value of its own.
ALWAYS = ("HOME", "USER", "LOGNAME", "PATH", "SHELL")


class _Hub(BaseHTTPRequestHandler):
    """What a server asks its Hub."""

    token = ""

    def do_GET(self) -> None:
        """Answer with the version, or with whose token it is."""
        found: dict[str, Any] = {"version": version("jupyterhub")}
        if self.path.endswith("/user"):
            if not secrets.compare_digest(self.headers.get("Authorization", ""), f"token {self.token}"):
                self.send_error(403)
                return
            scopes = ["access:servers!user=survey"]
            found = {"kind": "user", "name": "survey", "admin": False, "groups": [], "scopes": scopes}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", version("jupyterhub"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - as http.server calls it

    def log_message(self, *_: Any) -> None:
        """Write no log."""


def _environment(folder: str, hub: int, token: str, sock: socket.socket) -> dict[str, str]:
    api = f"http://127.0.0.1:{hub}/hub/api"
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or CARRIED.fullmatch(name)}
    return kept | {
        "HOME": folder,
        "USER": "survey",
        "LOGNAME": "survey",
        "SHELL": "/bin/sh",
        "JUPYTERHUB_API_URL": api,
        "JUPYTERHUB_ACTIVITY_URL": f"{api}/users/survey/activity",
        "JUPYTERHUB_API_TOKEN": token,
        "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-survey",
        "JUPYTERHUB_OAUTH_CALLBACK_URL": f"{PREFIX}oauth_callback",
        "JUPYTERHUB_OAUTH_SCOPES": '["access:servers!user=survey"]',
        "JUPYTERHUB_USER": "survey",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{sock.getsockname()[1]}{PREFIX}",
        "JUPYTER_RUNTIME_DIR": f"{folder}/runtime",
        "AGENTFARM_LEASE_ID": "survey",
        "AGENTFARM_SOCKET_FD": str(sock.fileno()),
    }


def late_modules(recording: Recording, names: set[str], modules: list[str]) -> set[str]:
    """Return those of `modules` that have to be imported in each server, where `names` differ between servers."""
    differing = {*(name for name in names if not FIXED.fullmatch(name)), *ALWAYS, *IDENTITY, EVERYTHING}
    roots = {module for name in differing & set(recording.reads) for module in recording.reads[name]}
    return kept_apart(roots - set(MENDED), recording.imports, modules)


def _visit(url: str, token: str) -> None:
    for path in PATHS:
        request = urllib.request.Request(url + path, headers={"Authorization": f"token {token}"})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - our own server
                answer.read()
        except urllib.error.HTTPError:
            if path == "api":
                raise


def _import_for_kernels() -> list[str]:
    """Import what a server's kernels need, for the zygote that a server bears; return what the server has not."""
    before = set(sys.modules)
    for module in BASE:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    return sorted(set(sys.modules) - before)


def _report(recording: Recording, names: set[str], before: set[str]) -> Mapping[str, Any]:
    modules = [name for name in list(sys.modules) if name not in before]
    late = late_modules(recording, names, list(sys.modules))
    reads = {name: sorted(found) for name, found in sorted(recording.reads.items())}
    absent = [name for name in modules if sys.modules[name] is None]
    files = {str(file) for name in modules if (file := getattr(sys.modules[name], "__file__", None))}
    return {"modules": modules, "late": sorted(late), "absent": absent, "reads": reads, "files": sorted(files)}


def main() -> None:
    """Be a server until it has answered, and report."""
    leave_directory()
    report_fd, folder, names = int(sys.argv[1]), sys.argv[2], set(sys.argv[3:])
    token = _Hub.token = secrets.token_urlsafe(32)
    hub = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    sock = socket.create_server(("127.0.0.1", 0))
    environment = _environment(folder, hub.server_address[1], token, sock)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    before = set(sys.modules)
    recording = Recording(identity=True)

    def visit() -> None:
        code = 1
        try:
            _visit(f"http://127.0.0.1:{sock.getsockname()[1]}{PREFIX}", token)
            for_kernels = _import_for_kernels()
            with open(report_fd, "w", encoding="utf-8") as report:
                json.dump({**_report(recording, {*names, *environment}, before), "for_kernels": for_kernels}, report)
            code = 0
        finally:
            os._exit(code)

    threading.Thread(target=visit, daemon=True).start()
    sys.argv[1:] = ["--allow-root"]
    with recording:
        runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
