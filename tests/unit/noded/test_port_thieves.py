"""Others who want a server's port: before it is bound, while the server boots, and while it runs."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from noded_process import NodedProcess
from waiting import eventually

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.models import LaunchSpec
from jupyterhub_agentfarm.noded import listening, procfs, starting
from jupyterhub_agentfarm.noded.cgroups import Cgroups
from jupyterhub_agentfarm.noded.directories import ServerDirectories
from jupyterhub_agentfarm.noded.isolation.isolator import Isolator
from jupyterhub_agentfarm.noded.listening import listen
from jupyterhub_agentfarm.noded.server import Server
from jupyterhub_agentfarm.noded.store import Store
from jupyterhub_agentfarm.noded.warm.zygotes import WarmOptions, Zygotes

#: Says which port it was given, waits, and binds it.
HESITATES = """
import os, socket, time
from pathlib import Path
from urllib.parse import urlsplit
folder = Path(os.environ["FOLDER"])
port = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"]).port
if not (folder / "port").exists():
    (folder / "new").write_text(str(port))
    (folder / "new").rename(folder / "port")
    while not (folder / "go").exists():
        time.sleep(0.01)
listener = socket.create_server(("127.0.0.1", port))
time.sleep(1000)
"""
BOOTS_FOR_EVER = "import time; time.sleep(1000)"
#: What a thief may try: socket options, and the address that is bound.
TRIES = [
    (options, address)
    for options in ((), ("SO_REUSEADDR",), ("SO_REUSEPORT",), ("SO_REUSEADDR", "SO_REUSEPORT"))
    for address in ("127.0.0.1", "0.0.0.0", "::")
]
STRANGER = 65534
STEAL = """
import socket, sys
address, port, *options = sys.argv[1:]
thief = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
for option in options:
    thief.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
try:
    thief.bind((address, int(port)))
    thief.listen()
except OSError as exc:
    sys.exit(exc.errno)
"""


def steal(port: int, options: tuple[str, ...], address: str) -> int:
    """Return the error number of the attempt to listen on the port; 0: it is stolen."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as thief:
        for option in options:
            thief.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        try:
            thief.bind((address, port))
            thief.listen()
        except OSError as exc:
            return exc.errno or -1
    return 0


async def test_the_port_of_a_booting_server_cannot_be_taken(noded: NodedProcess) -> None:
    """From the launch's answer on, long before the server accepts, nobody of the same account can listen there."""
    status = await noded.launch(uuid4().hex, BOOTS_FOR_EVER)
    tries = {(*options, address): steal(status["port"], options, address) for options, address in TRIES}
    assert set(tries.values()) == {errno.EADDRINUSE}, tries


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another account")
async def test_another_account_cannot_take_the_port(noded: NodedProcess) -> None:
    """Nor can another account."""
    status = await noded.launch(uuid4().hex, BOOTS_FOR_EVER)
    for options, address in TRIES:
        command = ["/usr/bin/env", "python3", "-c", STEAL, address, str(status["port"]), *options]
        process = await asyncio.create_subprocess_exec(
            *command, user=STRANGER, group=STRANGER, extra_groups=[], cwd="/", env={"PATH": os.defpath}
        )
        assert await process.wait() == errno.EADDRINUSE, (options, address)


def test_the_thief_can_steal_a_port_that_nobody_listens_on() -> None:
    """The attempts succeed where nothing is in their way: without that their failure would say nothing."""
    for options, address in TRIES:
        with socket.create_server(("127.0.0.1", 0)) as before:
            port = before.getsockname()[1]
        assert steal(port, options, address) == 0, (options, address)


def test_a_neighbour_that_shares_its_port_gets_no_server_of_ours() -> None:
    """A port on which somebody listens with SO_REUSEADDR and SO_REUSEPORT is not shared: another one is chosen."""
    with socket.socket() as neighbour:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            neighbour.setsockopt(socket.SOL_SOCKET, option, 1)
        neighbour.bind(("127.0.0.1", 0))
        neighbour.listen()
        port = neighbour.getsockname()[1]
        first = min(port, 65534)
        with listen("127.0.0.1", (first, first + 1)) as sock:
            assert sock.getsockname()[1] != port


def test_a_port_that_is_lost_between_bind_and_listen_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has bound the port too, and listens first, keeps it; a server gets another one."""
    stolen: list[socket.socket] = []
    bind = socket.socket.bind

    def bind_and_lose(sock: socket.socket, address: Any) -> None:
        bind(sock, address)
        if not stolen:
            thief = socket.socket()
            stolen.append(thief)
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bind(thief, sock.getsockname())
            thief.listen()

    monkeypatch.setattr(listening.socket.socket, "bind", bind_and_lose)
    with listen("127.0.0.1", None) as sock:
        assert sock.getsockname()[1] != stolen[0].getsockname()[1]
    stolen[0].close()


async def test_a_port_that_is_taken_before_the_server_binds_it_is_replaced(noded: NodedProcess, tmp_path: Path) -> None:
    """In the mode "port" a listener that comes between choice and bind costs the port, not the start."""
    launching = asyncio.create_task(
        noded.launch(uuid4().hex, HESITATES, socket="port", environment={"FOLDER": str(tmp_path)})
    )
    port = await chosen(tmp_path)
    with socket.create_server(("127.0.0.1", port)):
        (tmp_path / "go").touch()
        status = await launching
    assert status["state"] == "running"
    assert status["port"] != port


async def chosen(folder: Path) -> int:
    """Return the port that the server was given."""
    path = folder / "port"
    await eventually(path.exists, "the server was given a port")
    return int(path.read_text())


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Give a function that starts a server which never binds its port, with two seconds for that."""
    monkeypatch.setattr(starting, "_BIND_SECONDS", 2)
    (tmp_path / "state").mkdir(mode=0o700)
    starter = starting.Starter(
        Store(tmp_path / "state"),
        Isolator(Cgroups(enabled=False)),
        ServerDirectories(tmp_path / "run"),
        Zygotes(WarmOptions(enabled=False), tmp_path / "warm"),
        procfs.boot_id(),
        lambda _: None,
    )
    command = (sys.executable, "-c", HESITATES)
    spec = LaunchSpec(uuid4().hex, 1, command, {"FOLDER": str(tmp_path)}, (), "127.0.0.1", "/", socket="port")
    began: list[Server] = []
    yield lambda: starter.start(spec, began.append)
    for server in began:
        server.terminate()
        await server.exited.wait()


async def test_a_strangers_listener_is_not_the_servers(start: Callable[[], Awaitable[Any]], tmp_path: Path) -> None:
    """In the mode "port" somebody else who listens on the chosen port does not make the launch succeed."""
    launching = asyncio.ensure_future(start())
    with socket.create_server(("127.0.0.1", await chosen(tmp_path))), pytest.raises(LaunchFailed, match="not listen"):
        await launching


async def test_damage_without_the_check_a_strangers_listener_is_taken(
    start: Callable[[], Awaitable[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any listener for the server's, as a plain connection attempt has it, the stranger is announced."""
    monkeypatch.setattr(starting, "_has_listener", lambda _server, port: bool(procfs.listening_inodes(port)))
    launching = asyncio.ensure_future(start())
    with socket.create_server(("127.0.0.1", await chosen(tmp_path))):
        assert (await launching).status.state == "running"
