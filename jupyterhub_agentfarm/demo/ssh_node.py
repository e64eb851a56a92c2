"""An embedded SSH server that stands in for a node's sshd: for the demo and the tests, on machines without OpenSSH.

It speaks the real protocol, so the controller reaches it exactly as it reaches a real node. It is no sshd: it does
not change accounts, starts no shell and knows no subsystems. What it allows is what the controller needs:

- login with a key of `authorized_keys`, as the account it runs as;
- commands, split like a shell would but run without one, with a small environment of their own; what a client asks
  to set there is ignored. Children that make a session of their own outlive it, as they outlive sshd;
- connections to unix sockets below the state directory. TCP forwarding is refused.

``python -m jupyterhub_agentfarm.demo.ssh_node --dir DIR --listen 127.0.0.11:0 [--listen …]`` makes the host key in
``DIR`` where there is none, reads ``DIR/authorized_keys``, prints one JSON line
``{"addresses": [["127.0.0.11", 40123]], "host_key": "ssh-ed25519 AAAA…", "pid": 123}`` and serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pwd
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from jupyterhub_agentfarm.transport.ssh import account

#: How long a command's process group may take to end when its client is gone, in seconds.
GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class NodeFiles:
    """What an embedded node reads, and where its sockets are."""

    host_key: Path
    authorized_keys: Path
    #: Unix sockets below it can be reached; nothing else can.
    state_dir: Path


class _Server(asyncssh.SSHServer):
    """One connection: who may log in, and what may be reached."""

    def __init__(self, files: NodeFiles) -> None:
        self._files = files
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Keep the connection, for its keys."""
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        """Allow the keys for the one account there is; an account without keys cannot log in."""
        if username == account() and self._connection is not None:
            with suppress(OSError, ValueError):
                self._connection.set_authorized_keys(str(self._files.authorized_keys))
        return True

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Allow a socket below the state directory."""
        return Path(dest_path).resolve().is_relative_to(self._files.state_dir.resolve())


async def serve_node(host: str, port: int, files: NodeFiles) -> asyncssh.SSHAcceptor:
    """Serve one address; return the listener.

    Parameters
    ----------
    host, port
        Address to listen on; port 0 takes any free one (see `get_port` of the result).
    files
        Host key, authorized keys and state directory.
    """
    return await asyncssh.listen(
        host,
        port,
        server_factory=lambda: _Server(files),
        server_host_keys=[str(files.host_key)],
        config=None,
        process_factory=_run,
        encoding=None,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        agent_forwarding=False,
        x11_forwarding=False,
        allow_pty=False,
        line_editor=False,
        login_timeout=10,
    )


def _environment() -> dict[str, str]:
    """Return what sshd would give: nothing of this process's own variables but the way to programs."""
    home = str(Path.home())
    with suppress(KeyError):
        home = os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    return {"HOME": home, "USER": account(), "LOGNAME": account(), "SHELL": "/bin/sh", **kept}


async def _run(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run one command of a client to its end."""
    try:
        argv = shlex.split(process.command or "")
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
            cwd=_environment()["HOME"],
            start_new_session=True,
        )
    except (OSError, ValueError, TypeError) as exc:
        process.stderr.write(f"{process.command or 'a shell'}: {exc}\n".encode())
        process.exit(127)
        return
    work = asyncio.create_task(_converse(process, child))
    gone = asyncio.create_task(process.channel.wait_closed())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        work.cancel()
        gone.cancel()
        await _end(child)
        await asyncio.wait({work, gone})


async def _converse(process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process) -> None:
    """Carry everything between the client and the command, then the command's status."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    feed = asyncio.create_task(_carry(process.stdin, child.stdin))
    try:
        await asyncio.gather(_carry(child.stdout, process.stdout), _carry(child.stderr, process.stderr))
        status = await child.wait()
        process.exit(status if status >= 0 else 128 - status)
    finally:
        feed.cancel()
        await asyncio.wait({feed})


async def _carry(source: Any, sink: Any) -> None:
    """Carry bytes until the source ends or the sink is gone."""
    with suppress(OSError, asyncssh.Error):
        while data := await source.read(2**16):
            sink.write(data)
            await sink.drain()
    with suppress(OSError, asyncssh.Error):
        sink.write_eof()


async def _end(child: asyncio.subprocess.Process) -> None:
    """See to it that a command does not outlive its client."""
    if child.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(GRACE_SECONDS):
            await child.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def prepare(directory: Path, state_dir: Path | None = None) -> NodeFiles:
    """Return the files of an embedded node in `directory`, making the directory and the host key where missing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_path = directory / "ssh_host_ed25519_key"
    if not key_path.exists():
        key = asyncssh.generate_private_key("ssh-ed25519")
        with os.fdopen(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.export_private_key("openssh"))
    return NodeFiles(key_path, directory / "authorized_keys", state_dir or directory)


def host_key_line(files: NodeFiles) -> str:
    """Return the public host key as a line for `NodeSpec.host_key`."""
    key = asyncssh.read_private_key(str(files.host_key))
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


async def _serve(addresses: Sequence[str], files: NodeFiles) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    bound, acceptors = [], []
    for address in addresses:
        host, _, port = address.rpartition(":")
        acceptor = await serve_node(host, int(port), files)
        acceptors.append(acceptor)
        bound.append([host, acceptor.get_port()])
    sys.stdout.write(json.dumps({"addresses": bound, "host_key": host_key_line(files), "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    for acceptor in acceptors:
        acceptor.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m jupyterhub_agentfarm.demo.ssh_node", description=__doc__)
    parser.add_argument("--listen", action="append", required=True, metavar="HOST:PORT", help="address; port 0: any")
    parser.add_argument("--dir", type=Path, required=True, help="host key and authorized_keys are here")
    parser.add_argument("--state-dir", type=Path, help="sockets below it can be reached; default: --dir")
    arguments = parser.parse_args(argv)
    try:
        asyncio.run(_serve(arguments.listen, prepare(arguments.dir, arguments.state_dir)))
    except (OSError, ValueError) as exc:
        parser.exit(1, f"cannot serve {', '.join(arguments.listen)}: {exc}\n")


if __name__ == "__main__":
    main()
