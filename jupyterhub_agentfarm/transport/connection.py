"""One open SSH connection to a node: commands and noded's socket, at most so many channels at once.

sshd allows ten sessions on a connection (`MaxSessions`) and refuses the rest, so commands wait for a slot here
instead of failing there. noded's channel is not counted: there is one, and it stays.
"""

from __future__ import annotations

import asyncio
import ipaddress
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncssh

from jupyterhub_agentfarm.errors import NodeUnreachable, RemoteCommandFailed, TransportError

#: What a command may write to each of stdout and stderr, in bytes.
MAX_OUTPUT_BYTES = 2**20
#: How long a closing connection may take for its goodbye, in seconds.
CLOSE_SECONDS = 2.0


@dataclass(frozen=True)
class CompletedCommand:
    """A command on a node that ended with status 0."""

    argv: tuple[str, ...]
    stdout: str
    stderr: str


class NodeConnection:
    """An open SSH connection; made by :class:`~.ssh.SSHPool`, whose it is.

    Parameters
    ----------
    node
        Name of the node, for errors.
    ssh
        The connection, logged in.
    max_sessions
        Commands that may run at once; further ones wait.
    """

    def __init__(self, node: str, ssh: asyncssh.SSHClientConnection, max_sessions: int) -> None:
        self.node = node
        self._ssh = ssh
        self._slots = asyncio.Semaphore(max_sessions)

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more."""
        return self._ssh.is_closed()

    @property
    def peer_address(self) -> str | None:
        """IP address of the node as seen from here; None behind a jump host or a proxy command."""
        peer = self._ssh.get_extra_info("peername")
        with suppress(ValueError, TypeError, IndexError):
            return str(ipaddress.ip_address(peer[0]))
        return None

    async def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> CompletedCommand:
        """Run a command on the node and return what it wrote.

        Parameters
        ----------
        argv
            Program and arguments; quoted for the account's shell here.
        timeout_seconds
            Until it is given up, the wait for a slot included.
        stdin
            What is written to its stdin, which is closed then.

        Raises
        ------
        RemoteCommandFailed
            It ended with a status other than 0, or by a signal.
        TransportError
            It did not end in time, or wrote too much.
        NodeUnreachable
            The connection was lost.
        """
        command = shlex.join(argv)
        try:
            async with asyncio.timeout(timeout_seconds), self._slots:
                return await self._run(tuple(argv), command, stdin)
        except TimeoutError as exc:
            raise TransportError(self.node, f"`{command}` did not end within {timeout_seconds:g} s") from exc
        except asyncssh.ChannelOpenError as exc:
            raise TransportError(self.node, f"sshd opened no session for `{command}`: {exc.reason}") from exc
        except (OSError, asyncssh.Error) as exc:
            raise NodeUnreachable(self.node, f"the connection was lost during `{command}`: {exc}") from exc

    async def _run(self, argv: tuple[str, ...], command: str, data: bytes | None) -> CompletedCommand:
        process: asyncssh.SSHClientProcess[bytes] = await self._ssh.create_process(command, encoding=None)
        try:
            if data is not None:
                process.stdin.write(data)
            process.stdin.write_eof()
            stdout, stderr = await asyncio.gather(
                self._read(process.stdout, command), self._read(process.stderr, command)
            )
            await process.wait_closed()
        finally:
            process.close()
        if process.exit_status != 0:
            raise RemoteCommandFailed(self.node, command, process.exit_status, stderr)
        return CompletedCommand(argv, stdout, stderr)

    async def _read(self, stream: asyncssh.SSHReader[bytes], command: str) -> str:
        data = bytearray()
        while chunk := await stream.read(2**16):
            data += chunk
            if len(data) > MAX_OUTPUT_BYTES:
                raise TransportError(self.node, f"`{command}` wrote more than {MAX_OUTPUT_BYTES} bytes")
        return data.decode(errors="replace")

    async def open_unix(self, path: str, timeout_seconds: float) -> tuple[Any, Any]:
        """Return reader and writer of a connection to the unix socket `path` on the node.

        Raises
        ------
        TransportError
            sshd did not open it.
        NodeUnreachable
            The connection was lost, or there was no answer within `timeout_seconds`.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._ssh.open_unix_connection(path)
        except TimeoutError as exc:
            raise NodeUnreachable(self.node, f"no answer to opening {path} within {timeout_seconds:g} s") from exc
        except asyncssh.ChannelOpenError as exc:
            raise TransportError(
                self.node,
                f"sshd did not open noded's socket {path} ({exc.reason}): "
                "set `AllowStreamLocalForwarding yes` and `AllowTcpForwarding local`, and no `PermitOpen`, for this "
                "account in the node's sshd_config",
            ) from exc
        except (OSError, asyncssh.Error) as exc:
            raise NodeUnreachable(self.node, f"the connection was lost: {exc}") from exc

    def abort(self) -> None:
        """Close without a goodbye, at once."""
        self._ssh.abort()

    async def aclose(self) -> None:
        """Close; may be called again."""
        self._ssh.close()
        with suppress(TimeoutError, OSError, asyncssh.Error):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._ssh.wait_closed()
        self._ssh.abort()
