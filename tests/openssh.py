"""OpenSSH's sshd as this user on 127.0.0.1, with a host key of its own: a node's real sshd without root."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ports import free_ports
from ssh_node import COLD, SSHNode, make_client_key, noded_pid, stand_in_python
from waiting import eventually

from jupyterhub_agentfarm.models import NodeSpec

SSHD = Path("/usr/sbin/sshd")

CONFIG = """\
{options}
Port {port}
ListenAddress {host}
HostKey {directory}/ssh_host_ed25519_key
AuthorizedKeysFile {directory}/authorized_keys
PidFile {directory}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
"""


def why_no_sshd() -> str:
    """Return why sshd cannot be started here; "" when it can."""
    if not SSHD.exists():
        return "OpenSSH's sshd is not installed"
    if os.getuid() == 0 and not Path("/run/sshd").is_dir():
        with suppress(OSError):
            Path("/run/sshd").mkdir(mode=0o755)  # Root's sshd insists on its privilege separation directory.
        return "" if Path("/run/sshd").is_dir() else "/run/sshd cannot be made"
    return ""


def make_host_key(directory: Path) -> str:
    """Make sshd's host key as ssh-keygen does; return the public line."""
    path = directory / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


class OpenSSHNode(SSHNode):
    """A node whose SSH server is OpenSSH's."""

    #: Lines of sshd_config that go before the others, so that they count.
    options = ""

    async def start(self) -> None:
        """Start sshd; the second time on the port of the first."""
        sshd = self.directory / "sshd"
        if self.spec.host_key is None:
            self.spec = replace(self.spec, host_key=make_host_key(sshd), port=free_ports(1, self.spec.host)[0])
        config = CONFIG.format(port=self.spec.port, host=self.spec.host, directory=sshd, options=self.options)
        (sshd / "sshd_config").write_text(config)
        with (sshd / "sshd.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                str(SSHD), "-D", "-e", "-f", str(sshd / "sshd_config"), stderr=log
            )
        await eventually(self._listens, "sshd listens")

    @property
    def log(self) -> str:
        """What sshd wrote so far."""
        return (self.directory / "sshd" / "sshd.log").read_text()

    async def restart(self, options: str) -> None:
        """Stop sshd and start it with other options."""
        await self.stop()
        self.options = options
        await self.start()

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((self.spec.host, self.spec.port), 1):
            return True
        return False

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """End sshd and the connections it serves, as a stopped service does."""
        if self.process is None:
            return
        for pid in children(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        await super().stop(number)


def children(pid: int) -> list[int]:
    """Return the process ids of the children of `pid`."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@asynccontextmanager
async def openssh_node(
    name: str = "n1", python: str | None = None, options: str = "", simulated_gpus: int = 0
) -> AsyncIterator[OpenSSHNode]:
    """Serve a node with OpenSSH's sshd on 127.0.0.1 as the account of the tests.

    Parameters
    ----------
    name
        Of the node.
    python
        What the controller starts noded with; None: the stand-in.
    options
        Lines of sshd_config that go before the others, so that they count.
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
        host="127.0.0.1",
        user=pwd.getpwuid(os.getuid()).pw_name,
        ssh_keyfile=str(keyfile),
        python=python or stand_in_python(directory),
        state_dir=str(directory / "s"),
        simulated_gpus=simulated_gpus,
        noded_args=COLD,
    )
    node = OpenSSHNode(directory, spec)
    node.options = options
    try:
        await node.start()
        yield node
    finally:
        await node.stop()
        if pid := noded_pid(node.state_dir):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)
