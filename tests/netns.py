"""Nodes as network namespaces: own address, host name, process table, host key and sshd on one machine.

Needs root (or root in a user namespace), iproute2, util-linux and OpenSSH's sshd. The bridge is 10.213.X.1, the nodes
10.213.X.11 and up. A node is one `unshare --kill-child`: killing that process ends everything on the node, as pulling
its plug would.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jupyterhub_agentfarm.models import NodeSpec, Role

SSHD = "/usr/sbin/sshd"


def why_not() -> str | None:
    """Return why namespaces cannot be had here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root; `make test-long` runs these tests last, as root of a user namespace"
    for program in ("ip", "nsenter", "unshare", SSHD):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install iproute2 util-linux openssh-server)"
    name = f"afprobe{secrets.token_hex(2)}"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"`ip netns add` is refused here: {probe.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return None


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)


def _own_tmp(checkout: Path) -> str:
    """Return the commands that give a node a /tmp of its own; a checkout below the machine's stays where it is."""
    mount = "mount -t tmpfs -o mode=1777 tmpfs /tmp"
    if Path("/tmp") not in checkout.parents:
        return mount
    kept = shlex.quote(str(checkout))
    return (
        f"mkdir /run/kept; mount --bind {kept} /run/kept; {mount}; mkdir -p {kept}; mount --bind /run/kept {kept}; "
        "umount /run/kept"
    )


