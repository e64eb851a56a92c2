"""A small stand-in for noded: it speaks the protocol on a unix socket and starts nothing.

It takes the same command line as noded, so that a script that runs it can be a node's `python`. Leases with certain
names have one defect each: a launch of "dies" is reported as exited at once, "fails" cannot be started, the logs of
"mute" are never answered, those of "long" are 3 MiB.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FACTS = {
    "protocol": 1,
    "version": "0",
    "hostname": "stand-in",
    "boot_id": "b",
    "os": "Linux",
    "arch": "x86_64",
    "python": "3",
    "time": 0.0,
    "pid": os.getpid(),
}


def telemetry() -> dict[str, Any]:
    """Return a report of an idle node."""
    return {
        "time": time.time(),
        "cpus": 2,
        "cpu_utilization_ratio": 0.1,
        "load1": 0.1,
        "load5": 0.1,
        "load15": 0.1,
        "memory_total_bytes": 2**30,
        "memory_available_bytes": 2**29,
        "boot_at": 1.0,
        "uptime_seconds": 10.0,
    }


def status(params: dict[str, Any]) -> dict[str, Any]:
    """Return the status of a server that runs."""
    return {
        "lease": params["lease"],
        "epoch": params["epoch"],
        "state": "running",
        "boot_id": "b",
        "pid": 1,
        "pid_start_ticks": 1,
        "address": params["address"],
        "port": 1,
        "gpus": params["gpus"],
        "started_at": time.time(),
    }


class Refused(Exception):
    """An answer with an error: reason, message, facts."""


class StandIn:
    """The servers, and the connections that listen to events."""

    def __init__(self) -> None:
        self.running: dict[str, dict[str, Any]] = {}
        self.listeners: set[asyncio.StreamWriter] = set()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it ends."""
        try:
            while line := await reader.readline():
                await self.answer(json.loads(line), writer)
        except (OSError, ValueError):
            pass
        finally:
            self.listeners.discard(writer)
            writer.close()

    async def answer(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """Answer one request, or keep silent."""
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            result = getattr(self, request["method"])(request["params"], writer)
            if result is None:
                return
            answer["result"] = result
        except Refused as exc:
            reason, message, facts = exc.args
            answer["error"] = {"reason": reason, "message": message, "facts": facts}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()

    def hello(self, params: dict[str, Any], writer: object) -> dict[str, Any]:
        """Say what the node is."""
        return FACTS | {"time": time.time()}

    def subscribe(self, params: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        """Send events from now on; the first comes before the answer."""
        self.listeners.add(writer)
        self.event("telemetry", telemetry())
        return {"telemetry_interval_seconds": 0.05}

    def telemetry(self, params: dict[str, Any], writer: object) -> dict[str, Any]:
        """Report now."""
        return telemetry()

    def launch(self, params: dict[str, Any], writer: object) -> dict[str, Any]:
        """Take the GPUs."""
        for server in self.running.values():
            if set(server["gpus"]) & set(params["gpus"]) and server["lease"] != params["lease"]:
                raise Refused("gpu_busy", "GPU-1 is held", {"gpu": "GPU-1", "lease": server["lease"]})
        if params["lease"] == "fails":
            raise Refused("launch_failed", "no such program", {"log_tail": "boom"})
        server = self.running[params["lease"]] = status(params)
        if params["lease"] == "dies":
            ended = {"state": "exited", "exit": {"cause": "oom", "at": time.time()}}
            self.event("server_exited", server | ended)
        return server

    def stop(self, params: dict[str, Any], writer: object) -> dict[str, Any]:
        """Forget the server."""
        self.running.pop(params["lease"], None)
        return {"gone": True, "gpus_free": True}

    def servers(self, params: dict[str, Any], writer: object) -> dict[str, Any]:
        """List the servers."""
        return {"servers": list(self.running.values())}

    def logs(self, params: dict[str, Any], writer: object) -> dict[str, Any] | None:
        """Return the log."""
        if params["lease"] == "mute":
            return None
        if params["lease"] == "unknown":
            raise Refused("not_found", "no such server", {})
        return {"text": "x" * 3 * 2**20 if params["lease"] == "long" else f"log of {params['lease']}"}

    def forget(self, params: dict[str, Any], writer: object) -> dict[str, Any]:
        """Forget the server."""
        self.running.pop(params["lease"], None)
        return {}

    def notify(self, params: dict[str, Any], writer: object) -> dict[str, Any]:
        """Keep the notice with the server."""
        self.running[params["lease"]]["notice"] = params["notice"]
        return {}

    def orphans(self, params: dict[str, Any], writer: object) -> dict[str, Any]:
        """List no process: it starts none."""
        return {"orphans": []}

    def event(self, name: str, data: dict[str, Any]) -> None:
        """Send an event to whoever subscribed."""
        for writer in self.listeners:
            writer.write(json.dumps({"event": name, "data": data}).encode() + b"\n")


async def serve(path: str) -> None:
    """Serve the socket, and report every 50 ms."""
    stand_in = StandIn()
    async with await asyncio.start_unix_server(stand_in.connection, path, limit=2**23):
        while True:
            await asyncio.sleep(0.05)
            stand_in.event("telemetry", telemetry())


def greet(path: str) -> int:
    """Return the process id of whoever answers at `path`; 0 when nobody does."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(b'{"id":1,"method":"hello","params":{"protocol":1}}\n')
            return int(json.loads(connection.makefile().readline())["result"]["pid"])
        except (OSError, ValueError):
            return 0


def ensure(path: str) -> int:
    """Start the stand-in when nobody answers; return its process id."""
    if pid := greet(path):
        return pid
    Path(path).unlink(missing_ok=True)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen([sys.executable, __file__, "--serve", path], start_new_session=True, **quiet)
    deadline = time.monotonic() + 10
    while not (pid := greet(path)):
        if time.monotonic() > deadline:
            raise SystemExit("the stand-in did not start")
        time.sleep(0.01)
    return pid


def main() -> None:
    """Be noded's command line: `-m jupyterhub_agentfarm.noded --ensure --state-dir=…`."""
    if sys.argv[1] == "--serve":
        asyncio.run(serve(sys.argv[2]))
    if "jupyterhub_agentfarm.server.kernels" in sys.argv:
        sys.stdout.write(json.dumps([{"name": "python3", "language": "python", "display_name": "Python 3"}]) + "\n")
        return
    state_dir = next(a for a in sys.argv if a.startswith("--state-dir=")).partition("=")[2]
    path = f"{state_dir}/noded.sock"
    sys.stdout.write("words of a login shell\n" + json.dumps({"socket": path, "pid": ensure(path)}) + "\n")


if __name__ == "__main__":
    main()
