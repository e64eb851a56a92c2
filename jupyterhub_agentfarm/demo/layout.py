"""The demo's directory: what lies where, and what is made in it before anything starts.

::

    DIR/.agentfarm-demo   marks it as a demo's: only such a directory, or an empty one, is ever used
    DIR/demo.lock         held while the demo runs
    DIR/cache/            the installed HTTP proxy
    DIR/home/             home of the nodes' account: the servers' notebooks
    DIR/logs/             hub.log (with the services and the proxy), nodes.log, and what nodes and servers wrote
    DIR/report.html       the latest report
    DIR/state/            everything else; removed at the start: a demo begins with an empty farm
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, ConflictError
from ..models import NodeSpec, Role
from ..records import to_json
from ..services.local import write_private

_MARK = ".agentfarm-demo"
#: Paths of unix sockets may have 107 bytes; noded's is the longest below the nodes' directory.
_MAX_NODES_PATH = 70


@dataclass(frozen=True)
class DemoNode:
    """A node of the demo."""

    name: str
    address: str
    role: Role
    simulated_gpus: int


NODES = (
    DemoNode("micro-1", "127.0.0.11", "microserver", 1),
    DemoNode("micro-2", "127.0.0.12", "microserver", 1),
    DemoNode("gpu-1", "127.0.0.13", "gpuserver", 2),
)
#: With the GPUs that this machine has. One node: two would each lease all of them.
REAL_NODES = (DemoNode("gpu-1", "127.0.0.13", "gpuserver", 0),)
#: Nodes that are one machine would each import what servers need, all at once, beside what is measured.
_SHARING = ("--NodedApp.warm_servers=False",)


class Layout:
    """The demo's directory.

    Parameters
    ----------
    root
        The directory; made when it does not exist.
    demo_nodes
        The nodes of the farm.
    """

    def __init__(self, root: Path, demo_nodes: Sequence[DemoNode] = NODES) -> None:
        self.demo_nodes = tuple(demo_nodes)
        self.root = root.resolve()
        self.cache = self.root / "cache"
        self.home = self.root / "home"
        self.logs = self.root / "logs"
        self.report = self.root / "report.html"
        self.agent_token = self.root / "agent.token"
        self.state = self.root / "state"
        self.runtime = self.state / "runtime"
        self.data = self.state / "data"
        self.ssh = self.state / "ssh"
        self.key = self.ssh / "id_ed25519"
        self.nodes_file = self.state / "nodes.json"
        self.nodes = self.state / "nodes"
        self._lock: int | None = None

    def claim(self) -> None:
        """Take the directory for this process.

        Raises
        ------
        ConfigError
            Something else is in it, or it cannot be made.
        ConflictError
            Another demo runs in it.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.root / _MARK).exists() and any(self.root.iterdir()):
                raise ConfigError(
                    f"{self.root} holds something else: name an empty directory, or a new one, with --dir"
                )
            (self.root / _MARK).touch()
            self._lock = os.open(self.root / "demo.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigError(
                f"{self.root} cannot be used ({exc.strerror}): name another directory with --dir"
            ) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConflictError(
                f"a demo runs in {self.root} already: stop it, or name another directory with --dir"
            ) from exc

    def release(self) -> None:
        """Give the directory up; a second call does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def renew(self) -> None:
        """Remove what an earlier demo left, and make the directories."""
        self.remove_state()
        shutil.rmtree(self.logs, ignore_errors=True)
        self.report.unlink(missing_ok=True)
        self.agent_token.unlink(missing_ok=True)
        for folder in (self.cache, self.home, self.logs, self.state, self.data, self.ssh):
            folder.mkdir(mode=0o700, exist_ok=True)
        if len(os.fsencode(self.nodes)) <= _MAX_NODES_PATH:
            self.nodes.mkdir(mode=0o700)
        else:  # too long for unix sockets: a short directory elsewhere, with a link to it
            self.nodes.symlink_to(tempfile.mkdtemp(prefix="agentfarm-demo-"))

    def keep_logs(self) -> None:
        """Keep the logs of the nodes' daemons and servers beside the others, and remove the state."""
        for log in sorted(self.nodes.resolve().rglob("*.log")):
            if log.stat().st_size:
                shutil.copyfile(log, self.logs / "-".join(log.relative_to(self.nodes.resolve()).parts))
        self.remove_state()

    def remove_state(self) -> None:
        """Remove everything but home, cache, logs and report."""
        self.agent_token.unlink(missing_ok=True)  # it is good for nothing any more
        if self.nodes.is_symlink():
            shutil.rmtree(self.nodes.resolve(), ignore_errors=True)
        shutil.rmtree(self.state, ignore_errors=True)

    def make_keys(self) -> None:
        """Make the key that the controller logs in with, and allow it on the nodes."""
        import asyncssh

        key = asyncssh.generate_private_key("ssh-ed25519")
        write_private(self.key, key.export_private_key("openssh").decode())
        write_private(self.ssh / "authorized_keys", key.export_public_key("openssh").decode())

    def write_nodes(self, ports: dict[str, int], host_key: str, python: str) -> None:
        """Write the file that $AGENTFARM_NODES names."""
        specs = [
            NodeSpec(
                name=node.name,
                host=node.address,
                port=ports[node.address],
                role=node.role,
                host_key=host_key,
                ssh_keyfile=str(self.key),
                python=python,
                state_dir=str(self.nodes.resolve() / node.name),
                simulated_gpus=node.simulated_gpus,
                noded_args=_SHARING if len(self.demo_nodes) > 1 else (),
            )
            for node in self.demo_nodes
        ]
        write_private(self.nodes_file, json.dumps(to_json(specs), indent=2))


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log; none when there is no log."""
    try:
        return path.read_text(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
