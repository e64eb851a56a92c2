"""What can happen to a node, each as a function that takes it. What a function does, its counterpart undoes.

======================================  ==============================================================================
function, counterpart                   the fault
======================================  ==============================================================================
kill_sshd, start_sshd                   sshd and its sessions are killed; noded and servers go on
kill_noded                              noded alone is killed
freeze, thaw                            SIGSTOP to every process of the node; its kernel goes on answering
drop, undrop                            the cable hangs on no switch: packets vanish, nobody sends a RST
partition, heal                         the cable is pulled (its carrier is lost); the node goes on by itself
slow                                    a context: delay, jitter, loss and rate by relay.py
power_off, power_on                     everything ends at once and the network with it; power_on: a new boot id
fill_disk, free_disk                    the disk of state directory and home is full
fill_inodes, free_inodes                it has no inode left
read_only_home, writable_home           the account's home is read-only
missing_interpreter, put_interpreter    the Python that noded (or servers) start from is gone
reuse_pid                               another process gets a process id that was free
port_thief                              a stranger listens on a port and answers 200
wrong_host_key, right_host_key          sshd shows another host key than the pinned one
clock_jump                              noded's wall clock jumps (points.set_clock; not the kernel's: see there)
======================================  ==============================================================================

All of them block for less than a second or two; in a test call them with `await asyncio.to_thread(...)` where that
matters. A SIGKILL at a named point of a spawn is points.arm(..., "kill"), or "hold" and then hub.kill().
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import netns
from faults.points import Points
from netns import SSHD, NetnsNode

HERE = Path(__file__).parent


def _run(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


# ---- processes -----------------------------------------------------------------------------------------------------


def processes(node: NetnsNode) -> dict[int, list[str]]:
    """Return the command lines of the node's processes, by process id as this machine counts."""
    space = Path(f"/proc/{node.init}/ns/pid").readlink()
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns" / "pid").readlink() == space:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return found


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _until(condition: object, message: str, seconds: float = 10) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {message}"
        time.sleep(0.01)


def sshd_pids(node: NetnsNode) -> list[int]:
    """Return the node's sshd and its sessions' processes."""
    return [pid for pid, argv in processes(node).items() if "sshd" in Path(argv[0].split(":")[0]).name]


def kill_sshd(node: NetnsNode) -> None:
    """SIGKILL sshd with all its sessions."""
    _until(lambda: _signal(sshd_pids(node), signal.SIGKILL) or not sshd_pids(node), "sshd is gone")


def start_sshd(node: NetnsNode) -> None:
    """Start sshd and return when it listens."""
    config = str(node.directory / "sshd_config")
    with (node.directory / "sshd.log").open("ab") as log:
        subprocess.Popen(node.inside(SSHD, "-f", config), stdout=log, stderr=log, stdin=subprocess.DEVNULL).wait(10)
    _until(lambda: sshd_pids(node), "sshd runs")


def noded_pid(node: NetnsNode) -> int | None:
    """Return noded's process id as this machine counts, or None."""
    for pid, argv in processes(node).items():
        if "jupyterhub_agentfarm.noded" in argv and "--ensure" not in argv and "--stop" not in argv:
            return pid
    return None


def kill_noded(node: NetnsNode) -> None:
    """SIGKILL noded; its servers go on."""
    pid = noded_pid(node)
    assert pid is not None, "noded does not run"
    os.kill(pid, signal.SIGKILL)


def freeze(node: NetnsNode) -> None:
    """Stop every process of the node where it is, sshd, noded and servers; TCP goes on being answered."""
    _signal(list(processes(node)), signal.SIGSTOP)
    _signal(list(processes(node)), signal.SIGSTOP)  # what was forked meanwhile


def thaw(node: NetnsNode) -> None:
    """Let every process go on."""
    _signal(list(processes(node)), signal.SIGCONT)


