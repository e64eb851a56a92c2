"""The demo's proxy: found or installed once, honest when it cannot be, and good for a kernel's WebSocket."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_ports
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect
from waiting import eventually

from jupyterhub_agentfarm.demo.proxy import main, pinned_version, proxy_command
from jupyterhub_agentfarm.errors import ConfigError

NAME = "configurable-http-proxy"
DEAD_REGISTRY = "http://127.0.0.1:9"
TOKEN = secrets.token_hex(16)
AUTHORIZATION = {"Authorization": f"token {TOKEN}"}
#: Opens two connections as an http.Agent with keepAlive does, and as http-proxy does; ends with its stdin.
PROBE = """
const net = require("node:net");
const server = net.createServer(() => {}).listen(0, "127.0.0.1", async () => {
  const ports = await Promise.all([1000, 0].map((delay) => new Promise((resolve) => {
    const socket = net.connect(server.address().port, "127.0.0.1", () => {
      socket.setKeepAlive(true, delay);
      resolve(socket.localPort);
    });
  })));
  console.log(ports.join(" "));
  process.stdin.on("end", () => process.exit(0)).resume();
});
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the proxy was really installed into."""
    folder = tmp_path_factory.mktemp("proxy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path_without_proxy())
        proxy_command(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_proxy_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", path_without_proxy())


def path_without_proxy() -> str:
    """Return the PATH without the folders that have a proxy already."""
    return os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not Path(p, NAME).exists())


# ---------------------------------------------------------------- finding and installing


def test_proxy_on_the_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the site installed is used, and nothing is made in the cache folder."""
    program = tmp_path / "bin" / NAME
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert proxy_command(tmp_path / "cache") == [str(program)]
    assert not (tmp_path / "cache").exists()


def test_installed_proxy_is_the_pinned_version(installed: Path) -> None:
    """The command starts the pinned version, with Node named by its full path."""
    command = proxy_command(installed)
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, env={}, check=True)
    assert done.stdout.strip() == pinned_version()
    assert all(Path(part).is_absolute() for part in (command[0], command[-1]))


async def test_a_silent_node_is_not_probed_at_once(installed: Path, tmp_path: Path) -> None:
    """Connections of the proxy's Node are probed after two minutes, where Node asks for a second, or for no delay."""
    node, *options, _ = proxy_command(installed)
    program = tmp_path / "probe.cjs"
    program.write_text(PROBE)
    command = [node, *options, str(program)]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=-1)
    assert process.stdin is not None
    assert process.stdout is not None
    ports = [f"{int(port):04X}" for port in (await process.stdout.readline()).split()]
    table = await asyncio.to_thread(Path("/proc/net/tcp").read_text)
    timers = [line.split() for line in table.splitlines()[1:]]
    # Columns 5: which timer (2: keepalive) and, in ticks of 1/100 s, when it is due.
    due = {row[1][-4:]: row[5].split(":") for row in timers if row[1][-4:] in ports}
    process.stdin.close()
    assert await process.wait() == 0
    assert len(due) == 2
    assert all(kind == "02" and 100 * 100 < int(ticks, 16) <= 120 * 100 for kind, ticks in due.values()), due