@dataclass
class NetnsNode:
    """One node."""

    name: str
    address: str
    namespace: str
    link: str
    directory: Path
    role: Role = "microserver"
    simulated_gpus: int = 1
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    bridge: str = ""
    #: A node of its own also in /tmp, account, home and boot id, whose sshd can end without it; see `netns_farm`.
    separate: bool = False
    #: Variables of whatever is started with the node's Python, for noded; separate nodes only.
    noded_environment: dict[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> NodeSpec:
        """How an inventory declares the node, its host key pinned."""
        kind, key = (self.directory / "host_key.pub").read_text().split()[:2]
        return NodeSpec(
            name=self.name,
            host=self.address,
            user="root",
            role=self.role,
            host_key=f"{kind} {key}",
            ssh_keyfile=str(self.directory.parent / "id"),
            python=str(self.directory / "python") if self.separate else sys.executable,
            server_python=str(self.directory / "server-python") if self.separate else None,
            state_dir=str(self.directory / "state"),
            simulated_gpus=self.simulated_gpus,
        )

    def start(self) -> None:
        """Boot: sshd in fresh pid, mount and host-name namespaces."""
        script = (
            'set -e; hostname "$1"; mount -t tmpfs -o mode=755 tmpfs /run; mkdir -p /run/sshd; '
            # sshd takes an account whose shadow entry it cannot read for a locked one.
            'mount --bind "$4" /etc/shadow; '
        )
        script += self._separation() if self.separate else 'exec "$2" -D -e -f "$3"'
        with (self.directory / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self.namespace}"),
                    *("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("--propagation", "private"),
                    *("sh", "-c", script, "sh", self.name, SSHD, str(self.directory / "sshd_config")),
                    str(self.directory / "shadow"),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _separation(self) -> str:
        """Return the rest of the boot of a node that is separate: its init is no sshd."""
        (self.directory / "boot_id").write_text(f"{uuid.uuid4()}\n")
        self.write_pythons()
        return (
            f"{_own_tmp(Path(__file__).parent.parent)}; cd {self.directory}; "
            "mount --bind passwd /etc/passwd; mount --bind boot_id /proc/sys/kernel/random/boot_id; cd /; "
            f'exec {sys.executable} -I -S {Path(__file__).parent / "node_init.py"} "$2" -D -e -f "$3"'
        )

    def write_pythons(self) -> None:
        """Write the programs that noded and servers start from: this Python, which is thus the node's own to lose."""
        variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.noded_environment.items())
        outer = f"export PYTHONPATH={shlex.quote(os.environ['PYTHONPATH'])}\n" if "PYTHONPATH" in os.environ else ""
        for name, exported in (("python", variables), ("server-python", outer)):
            path = self.directory / name
            path.write_text(f'#!/bin/sh\n{exported}exec {sys.executable} "$@"\n')
            path.chmod(0o755)

    @property
    def init(self) -> int:
        """The node's first process, as this machine counts.

        Raises
        ------
        OSError
            There is none: the node is off, or somebody is just pressing its button.
        """
        process = self.process
        if process is None:
            raise ProcessLookupError(f"{self.name} is off")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if not children:
            raise ProcessLookupError(f"{self.name} has no first process yet, or no longer")
        return int(children[0])

    def inside(self, *argv: str) -> list[str]:
        """Return the command line that runs `argv` on the node without SSH, as its console would."""
        return ["nsenter", f"--target={self.init}", "--mount", "--uts", "--pid", "--net", *argv]

    def kill(self) -> None:
        """Pull the plug: everything on the node ends at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def cut(self) -> None:
        """Take the network away; the node goes on by itself."""
        _run("ip", "link", "set", self.link, "down")

    def heal(self) -> None:
        """Give the network back."""
        _run("ip", "link", "set", self.link, "up")

    def execute(self, *argv: str) -> str:
        """Run a command on the node by SSH, as a person would; return what it printed."""
        known_hosts = f"UserKnownHostsFile={self.directory / 'known_hosts'}"
        key = str(self.directory.parent / "id")
        return subprocess.run(
            ["ssh", "-i", key, "-o", "BatchMode=yes", "-o", known_hosts, f"root@{self.address}", *argv],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout


@dataclass
class NetnsFarm:
    """The nodes and the address at which they see this machine."""

    hub_address: str
    nodes: list[NetnsNode]


@contextlib.contextmanager
def netns_farm(
    count: int = 3, simulated_gpus: int = 1, *, separate: bool = False, disk_bytes: int = 0
) -> Iterator[NetnsFarm]:
    """Bring `count` nodes up; take everything down in the end.

    Parameters
    ----------
    count
        Number of nodes.
    simulated_gpus
        GPUs of each node.
    separate
        Whether each node has also its own /tmp, /etc/passwd with a home below its directory, boot id (a new one at each
        boot), and a first process that is not sshd.
    disk_bytes
        Size of a filesystem of the node's own for its state directory and home; it outlasts the node's power. 0: none.
    """
    tag = f"af{secrets.token_hex(2)}"
    net = f"10.213.{secrets.randbelow(254) + 1}"
    directory = Path(tempfile.mkdtemp(prefix=tag, dir="/var/tmp"))
    nodes: list[NetnsNode] = []
    try:
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "id"))
        _run("ip", "link", "add", tag, "type", "bridge")
        _run("ip", "addr", "add", f"{net}.1/24", "dev", tag)
        _run("ip", "link", "set", tag, "up")
        for i in range(1, count + 1):
            node = _make(directory, tag, net, i, simulated_gpus)
            nodes.append(node)
            if separate:
                _separate(node, disk_bytes)
            node.start()
        for node in nodes:
            _await_ssh(node)
        yield NetnsFarm(f"{net}.1", nodes)
    finally:
        for node in nodes:
            node.kill()
            subprocess.run(["ip", "netns", "del", node.namespace], check=False, capture_output=True)
            subprocess.run(["umount", "-l", str(node.directory / "disk")], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", tag], check=False, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)


def _make(directory: Path, tag: str, net: str, i: int, simulated_gpus: int) -> NetnsNode:
    node = NetnsNode(f"gpu{i:02}", f"{net}.{10 + i}", f"{tag}n{i}", f"{tag}v{i}", directory / f"n{i}")
    node.simulated_gpus = simulated_gpus
    node.bridge = tag
    node.directory.mkdir(mode=0o700)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(node.directory / "host_key"))
    public = (node.directory / "host_key.pub").read_text()
    (node.directory / "known_hosts").write_text(f"{node.address} {public}")
    (node.directory / "sshd_config").write_text(
        f"HostKey {node.directory / 'host_key'}\nAuthorizedKeysFile {directory / 'id.pub'}\n"
        "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPidFile none\nPermitRootLogin prohibit-password\n"
    )
    (node.directory / "shadow").write_text("root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n")
    (node.directory / "shadow").chmod(0o600)
    _run("ip", "netns", "add", node.namespace)
    _run("ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
    _run("ip", "link", "set", node.link, "master", tag, "up")
    _run("ip", "-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
    _run("ip", "-n", node.namespace, "link", "set", "eth0", "up")
    _run("ip", "-n", node.namespace, "link", "set", "lo", "up")
    _run("ip", "-n", node.namespace, "route", "add", "default", "via", f"{net}.1")
    return node


def _separate(node: NetnsNode, disk_bytes: int) -> None:
    """Give a node a disk and an account of its own."""
    node.separate = True
    disk = node.directory / "disk"
    disk.mkdir()
    if disk_bytes:
        _run("mount", "-t", "tmpfs", "-o", f"size={disk_bytes},mode=755", "tmpfs", str(disk))
    for name in ("state", "home"):
        (disk / name).mkdir(mode=0o700)
        (node.directory / name).symlink_to(disk / name)
    lines = Path("/etc/passwd").read_text().splitlines()
    others = [line for line in lines if not line.startswith("root:")]
    home = node.directory / "disk" / "home"
    (node.directory / "passwd").write_text("\n".join([f"root:x:0:0:root:{home}:/bin/sh", *others]) + "\n")


def _await_ssh(node: NetnsNode, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            node.execute("true")
        except subprocess.CalledProcessError as exc:
            if time.monotonic() > deadline:
                log = (node.directory / "sshd.log").read_text()
                raise AssertionError(f"{node.name}: no SSH within {timeout} s: {exc.stderr}\n{log}") from exc
        else:
            return
