"""What the spawning benchmark runs on: four OpenSSH hosts, and a Hub for each way to start servers on them.

Both Hubs have the same JupyterHub, the same proxy, the same nodes, and start the servers from the same environment on
them; what differs is the spawner, and the module that is the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from hub_process import _PORTS, PASSWORD, HubProcess, proxy_cache  # noqa: E402
from netns import NetnsFarm, NetnsNode, netns_farm  # noqa: E402
from ports import free_ports  # noqa: E402

from jupyterhub_agentfarm.demo.proxy import proxy_command  # noqa: E402
from jupyterhub_agentfarm.records import to_json  # noqa: E402
from jupyterhub_agentfarm.share import share_path  # noqa: E402

PEERS = Path(__file__).parent / "peers"
PEER_REQUIREMENTS = (f"jupyterhub=={version('jupyterhub')}", "sshspawner==0.0.1a4")
#: What the nodes need for the way `warm`.
WARM = ("--NodedApp.warm_servers=True",)
#: Both ways may take that long for a start, in seconds: two cores start sixty servers slowly.
START_SECONDS = 600

_COMMON = f"""
c = get_config()
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.log_level = "WARN"
c.Spawner.start_timeout = c.Spawner.http_timeout = {START_SECONDS}
c.AgentFarmSpawner.boot_timeout = {START_SECONDS}
"""
#: Starts each user's server in the way that the user's name begins with.
WAY_HOOK = """
def _way(spawner):
    ways = {ways!r}
    way = ways.get(spawner.user.name.partition("-")[0], ways["warm"])
    spawner.environment = {{**spawner.environment, **way["environment"]}}
    spawner.args = [*spawner.args, *way["args"]]

c.Spawner.pre_spawn_hook = _way
"""
_OURS = """
path = {config!r}
exec(compile(open(path).read(), path, "exec"))
"""
#: A variable that only counts when a program is executed, so that a server with it is never forked.
_COLD = {"LD_AGENTFARM_BENCHMARK": "cold"}
_COLD_KERNELS = ["--WarmKernels.enabled=False"]
#: The farm's ways: what is added to one after the other is what the shares are told of.
WAYS = {
    "stock": {"environment": _COLD | {"AGENTFARM_SHORTCUTS": "none"}, "args": _COLD_KERNELS},
    "cold": {"environment": _COLD, "args": _COLD_KERNELS},
    "warm": {"environment": {}, "args": ["--WarmKernels.enabled=True"]},
}
_THEIRS = """
import json, os, sys
sys.path.insert(0, {peers!r})
from sshspawner_repaired import RepairedSSHSpawner

env = os.environ
data = env["AGENTFARM_DATA_DIR"]
hub = env["AGENTFARM_HUB_IP"]
c.JupyterHub.bind_url = f"http://127.0.0.1:{{env['AGENTFARM_PORT']}}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{{env['AGENTFARM_PROXY_API_PORT']}}"
c.ConfigurableHTTPProxy.command = json.loads(env["AGENTFARM_PROXY_COMMAND"])
c.ConfigurableHTTPProxy.pid_file = f"{{data}}/proxy.pid"
c.JupyterHub.hub_ip, c.JupyterHub.hub_port = hub, int(env["AGENTFARM_HUB_PORT"])
c.JupyterHub.db_url = f"sqlite:///{{data}}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = f"{{data}}/cookie_secret"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = env["AGENTFARM_DEMO_PASSWORD"]
c.Authenticator.allow_all, c.Authenticator.admin_users = True, {{"admin"}}
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 1}}
c.JupyterHub.spawner_class = RepairedSSHSpawner
c.RepairedSSHSpawner.remote_hosts = {hosts!r}
c.RepairedSSHSpawner.ssh_keyfile = {key!r}
c.RepairedSSHSpawner.hub_api_url = f"http://{{hub}}:{{env['AGENTFARM_HUB_PORT']}}/hub/api"
c.RepairedSSHSpawner.path = os.environ["PATH"]
c.RepairedSSHSpawner.remote_port_command = {port_command!r}
c.Spawner.cmd = {cmd!r}
c.Spawner.args = ["--allow-root"]
c.Spawner.env_keep = []
c.Spawner.default_url = "/lab"
"""
_FREE_PORT = "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])"


class BenchHub(HubProcess):
    """A Hub with a configuration of the benchmark's, executed by the Python of its way."""

    python = sys.executable

    @property
    def http(self) -> aiohttp.ClientSession:
        """A session that keeps no connection: the proxy closes idle ones, which may be just when the next is sent."""
        if self._session is None:
            connector = aiohttp.TCPConnector(force_close=True, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60))
        return self._session

    def command(self) -> list[str]:
        """Return the Hub's program and arguments."""
        return [
            *(self.python, "-m", "jupyterhub", "-f", str(self.directory / "config.py")),
            f"--Spawner.environment=HOME={self.directory / 'home'}",
        ]


