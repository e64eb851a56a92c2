"""A real noded in a process of its own, for tests of everything that talks to one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from waiting import eventually

from jupyterhub_agentfarm.noded.directories import root_for

SERVER_PROGRAM = """
import os, signal, socket, subprocess, sys, time
listener = socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"]))
print("serving", flush=True)
while True:
    peer, _ = listener.accept()
    peer.sendall(os.environ.get(peer.recv(100).decode().strip(), "-").encode())
    peer.close()
"""


class NodedError(Exception):
    """noded answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.reason, self.facts = error["reason"], error["facts"]
        super().__init__(error["message"])


class Client:
    """The protocol, spoken plainly over one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await self.reader.readline():
                message = json.loads(line)
                if "event" in message:
                    self.events.append(message)
                else:
                    self._answers.pop(message["id"]).set_result(message)
        for answer in self._answers.values():
            answer.set_exception(ConnectionError("noded ended the connection"))

    async def call(self, method: str, params: Mapping[str, Any] | None = None, timeout: float = 20) -> Any:
        """Return the result of a method, or raise :class:`NodedError`."""
        self._last_id += 1
        answer = self._answers[self._last_id] = asyncio.get_running_loop().create_future()
        self.writer.write(json.dumps({"id": self._last_id, "method": method, "params": params or {}}).encode() + b"\n")
        async with asyncio.timeout(timeout):
            message = await answer
        if "error" in message:
            raise NodedError(message["error"])
        return message["result"]

    @property
    def telemetry(self) -> list[dict[str, Any]]:
        """All telemetry events so far."""
        return [event["data"] for event in self.events if event["event"] == "telemetry"]

    @property
    def exits(self) -> list[dict[str, Any]]:
        """All `server_exited` events so far."""
        return [event["data"] for event in self.events if event["event"] == "server_exited"]

    async def close(self) -> None:
        """Close the connection."""
        self.writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, self.writer.wait_closed(), return_exceptions=True)


async def connect(socket: Path, *, hello: bool = True, subscribe: bool = True) -> Client:
    """Return a connection to a noded."""
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=2**23)
    client = Client(reader, writer)
    if hello:
        await client.call("hello", {"protocol": 1})
    if subscribe:
        await client.call("subscribe")
    return client


class NodedProcess:
    """A noded that a test started; it can be killed and started again with the same state directory."""

    def __init__(
        self, state_dir: Path, arguments: list[str], env: Mapping[str, str], prefix: tuple[str, ...] = ()
    ) -> None:
        self.state_dir, self._arguments, self._prefix = state_dir, arguments, prefix
        self._env = {**os.environ, **env}
        self.process: asyncio.subprocess.Process | None = None
        self.client: Client | None = None
        self.leases: set[str] = set()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.state_dir / "noded.sock"

    def server_dir(self, lease: str) -> str:
        """Return the private directory of a server."""
        return str(root_for(self.state_dir) / lease)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Events that came over the first connection."""
        assert self.client
        return self.client.events

    @property
    def log(self) -> str:
        """What it wrote."""
        return (self.state_dir / "test.log").read_text("utf-8")

    async def start(self) -> None:
        """Start it and connect."""
        command = [*self._prefix, sys.executable, "-m", "jupyterhub_agentfarm.noded", f"--state-dir={self.state_dir}"]
        with (self.state_dir / "test.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, *self._arguments, env=self._env, stdout=log, stderr=log, stdin=asyncio.subprocess.DEVNULL
            )
        self.client = await eventually(self._connected, f"noded listens on {self.socket}")

    async def _connected(self) -> Client | None:
        assert self.process
        assert self.process.returncode is None, f"noded ended:\n{self.log}"
        with contextlib.suppress(FileNotFoundError, ConnectionError):
            return await connect(self.socket)
        return None

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal noded, wait for its end and return its exit status."""
        assert self.process
        assert self.client
        await self.client.close()
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def call(self, method: str, params: Mapping[str, Any] | None = None, timeout: float = 20) -> Any:
        """Call a method over the first connection."""
        assert self.client
        if method == "launch" and params:
            self.leases.add(params["lease"])
        return await self.client.call(method, params, timeout)

    async def launch(
        self, lease: str, program: str = SERVER_PROGRAM, timeout: float = 20, **changes: Any
    ) -> dict[str, Any]:
        """Launch a Python program as a server and return its status."""
        spec = {
            "lease": lease,
            "epoch": 1,
            "command": [sys.executable, "-c", program],
            "environment": {},
            "gpus": [],
            "address": "127.0.0.1",
            "base_url": "/user/ada/",
        }
        result: dict[str, Any] = await self.call("launch", spec | changes, timeout)
        return result

    async def close(self) -> None:
        """Stop every server that was launched, and noded."""
        assert self.process
        if self.process.returncode is not None:
            await self.start()
        client = await connect(self.socket, subscribe=False)
        for status in (await client.call("servers"))["servers"]:
            await client.call("stop", {"lease": status["lease"], "grace_seconds": 0})
        await client.close()
        await self.end()


@contextlib.asynccontextmanager
async def running_noded(
    simulated_gpus: int = 0,
    env: Mapping[str, str] | None = None,
    arguments: list[str] | None = None,
    telemetry_interval: float = 0.1,
    prefix: tuple[str, ...] = (),
) -> AsyncIterator[NodedProcess]:
    """Run a noded with a state directory of its own; at the end it and all its servers are gone."""
    state_dir = Path(tempfile.mkdtemp(prefix="af"))
    options = [f"--simulated-gpus={simulated_gpus}", f"--telemetry-interval={telemetry_interval}", *(arguments or [])]
    noded = NodedProcess(state_dir, options, env or {}, prefix)
    try:
        await noded.start()
        yield noded
    finally:
        if noded.process:
            await noded.close()
        shutil.rmtree(state_dir)
