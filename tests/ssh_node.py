"""A node without root and without sshd: the embedded SSH server as a process, with noded or its stand-in behind it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import asyncssh
from ports import free_ports

from jupyterhub_agentfarm.models import NodeSpec

#: Making a node warm takes longer than most tests: those that are not about it leave it out.
COLD = ("--NodedApp.warm_servers=False",)
STAND_IN = Path(__file__).with_name("noded_stand_in.py")


def noded_pid(state_dir: str) -> int:
    """Return the process id of the noded (or stand-in) that serves `state_dir`; 0 when there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(5)
            connection.connect(f"{state_dir}/noded.sock")
            connection.sendall(b'{"id":1,"method":"hello","params":{"protocol":1}}\n')
            return int(json.loads(connection.makefile().readline())["result"]["pid"])
        except (OSError, ValueError):
            return 0


def make_client_key(directory: Path) -> tuple[Path, str]:
    """Write a new private key into `directory`; return its path and the public line."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = directory / "id_ed25519"
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key("openssh"))
    return path, key.export_public_key("openssh").decode()


def stand_in_python(directory: Path) -> str:
    """Return a program that can be a node's `python`: whatever it is asked to run, it runs the stand-in."""
    path = directory / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    path.chmod(0o755)
    return str(path)


class SSHNode:
    """The embedded SSH server of one node; made by :func:`ssh_node`."""

    def __init__(self, directory: Path, spec: NodeSpec) -> None:
        self.directory = directory
        self.spec = spec
        self.process: asyncio.subprocess.Process | None = None

    @property
    def state_dir(self) -> str:
        """Where noded's socket is."""
        assert self.spec.state_dir is not None
        return self.spec.state_dir

    async def start(self) -> None:
        """Start the SSH server; the second time on the port of the first."""
        port = self.spec.port if self.spec.host_key else free_ports(1, self.spec.host)[0]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "jupyterhub_agentfarm.demo.ssh_node",
            f"--listen={self.spec.host}:{port}",
            f"--dir={self.directory / 'sshd'}",
            f"--state-dir={self.state_dir}",
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            printed = json.loads(await self.process.stdout.readline())
        (_host, bound) = printed["addresses"][0]
        self.spec = replace(self.spec, port=bound, host_key=printed["host_key"])

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End the SSH server; noded and servers stay."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        async with asyncio.timeout(10):
            await self.process.communicate()
        self.process = None

    def freeze(self) -> None:
        """Let the SSH server answer nothing, as a hanging machine does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End the freeze."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill_noded(self) -> int:
        """Kill the node's noded; return what its process id was."""
        pid = noded_pid(self.state_dir)
        assert pid, "no noded is running"
        os.kill(pid, signal.SIGKILL)
        return pid


@asynccontextmanager
async def ssh_node(
    name: str = "n1", host: str = "127.0.0.11", python: str | None = None, simulated_gpus: int = 0
) -> AsyncIterator[SSHNode]:
    """Serve a node; its directory is short, because a unix socket's path must be.

    Parameters
    ----------
    name, host
        Of the node.
    python
        What the controller starts noded with; None: the stand-in.
    simulated_gpus
        Passed to noded.
    """
    directory = Path(tempfile.mkdtemp(prefix="af"))
    keyfile, public = make_client_key(directory)
    (directory / "sshd").mkdir(mode=0o700)
    (directory / "sshd" / "authorized_keys").write_text(public)
    (directory / "s").mkdir(mode=0o700)
    spec = NodeSpec(
        name=name,
        host=host,
        ssh_keyfile=str(keyfile),
        python=python or stand_in_python(directory),
        state_dir=str(directory / "s"),
        simulated_gpus=simulated_gpus,
        noded_args=COLD,
    )
    node = SSHNode(directory, spec)
    try:
        await node.start()
        yield node
    finally:
        await node.stop()
        if pid := noded_pid(node.state_dir):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)