class PeerHub(BenchHub):
    """The Hub with sshspawner."""


def install_peer(folder: Path) -> str:
    """Install sshspawner into an environment of its own; return its Python."""
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        subprocess.run([*pip, *PEER_REQUIREMENTS], check=True)
        (folder / "installed").touch()
    return str(python)


def sign_key(farm: NetnsFarm) -> Path:
    """Give the nodes a certificate authority and sign their key with it: sshspawner logs in with certificates only."""
    folder = farm.nodes[0].directory.parent
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "ca")]
    subprocess.run(make, check=True)
    sign = ["ssh-keygen", "-q", "-s", str(folder / "ca"), "-I", "bench", "-n", "root", str(folder / "id.pub")]
    subprocess.run(sign, check=True)
    with (folder / "id.pub").open("a") as trusted:
        trusted.write(f"cert-authority {(folder / 'ca.pub').read_text()}")
    return folder / "id"


@contextlib.asynccontextmanager
async def nodes(count: int) -> AsyncIterator[NetnsFarm]:
    """Boot `count` hosts."""
    manager = netns_farm(count, simulated_gpus=0)
    farm = await asyncio.to_thread(manager.__enter__)
    try:
        yield farm
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


def our_config() -> str:
    """Return the configuration of the farm's Hub."""
    return _COMMON + _OURS.format(config=str(share_path("jupyterhub_config.py"))) + WAY_HOOK.format(ways=WAYS)


def peer_config(farm: NetnsFarm, key: Path) -> str:
    """Return the configuration of sshspawner's Hub."""
    return _COMMON + _THEIRS.format(
        peers=str(PEERS),
        hosts=[node.address for node in farm.nodes],
        key=str(key),
        port_command=f'{sys.executable} -c "{_FREE_PORT}"',
        cmd=[str(Path(sys.executable).parent / "jupyterhub-singleuser")],
    )


@contextlib.asynccontextmanager
async def running_hub(kind: type[BenchHub], farm: NetnsFarm, config: str) -> AsyncIterator[BenchHub]:
    """Run a Hub with `config`; in the end everything of it is gone but what it left on the nodes."""
    directory = Path(tempfile.mkdtemp(prefix="af"))
    (directory / "home").mkdir()
    (directory / "config.py").write_text(config)
    (directory / "nodes.json").write_text(
        json.dumps(to_json([replace(node.spec, noded_args=WARM) for node in farm.nodes]))
    )
    hub = kind(directory, await asyncio.to_thread(_environment, directory, farm.hub_address))
    try:
        await hub.start()
        yield hub
    finally:
        await hub.close()
        shutil.rmtree(directory, ignore_errors=True)


def _environment(directory: Path, hub_address: str) -> dict[str, str]:
    ports = zip(_PORTS, free_ports(len(_PORTS)), strict=True)
    return {f"AGENTFARM_{name}": str(port) for name, port in ports} | {
        "PATH": os.environ["PATH"],
        "HOME": str(directory / "home"),
        "AGENTFARM_IP": "127.0.0.1",
        "AGENTFARM_HUB_IP": hub_address,
        "AGENTFARM_RUNTIME_DIR": str(directory / "run"),
        "AGENTFARM_DATA_DIR": str(directory),
        "AGENTFARM_NODES": str(directory / "nodes.json"),
        "AGENTFARM_PROXY_COMMAND": json.dumps(proxy_command(proxy_cache())),
        "AGENTFARM_DEMO_PASSWORD": PASSWORD,
        "AGENTFARM_SERVICES": "agentfarm",
        "AGENTFARM_TEST_HUB": str(directory),
    }


def end_servers(
    hosts: Sequence[NetnsNode], needles: Sequence[str] = ("singleuser", "jupyterhub_agentfarm.server")
) -> None:
    """Kill what is left of servers on the nodes."""
    for node in hosts:
        for needle in needles:
            with contextlib.suppress(subprocess.CalledProcessError):  # there was none
                node.execute("pkill", "-9", "-f", needle)