def test_second_call_needs_no_registry(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once installed, the command comes without npm and without a word."""
    monkeypatch.setenv("npm_config_registry", DEAD_REGISTRY)
    assert Path(proxy_command(installed)[-1]).exists()
    assert capfd.readouterr().err == ""


def test_unreachable_registry_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a registry the error says why and what to do, and nothing half-done is left behind."""
    monkeypatch.setenv("npm_config_registry", DEAD_REGISTRY)
    with pytest.raises(
        ConfigError, match=r"could not be installed from the npm registry \(ECONNREFUSED.*so that it is"
    ):
        proxy_command(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.lock"]


def test_unusable_folder_is_one_sentence(tmp_path: Path) -> None:
    """A cache folder that cannot be made is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"{NAME} cannot be installed in .*/file/cache: Not a directory"):
        proxy_command(tmp_path / "file" / "cache")


def test_two_at_once_install_once_without_a_home(tmp_path: Path) -> None:
    """Two starts at the same moment install once, with a home that does not exist and cannot be made."""
    argv = [sys.executable, "-m", "jupyterhub_agentfarm.demo.proxy", "--dir", str(tmp_path)]
    environment = os.environ | {"HOME": "/proc/no-home"}
    both = [subprocess.Popen(argv, stdout=-1, stderr=-1, text=True, env=environment) for _ in range(2)]
    outputs = [process.communicate(timeout=50) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert json.loads(outputs[0][0]) == json.loads(outputs[1][0])
    assert sum(error.count("Installing") for _, error in outputs) == 1
    assert len(list(tmp_path.iterdir())) == 2, "the installed folder and the lock, no staging folder, no npm cache"


def test_damaged_installation_is_made_again(installed: Path, tmp_path: Path) -> None:
    """A folder that lost the program is replaced."""
    shutil.copytree(installed, tmp_path / "cache", symlinks=True)
    program = tmp_path / "cache" / Path(proxy_command(installed)[-1]).relative_to(installed)
    program.unlink()
    assert proxy_command(tmp_path / "cache")[-1] == str(program)
    assert program.exists()


def test_command_line_fails_with_the_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command line prints the sentence alone and ends with status 1."""
    monkeypatch.setenv("npm_config_registry", DEAD_REGISTRY)
    assert main(["--dir", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"{NAME} {pinned_version()} could not be installed")
    assert "Traceback" not in err


# ---------------------------------------------------------------- a kernel behind it


@pytest.fixture
def jupyter(tmp_path: Path) -> Iterator[Path]:
    """Start a real jupyter_server under /user/test/; return its runtime folder."""
    argv = [
        *(sys.executable, "-m", "jupyter_server", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={free_ports(1)[0]}"),
        *("--ServerApp.open_browser=False", "--ServerApp.base_url=/user/test/", "--ServerApp.allow_root=True"),
        *(f"--ServerApp.root_dir={tmp_path}", "--ZMQChannelsWebsocketConnection.limit_rate=False"),
        "--ServerApp.jpserver_extensions={}",
    ]
    runtime = tmp_path / "runtime"
    environment = os.environ | {"JUPYTER_TOKEN": TOKEN, "JUPYTER_RUNTIME_DIR": str(runtime)}
    with (tmp_path / "jupyter.log").open("wb") as log, subprocess.Popen(argv, env=environment, stderr=log) as process:
        yield runtime
        process.terminate()


@pytest.fixture
async def proxy(installed: Path) -> AsyncIterator[tuple[str, str]]:
    """Start the installed proxy; return its URL and that of its API."""
    port, api_port = free_ports(2)
    command = proxy_command(installed)
    argv = [*command, "--ip=127.0.0.1", f"--port={port}", "--api-ip=127.0.0.1", f"--api-port={api_port}"]
    process = await asyncio.create_subprocess_exec(*argv, env=os.environ | {"CONFIGPROXY_AUTH_TOKEN": TOKEN})
    api = f"http://127.0.0.1:{api_port}/api/routes"
    try:
        await eventually(lambda: answers(api), "the proxy's API answers")
        yield f"http://127.0.0.1:{port}", api
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)


async def answers(url: str) -> bool:
    """Tell whether something answers at `url`."""
    try:
        async with httpx.AsyncClient() as client:
            await client.get(url)
    except httpx.TransportError:
        return False
    return True


async def execute(socket_: Any, code: str) -> str:
    """Run `code` in the kernel; return what it printed."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "test", "username": "test"}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    rest = {"parent_header": {}, "metadata": {}, "channel": "shell", "buffers": []}
    await socket_.write_message(json.dumps({"header": {**header, "version": "5.3"}, "content": content, **rest}))
    printed, seen = "", set[str]()
    while not {"execute_reply", "idle"} <= seen:
        raw = await socket_.read_message()
        assert raw is not None, f"the WebSocket was closed: {socket_.close_code}"
        message = json.loads(raw)
        if message["parent_header"].get("msg_id") == header["msg_id"]:
            seen |= {message["msg_type"], message["content"].get("execution_state", "")}
            printed += message["content"].get("text", "")
    return printed


async def test_kernel_websocket_through_the_proxy(jupyter: Path, proxy: tuple[str, str]) -> None:
    """A kernel behind the proxy runs cells, and 20 MB of output come whole."""
    url, api = proxy
    found = await eventually(lambda: list(jupyter.glob("jpserver-*.json")), "jupyter_server is up", timeout=30)
    port = json.loads(found[0].read_text())["port"]
    async with httpx.AsyncClient(headers=AUTHORIZATION, timeout=30) as client:

        async def listens() -> bool:
            with suppress(httpx.TransportError):
                return (await client.get(f"http://127.0.0.1:{port}/api")).status_code < 500
            return False

        await eventually(listens, "jupyter_server answers", timeout=30)  # it says where it is before it listens
        added = await client.post(f"{api}/user/test", json={"target": f"http://127.0.0.1:{port}"})
        assert added.status_code == 201
        kernel = (await client.post(f"{url}/user/test/api/kernels", json={})).raise_for_status().json()["id"]
        channels = f"{url.replace('http', 'ws', 1)}/user/test/api/kernels/{kernel}/channels?session_id=test"
        opening = HTTPRequest(channels, headers=AUTHORIZATION)
        connection = await websocket_connect(opening, max_message_size=100_000_000)
        async with asyncio.timeout(40):
            answer = await execute(connection, "print(6 * 7)")
            long = await execute(connection, "print('x' * 20_000_000)")
        connection.close()
        assert answer == "42\n"
        assert len(long) == 20_000_001
        (await client.delete(f"{url}/user/test/api/kernels/{kernel}")).raise_for_status()


async def test_api_refuses_other_tokens(proxy: tuple[str, str]) -> None:
    """Routes can be read and added with the token alone."""
    _, api = proxy
    async with httpx.AsyncClient() as client:
        refused = [await client.get(api), await client.get(api, headers={"Authorization": "token wrong"})]
        refused.append(await client.post(f"{api}/stolen", json={"target": "http://127.0.0.1:9"}))
        assert [answer.status_code for answer in refused] == [403, 403, 403]
        routes = (await client.get(api, headers=AUTHORIZATION)).raise_for_status().json()
    assert "/stolen" not in routes