def inner_pid(pid: int) -> int:
    """Return how the node itself counts a process that this machine counts as `pid`."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


_REUSE = """
import os, sys, time
pid, uid, token = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for _ in range(100_000):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid - 1))
    child = os.fork()
    if child == 0:
        if os.getpid() != pid:
            os._exit(0)
        os.setsid()
        os.setgid(uid)
        os.setuid(uid)
        for number in range(3):
            os.dup2(os.open("/dev/null", os.O_RDWR), number)
        os.execv("/bin/sleep", ["sleep-" + token, "600"])
    if child == pid:
        print(child, flush=True)
        sys.exit(0)
    os.waitpid(child, 0)
sys.exit("the process id was not to be had")
"""


def reuse_pid(node: NetnsNode, pid: int, uid: int = 0) -> int:
    """Start a process that has a free process id of the node's, in a session of its own.

    Parameters
    ----------
    node
        The node.
    pid
        The wanted id as the node counts (:func:`inner_pid` of the process that had it).
    uid
        The account that it runs as.

    Returns
    -------
    int
        Its process id as this machine counts. It is `sleep 600`, a child of the node's init.
    """
    token = secrets.token_hex(4)
    _run(*node.inside(sys.executable, "-I", "-S", "-c", _REUSE, str(pid), str(uid), token))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for found, argv in processes(node).items():
            if argv[0] == f"sleep-{token}":
                assert inner_pid(found) == pid
                return found
        time.sleep(0.01)
    raise AssertionError("the process that took the process id is not there")


_THIEF = """
import http.server, socket, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "5"); self.end_headers(); self.wfile.write(b"thief")
    def log_message(self, *args): pass
class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        for option in sys.argv[3:]:
            self.socket.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        socketserver.TCPServer.server_bind(self)  # HTTPServer's asks for names first
Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


