"""A farm for faults: nodes that are separate hosts, a real Hub, a proxy of its own, named points.

::

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def farm() -> AsyncIterator[FaultFarm]:
        async with fault_farm(settings={"Inventory": {"down_after": 5}}) as running:
            yield running

What is real: OpenSSH's sshd in network, mount, pid and host-name namespaces with an address of its own (netns.py),
noded, the controller as a service that the Hub manages, configurable-http-proxy, JupyterHub, single-user servers.
Users whose name begins with "tiny" get the stand-in of stand_in_server.py instead of Jupyter: same lease, socket,
identity and route, 20 ms instead of 4 s. What is not real: GPUs (simulated), and the hooks that make named points.

The proxy is started by the tests and not by the Hub: a Hub that starts its proxy itself ends the proxy of the Hub
before it, and every connection with it. A farm on which connections outlive the Hub is run in this way.

Each node has a disk of 64 MiB (tmpfs that outlasts the node's power) with noded's state directory and the account's
home; `node.directory` is seen on the node under the same path.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from faults import faults
from faults.points import Points
from hub_process import HubProcess, hub_process
from netns import NetnsFarm, NetnsNode, netns_farm
from waiting import eventually

from jupyterhub_agentfarm.errors import AgentFarmError
from jupyterhub_agentfarm.models import Lease

HERE = Path(__file__).parent
DISK_BYTES = 64 * 2**20
#: Inventory.down_after unless a test says otherwise, in seconds.
DOWN_AFTER_SECONDS = 60.0


class FaultHub(HubProcess):
    """A Hub whose proxy is not its own, configured by hub_config.py."""

    proxy: asyncio.subprocess.Process | None = None

    def command(self) -> list[str]:
        """Return the Hub's program and arguments."""
        return [sys.executable, "-m", "jupyterhub", "-f", str(HERE / "hub_config.py")]

    async def start(self) -> None:
        """Start the Hub, before it the proxy when there is none, and return when it answers."""
        if self.proxy is None:
            await self._start_proxy()
        await super().start()

    async def _start_proxy(self) -> None:
        port = {name: self.environment[f"AGENTFARM_{name}PORT"] for name in ("", "PROXY_API_", "HUB_")}
        error = f"http://{self.environment['AGENTFARM_HUB_IP']}:{port['HUB_']}/hub/error"
        listen = ("--ip", "127.0.0.1", "--port", port[""], "--api-ip", "127.0.0.1", "--api-port", port["PROXY_API_"])
        with (self.directory / "proxy.log").open("ab") as log:
            self.proxy = await asyncio.create_subprocess_exec(
                *json.loads(self.environment["AGENTFARM_PROXY_COMMAND"]),
                *(*listen, "--error-target", error),
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    async def restart(self) -> float:
        """SIGKILL the Hub and start it again; return the seconds until it answered."""
        await self.kill()
        begun = time.monotonic()
        await self.start()
        return time.monotonic() - begun

    async def close(self) -> None:
        """End everything."""
        await super().close()
        if self.proxy is not None:
            with suppress(ProcessLookupError):
                self.proxy.kill()
            await self.proxy.wait()


@dataclass(frozen=True)
class ServerProcess:
    """A server's own process on a node, found without asking the farm."""

    node: str
    owner: str
    name: str
    lease: str
    #: As this machine counts.
    pid: int


@dataclass
class FaultFarm:
    """A farm under faults."""

    net: NetnsFarm
    hub: FaultHub
    points: Points

    @property
    def nodes(self) -> list[NetnsNode]:
        """Every node: gpu01 and so on."""
        return self.net.nodes

    def node(self, name: str) -> NetnsNode:
        """Return the node of this name."""
        return next(node for node in self.nodes if node.name == name)

    # ---- what the farm says -------------------------------------------------------------------------------------

    async def status_is(self, status: str, *names: str, timeout: float = 30) -> float:
        """Wait until these nodes (none named: all) have this status; return the seconds that it took."""
        wanted = names or tuple(node.name for node in self.nodes)
        seen: dict[str, str] = {}
        begun = time.monotonic()

        async def reached() -> bool:
            with suppress(Exception):  # a controller that is being started again
                nodes = {node["name"]: node for node in await self.hub.farm.nodes()}
                seen.update((name, f"{nodes[name]['status']}: {nodes[name]['detail']}") for name in wanted)
                return all(nodes[name]["status"] == status for name in wanted)
            return False

        try:
            await eventually(reached, f"{', '.join(wanted)} {status}", timeout, interval=0.05)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; {seen}") from None
        return time.monotonic() - begun

    async def ready(self, *names: str, timeout: float = 60) -> None:
        """Wait until these nodes (none named: all) are eligible for servers."""
        wanted = names or tuple(node.name for node in self.nodes)

        async def eligible() -> bool:
            with suppress(Exception):
                nodes = {node["name"]: node for node in await self.hub.farm.nodes()}
                return all(nodes[name]["eligible"] and nodes[name]["telemetry"] for name in wanted)
            return False

        await eventually(eligible, f"{', '.join(wanted)} take servers", timeout, interval=0.05)

    async def lease_of(self, owner: str, name: str = "") -> Lease | None:
        """Return the alive lease of a server, or None."""
        found = [x for x in await self.hub.farm.leases() if (x.owner, x.server_name) == (owner, name) and x.alive]
        assert len(found) <= 1 or sum(lease.state != "stopping" for lease in found) <= 1, found
        return next((lease for lease in found if lease.state != "stopping"), next(iter(found), None))

    async def add_users(self, *names: str) -> None:
        """Make users; those that exist stay."""
        for name in names:
            status, body = await self.hub.api("POST", f"/users/{name}")
            assert status in (201, 409), body

    # ---- what a user sees ---------------------------------------------------------------------------------------

    async def get(self, owner: str, path: str = "api", name: str = "", timeout: float = 5) -> tuple[int, str]:
        """Return status and body of a request to a server through the proxy; status 0: no answer."""
        url = f"{self.hub.url}/user/{owner}/{name + '/' if name else ''}{path}"
        try:
            async with asyncio.timeout(timeout):
                async with self.hub.http.get(url, headers=self.hub.headers(), allow_redirects=False) as answer:
                    return answer.status, await answer.text()
        except (OSError, TimeoutError, RuntimeError):
            return 0, ""
        except aiohttp.ClientError as exc:
            return 0, repr(exc)

    async def routed(self, owner: str, name: str = "") -> str | None:
        """Return where the proxy sends the requests of a server, by its own table; None: it has no route."""
        environment = self.hub.environment
        url = f"http://127.0.0.1:{environment['AGENTFARM_PROXY_API_PORT']}/api/routes"
        headers = {"Authorization": f"token {environment['CONFIGPROXY_AUTH_TOKEN']}"}
        async with self.hub.http.get(url, headers=headers) as answer:
            routes = await answer.json()
        route = routes.get(f"/user/{owner}/{name}".rstrip("/"))
        return None if route is None else str(route["target"])

    # ---- what is there in truth ---------------------------------------------------------------------------------

    def servers(self) -> list[ServerProcess]:
        """Return the servers' own processes on all nodes, read from /proc."""
        spaces = {}
        for node in self.nodes:
            with suppress(OSError):  # it is off
                spaces[str(Path(f"/proc/{node.init}/ns/pid").readlink())] = node.name
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError, KeyError, IndexError):
                    found[int(entry.name)] = _read_server(entry, spaces)
        of_servers = {pid: server for pid, (server, _) in found.items() if server is not None}
        return [of for pid, of in of_servers.items() if not _is_child(found[pid][1], of, of_servers)]

    async def server_tokens(self, owner: str) -> list[dict[str, Any]]:
        """Return the API tokens of the user's servers."""
        _, body = await self.hub.api("GET", f"/users/{owner}/tokens")
        return [token for token in body["api_tokens"] if token["note"].startswith("Server at")]

    async def outcome(self, owner: str, name: str = "") -> str:
        """Return "running" or "nothing" when Hub, proxy, leases and processes agree on it; otherwise what is not so."""
        model = await self.hub.model(owner, name)
        leases = [x for x in await self.hub.farm.leases() if (x.owner, x.server_name) == (owner, name) and x.alive]
        servers = [found for found in self.servers() if (found.owner, found.name) == (owner, name)]
        route = await self.routed(owner, name)
        if model is not None and model["ready"]:
            if len(leases) != 1 or len(servers) != 1 or leases[0].id != servers[0].lease or route is None:
                return f"ready, but {leases}, {servers}, route {route}"
            return "running" if leases[0].state == "running" else f"ready, but the lease is {leases[0].state}"
        if model is not None and model["pending"]:
            return f"pending {model['pending']}; {[lease.state for lease in leases]}"
        left = [found for found in (leases, servers, route, await self.server_tokens(owner)) if found]
        return f"not running, but {left}" if left else "nothing"

    async def settled(self, *owners: str, timeout: float = 30) -> dict[str, str]:
        """Wait until nothing of these users is an orphan; return for each "running" or "nothing"."""
        results: dict[str, str] = {}

        async def agreed() -> bool:
            for owner in owners:
                try:
                    results[owner] = await self.outcome(owner)
                except (AgentFarmError, aiohttp.ClientError) as exc:  # a Hub or a controller that is being started
                    results[owner] = repr(exc)
                    return False
            return all(found in ("running", "nothing") for found in results.values())

        try:
            await eventually(agreed, "no orphans", timeout, interval=0.1)
        except AssertionError:
            bad = {owner: found for owner, found in results.items() if found not in ("running", "nothing")}
            raise AssertionError(f"not within {timeout} s without orphans: {bad}") from None
        return results

    async def empty(self) -> None:
        """Stop every server and wait until nothing is left, as between two tests."""
        self.points.go()
        _, users = await self.hub.api("GET", "/users")
        stops = [
            self.hub.api("DELETE", f"/users/{user['name']}/servers/{name}" if name else f"/users/{user['name']}/server")
            for user in users
            for name in user["servers"]
        ]
        await asyncio.gather(*stops)
        for lease in await self.hub.farm.leases():
            with suppress(Exception):
                await self.hub.farm.release(lease.id, 0)

        async def nothing() -> bool:
            with suppress(AgentFarmError):
                return not (await self.hub.farm.leases() or self.servers())
            return False

        await eventually(nothing, "the farm is empty", 30, interval=0.1)

    async def mend(self) -> None:
        """Undo every fault of nodes and Hub that a test which failed has left, and empty the farm.

        A full disk, a missing interpreter and a wrong host key are the test's own to undo.
        """
        self.points.go()
        if self.hub.process is None or self.hub.process.returncode is not None:
            await self.hub.start()
        for node in self.nodes:
            if node.process is None:
                await asyncio.to_thread(faults.power_on, node)
            for undo in (faults.thaw, faults.undrop, faults.heal):
                await asyncio.to_thread(undo, node)
        await self.status_is("ready", timeout=60)
        for node in self.nodes:
            await self.hub.farm.uncordon(node.name)
        await self.ready()
        await self.empty()


