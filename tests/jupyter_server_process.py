"""A real Jupyter server as a process, and a client that speaks the API of runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from waiting import eventually

TOKEN = "a-token-of-the-tests"
_QUIET = ("jupyterlab", "jupyter_lsp", "jupyter_server_terminals", "notebook_shim")


class Server:
    """A Jupyter server as a process of its own."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.runs_directory = folder / "runs"
        self.config = {"RunBook": {"directory": str(self.runs_directory), **config}}
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, **environment: str) -> None:
        """Start the process."""
        self.root.mkdir(parents=True, exist_ok=True)
        quiet = {"jpserver_extensions": dict.fromkeys(_QUIET, False)}
        extensions = {"ServerApp": quiet | self.config.get("ServerApp", {})}
        (self.folder / "jupyter_server_config.json").write_text(json.dumps(self.config | extensions))
        folders = {f"JUPYTER_{kind}_DIR": str(self.folder) for kind in ("CONFIG", "DATA")}
        folders["JUPYTER_RUNTIME_DIR"] = str(self.folder / "runtime")
        env = {
            **os.environ,
            **folders,
            "JUPYTER_TOKEN": TOKEN,
            "IPYTHONDIR": str(self.folder / "ipython"),
            **environment,
        }
        command = [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser", "--port=0", "--ip=127.0.0.1"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, f"--ServerApp.root_dir={self.root}"], env=env, stdout=log, stderr=log
            )

    async def ready(self) -> None:
        """Wait until the server answers."""
        assert self.process is not None
        info = self.folder / "runtime" / f"jpserver-{self.process.pid}.json"
        await eventually(info.exists, f"the server announces itself: {self.log()[-2000:]}", timeout=30)
        self.url = await eventually(lambda: _url(info), "the server's address is written")

        async def answers() -> bool:
            try:
                return (await self.request("GET", "")).status_code == 200
            except httpx.HTTPError:
                return False

        await eventually(answers, "the server answers", timeout=30)

    def log(self) -> str:
        """Return what the server has logged."""
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        """End the process."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def client(self) -> httpx.AsyncClient:
        """Return an authenticated client."""
        return httpx.AsyncClient(headers={"Authorization": f"token {TOKEN}"}, timeout=30)

    def runs_url(self, path: str = "") -> str:
        """Return the address of the API of runs, or of something below it."""
        return f"{self.url}agentfarm/api/v1/runs" + (f"/{path}" if path else "")

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make one request below the API of runs."""
        async with self.client() as client:
            return await client.request(method, self.runs_url(path), **options)

    async def submit(self, *cells: str, **fields: Any) -> dict[str, Any]:
        """Submit a notebook of code cells and return the run."""
        answer = await self.request("POST", "", json={"notebook": notebook(*cells), **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def run(self, run_id: str) -> dict[str, Any]:
        """Return the run."""
        return (await self.request("GET", run_id)).json()

    async def ended(self, run_id: str, timeout: float = 30) -> dict[str, Any]:
        """Wait until the run has ended and return it."""
        return await self.until(run_id, lambda run: run["ended_at"] is not None, "it has ended", timeout)

    async def until(
        self, run_id: str, condition: Callable[[dict[str, Any]], bool], message: str, timeout: float = 30
    ) -> dict[str, Any]:
        """Wait until `condition` is true of the run and return it."""
        seen: dict[str, Any] = {}

        async def fulfilled() -> bool:
            seen.update(await self.run(run_id))
            return condition(seen)

        await eventually(fulfilled, f"run {run_id}: {message}; {seen}", timeout=timeout, interval=0.05)
        return seen

    async def execute(self, *cells: str, **fields: Any) -> dict[str, Any]:
        """Submit a notebook and return its run when it has ended."""
        return await self.ended((await self.submit(*cells, **fields))["id"])

    async def notebook(self, run_id: str) -> dict[str, Any]:
        """Return the notebook as executed so far."""
        return (await self.request("GET", f"{run_id}/notebook")).json()


def notebook(*cells: str | dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a notebook of code cells; a cell is its source, or a dict of what differs."""
    blank = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    made = [{**blank, **({"source": cell} if isinstance(cell, str) else cell)} for cell in cells]
    return {"nbformat": 4, "nbformat_minor": 4, "metadata": metadata, "cells": made}


def _url(info: Path) -> str:
    try:
        return str(json.loads(info.read_text())["url"])
    except ValueError:
        return ""