@contextlib.contextmanager
def port_thief(node: NetnsNode, port: int, *options: str, address: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Have a stranger try to listen on a port of the node and answer every path with 200; yield its process.

    Parameters
    ----------
    node
        The node.
    port
        The port.
    options
        Socket options that it sets first: "SO_REUSEADDR", "SO_REUSEPORT".
    address
        Where it binds; "": the node's own address.
    """
    command = node.inside(sys.executable, "-I", "-S", "-c", _THIEF, address or node.address, str(port), *options)
    thief = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield thief
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(thief.pid, signal.SIGKILL)  # nsenter and the child that it makes inside
        thief.wait()


# ---- network -------------------------------------------------------------------------------------------------------


def drop(node: NetnsNode) -> None:
    """Let every packet from and to the node vanish; its interface stays up, as with DROP in a firewall."""
    _run("ip", "link", "set", node.link, "nomaster")


def undrop(node: NetnsNode) -> None:
    """Let packets pass again."""
    _run("ip", "link", "set", node.link, "master", node.bridge)


def partition(node: NetnsNode) -> None:
    """Pull the cable: the node sees its interface go down, and goes on."""
    node.cut()


def heal(node: NetnsNode) -> None:
    """Plug the cable in."""
    node.heal()


@contextlib.asynccontextmanager
async def slow(
    node: NetnsNode,
    *,
    delay_seconds: float = 0,
    jitter_seconds: float = 0,
    loss: float = 0,
    rate_bits: float = 0,
) -> AsyncIterator[None]:
    """Give the node a bad cable for as long as the block runs; open connections stay.

    Parameters
    ----------
    node
        The node.
    delay_seconds, jitter_seconds, loss, rate_bits
        Each way: a delay of 0.1 makes a round trip of 0.2 s.
    """
    settings = node.directory / "cable.json"
    values = {"delay_seconds": delay_seconds, "jitter_seconds": jitter_seconds, "loss": loss, "rate_bits": rate_bits}
    settings.write_text(json.dumps(values))
    tag = secrets.token_hex(3)
    far, near, inner = f"aft{tag}f", f"aft{tag}n", f"aft{tag}b"
    relay = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(HERE / "relay.py"), far, near, str(settings)), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert relay.stdout is not None
        assert await asyncio.wait_for(relay.stdout.readline(), 10) == b"ready\n"
        await asyncio.to_thread(_plug, node, far, near, inner)
        yield
    finally:
        undrop(node)
        relay.kill()
        await relay.wait()
        _run("ip", "link", "del", inner)


def _plug(node: NetnsNode, far: str, near: str, inner: str) -> None:
    _run("ip", "link", "add", inner, "type", "bridge")
    for name, bridge in ((far, node.bridge), (near, inner), (node.link, inner)):
        _run("ip", "link", "set", name, "master", bridge)
    for name in (inner, far, near):
        _run("ip", "link", "set", name, "up")


# ---- power ---------------------------------------------------------------------------------------------------------


def power_off(node: NetnsNode) -> None:
    """Pull the plug: nothing of the node answers any more, not even with a RST."""
    node.cut()
    node.kill()


def power_on(node: NetnsNode) -> None:
    """Boot with a new boot id and return when sshd answers; the disk is as it was, noded is not started yet."""
    node.heal()
    node.start()
    netns._await_ssh(node)


# ---- disk ----------------------------------------------------------------------------------------------------------


def _disk(node: NetnsNode) -> Path:
    return node.directory / "disk"


def fill_disk(node: NetnsNode) -> None:
    """Leave no byte on the node's disk (state directory and home)."""
    with (_disk(node) / "filler").open("wb", buffering=0) as file:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def free_disk(node: NetnsNode) -> None:
    """Undo :func:`fill_disk`."""
    (_disk(node) / "filler").unlink()


def fill_inodes(node: NetnsNode) -> None:
    """Leave no inode on the node's disk."""
    _run("mount", "-o", f"remount,nr_inodes={_inodes(node)}", str(_disk(node)))


def free_inodes(node: NetnsNode) -> None:
    """Undo :func:`fill_inodes`."""
    _run("mount", "-o", "remount,nr_inodes=100000", str(_disk(node)))


def _inodes(node: NetnsNode) -> int:
    state = os.statvfs(_disk(node))
    return state.f_files - state.f_ffree


def read_only_home(node: NetnsNode) -> None:
    """Make the account's home read-only on the node."""
    home = str(_disk(node) / "home")
    _run(*node.inside("mount", "--bind", home, home))
    _run(*node.inside("mount", "-o", "remount,ro,bind", home))


def writable_home(node: NetnsNode) -> None:
    """Undo :func:`read_only_home`."""
    _run(*node.inside("umount", "-l", str(_disk(node) / "home")))


def missing_interpreter(node: NetnsNode, name: str = "server-python") -> None:
    """Take away the Python that servers (or, with "python", noded) are started with; what runs goes on."""
    (node.directory / name).unlink()


def put_interpreter(node: NetnsNode) -> None:
    """Undo :func:`missing_interpreter`."""
    node.write_pythons()


# ---- identity and time ---------------------------------------------------------------------------------------------


def wrong_host_key(node: NetnsNode) -> None:
    """Have sshd show a new host key; its sessions end."""
    key = node.directory / "host_key"
    for name in ("host_key", "host_key.pub"):
        shutil.copy(node.directory / name, node.directory / f"{name}.right")
        (node.directory / name).unlink()
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    shutil.copy(node.directory / "host_key.pub.right", node.directory / "host_key.pub")  # what `spec` pins
    kill_sshd(node)
    start_sshd(node)


def right_host_key(node: NetnsNode) -> None:
    """Undo :func:`wrong_host_key`."""
    for name in ("host_key", "host_key.pub"):
        (node.directory / f"{name}.right").replace(node.directory / name)
    kill_sshd(node)
    start_sshd(node)


def clock_jump(points: Points, node: NetnsNode, seconds: float) -> None:
    """Have noded's wall clock jump; 0 undoes it."""
    points.set_clock(node.name, seconds)