def _read_server(entry: Path, spaces: dict[str, str]) -> tuple[ServerProcess | None, int]:
    """Return the process as a part of a server, if it is one, and its parent."""
    stat = (entry / "stat").read_text().rpartition(")")[2].split()
    node = spaces.get(str((entry / "ns" / "pid").readlink()))
    pairs = (part.partition(b"=") for part in (entry / "environ").read_bytes().split(b"\0"))
    environ = {key.decode(): value.decode(errors="replace") for key, _, value in pairs}
    if node is None or stat[0] == "Z" or "AGENTFARM_LEASE_ID" not in environ:
        return None, int(stat[1])
    owner, name = environ.get("JUPYTERHUB_USER", "?"), environ.get("JUPYTERHUB_SERVER_NAME", "")
    return ServerProcess(node, owner, name, environ["AGENTFARM_LEASE_ID"], int(entry.name)), int(stat[1])


def _is_child(parent: int, server: ServerProcess, servers: dict[int, ServerProcess]) -> bool:
    return parent in servers and servers[parent].lease == server.lease


@asynccontextmanager
async def fault_farm(
    count: int = 4,
    gpus: int = 4,
    settings: dict[str, dict[str, Any]] | None = None,
    hold: Iterable[str] = (),
    services: str = "agentfarm",
    gpu_servers: int = 0,
) -> AsyncIterator[FaultFarm]:
    """Run a farm whose nodes are all ready.

    Parameters
    ----------
    count, gpus
        Number of nodes, and of simulated GPUs on each.
    settings
        Options of the Hub's configuration, ``{"Inventory": {"down_after": 5}}``.
    hold
        Names of nodes that the Hub is not told of.
    services
        The farm's services that the Hub has.
    gpu_servers
        How many of the nodes, the last ones, are GPU servers.
    """
    manager = netns_farm(count, gpus, separate=True, disk_bytes=DISK_BYTES)
    net = await asyncio.to_thread(manager.__enter__)
    try:
        for node in net.nodes[count - gpu_servers :]:
            node.role = "gpuserver"
        points = Points(net.nodes[0].directory.parent / "points")
        path = ":".join(filter(None, (str(HERE / "hooks"), os.environ.get("PYTHONPATH"))))
        hooks = {"PYTHONPATH": path, "FAULTS_POINTS": str(points.directory)}
        for node in net.nodes:
            node.noded_environment = hooks | {"FAULTS_CLOCK": f"{points.directory}/clock@{node.name}"}
            node.write_pythons()
        environment = hooks | {
            "FAULTS_CLOCK": f"{points.directory}/clock@hub",
            "AGENTFARM_HUB_IP": net.hub_address,
            "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(16),
            "FAULTS_DIRECTORY": str(HERE),
            "AGENTFARM_SERVICES": services,
            "FAULTS_SETTINGS": json.dumps({"Inventory": {"down_after": DOWN_AFTER_SECONDS}} | (settings or {})),
        }
        specs = [node.spec for node in net.nodes if node.name not in set(hold)]
        async with hub_process(specs, kind=FaultHub, **environment) as hub:
            assert isinstance(hub, FaultHub)
            farm = FaultFarm(net, hub, points)
            await farm.ready(*(spec.name for spec in specs))
            yield farm
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
