"""internal_ssl with everything real: Hub, proxy, services, SSH, noded, single-user servers, kernels, over TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import ssl
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest
import pytest_asyncio
from configured_hub import configured
from cryptography import x509
from hub_process import HubProcess, hub_process
from mcp_client import mcp_session
from ssh_node import ssh_node
from tasks_hub import LINES, TasksHub
from waiting import eventually

from jupyterhub_agentfarm.benchmark.client import BenchmarkClient
from jupyterhub_agentfarm.benchmark.models import GOING
from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.services import tls

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

NODE = "127.0.0.13"
FILES = ("server.key", "server.crt", "ca.crt")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub() -> AsyncIterator[HubProcess]:
    """Run a Hub with internal_ssl, all services and one node of two simulated GPUs."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(ssh_node("n1", NODE, sys.executable, 2))
        # The Hub is called at an address that JupyterHub's own certificate for it does not name by itself.
        environment = {
            "AGENTFARM_INTERNAL_SSL": "1",
            "AGENTFARM_SERVICES": "agentfarm,benchmark,agents",
            "AGENTFARM_HUB_IP": "127.0.0.5",
        }
        spec = dataclasses.replace(node.spec, noded_args=("--NodedApp.warm_servers=True",))
        found = await stack.enter_async_context(hub_process([spec], kind=configured(LINES), **environment))

        async def ready() -> bool:
            return any(node["eligible"] for node in await found.farm.nodes())

        await eventually(ready, "the node is eligible", timeout=60, interval=0.1)
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agents(hub: HubProcess) -> TasksHub:
    """The Hub's agents service, and the agent `bot`."""
    site = TasksHub(hub, {})
    await hub.add_user("owner")
    await eventually(site.answers, "the agents service answers", 30, 0.1)
    await site.register("bot", owner="owner")
    return site


async def lease_of(hub: HubProcess, user: str, name: str = "") -> Lease:
    """Return the lease of a server."""
    found = [lease for lease in await hub.farm.leases() if (lease.owner, lease.server_name) == (user, name)]
    assert len(found) == 1, found
    return found[0]


def directory_of(lease: Lease) -> Path:
    """Return the server's directory on the node."""
    assert lease.server is not None
    return Path(psutil.Process(lease.server.pid).environ()["AGENTFARM_SERVER_DIR"])


def certs_dir(hub: HubProcess) -> Path:
    """Return where the Hub keeps its certificates."""
    return hub.directory / "internal-ssl"


def service_url(hub: HubProcess, name: str) -> str:
    """Return where a service listens, past the proxy."""
    return str(json.loads((hub.directory / "run" / f"{name}.json").read_text())["url"])


async def status_of(url: str, context: ssl.SSLContext) -> int:
    """Return the status of one request."""
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as answer:
        return answer.status


def alternative_names(path: Path) -> list[str]:
    """Return the names that a certificate is for."""
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


async def test_two_servers_of_one_user(hub: HubProcess) -> None:
    """Each has a key of its own, 0600 and for its node's address, runs cells over TLS, and leaves nothing behind."""
    await hub.add_user("ada")
    await asyncio.gather(hub.start_server("ada"), hub.start_server("ada", name="second"))
    leases = {name: await lease_of(hub, "ada", name) for name in ("", "second")}
    folders = {name: directory_of(lease) for name, lease in leases.items()}
    for name, lease in leases.items():
        assert str(lease.url).startswith(f"https://{NODE}:")
        assert alternative_names(folders[name] / "server.crt") == [NODE]
        assert stat.S_IMODE(folders[name].stat().st_mode) == 0o700
        assert {stat.S_IMODE((folders[name] / file).stat().st_mode) for file in FILES} == {0o600}
        printed = await hub.run_cell("ada", "import os; print(os.environ['JUPYTERHUB_SSL_KEYFILE'])", name)
        assert printed.strip() == str(folders[name] / "server.key")
    keys = {name: (folder / "server.key").read_text() for name, folder in folders.items()}
    assert keys[""] != keys["second"]
    on_the_hub = [path for path in certs_dir(hub).rglob("*") if path.is_file()]
    assert not any(key in path.read_text() for key in keys.values() for path in on_the_hub)
    assert not any(key[40:80] in hub.log_text() for key in keys.values())
    assert not (certs_dir(hub) / "user-ada").exists()

    await hub.stop_server("ada", "second")
    assert not folders["second"].exists()
    assert folders[""].exists()
    await hub.stop_server("ada")
    assert not folders[""].exists()


async def test_only_the_hub_and_its_proxy_get_in(hub: HubProcess) -> None:
    """Without a certificate, and with that of another user's server, the handshake fails; the Hub gets through."""
    for user in ("bob", "eve"):
        await hub.add_user(user)
        await hub.start_server(user)
    lease = await lease_of(hub, "bob")
    api = f"{lease.url}/user/bob/api"
    assert await status_of(api, tls.of_hub(certs_dir(hub)).client()) == 200

    nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nameless.load_verify_locations(certs_dir(hub) / "hub-ca_trust.crt")
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await status_of(api, nameless)

    evil = directory_of(await lease_of(hub, "eve"))
    neighbour = tls.Certificates(evil / "server.key", evil / "server.crt", certs_dir(hub) / "hub-ca_trust.crt").client()
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await status_of(api, neighbour)
    for service in ("agentfarm", "agents"):
        url = service_url(hub, service)
        assert urlsplit(url).scheme == "https"
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await status_of(url, neighbour)
    with pytest.raises((aiohttp.ClientError, OSError)):
        await hub.http.get(api.replace("https:", "http:"))
    for user in ("bob", "eve"):
        await hub.stop_server(user)


async def reached(hub: HubProcess, user: str) -> bool:
    """Return whether the proxy leads to a user's server, and not to the Hub."""
    async with hub.http.get(f"{hub.url}/user/{user}/api", headers=hub.headers(), allow_redirects=False) as answer:
        return answer.status == 200


async def test_a_restarted_hub_finds_its_server(hub: HubProcess) -> None:
    """After a SIGKILL in the middle of a start both servers are there, reached by https, usable and stoppable."""
    for user in ("cy", "dan"):
        await hub.add_user(user)
    await hub.start_server("cy")
    await hub.request_server("dan")

    async def launched() -> bool:
        return any(lease.owner == "dan" and lease.url for lease in await hub.farm.leases())

    await eventually(launched, "dan's server is launched", timeout=30)
    before = {user: (await lease_of(hub, user)).id for user in ("cy", "dan")}
    await hub.kill()
    await hub.start()
    for user in ("cy", "dan"):
        await hub.ready(user)
        # A Hub that found a server calls it ready a moment before it has told the proxy.
        await eventually(partial(reached, hub, user), f"{user}'s server is reached through the proxy", timeout=30)
        assert (await hub.run_cell(user, "print(6 * 7)")).strip() == "42"
    assert {user: (await lease_of(hub, user)).id for user in ("cy", "dan")} == before
    folders = [directory_of(await lease_of(hub, user)) for user in ("cy", "dan")]
    for user in ("cy", "dan"):
        await hub.stop_server(user)
    await eventually(lambda: not any(folder.exists() for folder in folders), "their directories are gone")


async def test_the_benchmark_service_runs_a_suite(hub: HubProcess) -> None:
    """The service reaches the Hub and the controller, starts its server, and a local client follows over TLS."""
    client = BenchmarkClient(runtime_dir=str(hub.directory / "run"))
    try:
        assert client.url.startswith("https://")
        run = await client.start("smoke")

        async def over() -> Any:
            found = await client.run(run["id"])
            return found if found["state"] not in GOING else None

        found = await eventually(over, "the run has ended", timeout=200, interval=0.5)
    finally:
        await client.aclose()
    assert found["state"] == "completed", found


async def test_the_agents_service_has_a_task_executed(hub: HubProcess, agents: TasksHub) -> None:
    """A task goes from its submission to its completion, in a server that is reached by TLS; so does its notebook."""
    task = await agents.submit("bot", "import os; print(os.environ['JUPYTERHUB_SSL_KEYFILE'])")
    view = await agents.ended(task)
    assert (view["state"], view["attempt"]) == ("completed", 1), view
    notebook = await agents.request("GET", f"tasks/{task}/notebook", agent="bot")
    assert notebook["cells"][0]["outputs"][0]["text"].strip().endswith("server.key")


async def test_a_killed_agents_service_goes_on(agents: TasksHub, tmp_path: Path) -> None:
    """A service that is killed while a task executes finds the task's server again, by its own new connections."""
    go = tmp_path / "go"
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.02)"
    task = await agents.submit("bot", wait)
    run = (await agents.running(task))["attempts"][0]["run_id"]
    await agents.kill_service()
    go.touch()
    view = await agents.ended(task)
    assert (view["state"], view["attempt"], view["attempts"][0]["run_id"]) == ("completed", 1, run), view


async def test_an_agent_calls_by_mcp(hub: HubProcess, agents: TasksHub) -> None:
    """The SDK's own client starts a server, executes code in it, writes a file, and has a task executed."""
    async with mcp_session(f"{hub.url}/services/agents/mcp", agents.tokens["bot"]) as mcp:
        started = await mcp.data("start_server", wait_seconds=100)
        assert started["state"] == "running", started
        assert (await mcp.code("print(6 * 7)"))["output"] == "42\n"
        assert (await mcp.code("6 * 8"))["output"] == "48\n"
        await mcp.data("write_file", path="told.txt", content="over TLS")
        assert (await mcp.data("read_file", path="told.txt"))["content"] == "over TLS"
        task = await mcp.data("submit_task", cells=["1 + 1"])
        ended = await mcp.data("get_task", task_id=task["task_id"], wait=60)
        assert (ended["state"], ended["output"]) == ("completed", "[cell 0]\n2\n"), ended
        await mcp.data("stop_server")


async def test_pages_come_through_the_proxy(hub: HubProcess) -> None:
    """The proxy reaches all services by https, and browsers get their pages by what the proxy listens on."""
    for service in ("agentfarm", "benchmark", "agents"):
        async with hub.http.get(f"{hub.url}/services/{service}/", headers=hub.headers()) as answer:
            assert answer.status == 200, await answer.text()
    assert "plain HTTP" not in hub.log_text()
    assert shutil.which("configurable-http-proxy") or "node" in hub.environment["AGENTFARM_PROXY_COMMAND"]


async def test_a_server_that_was_forked_is_as_safe(hub: HubProcess) -> None:
    """A warm start reads keys and certificates of its own server: they are not what the process before it had."""

    async def starts() -> Any:
        return (await hub.farm.node("n1"))["telemetry"]["warm_starts"]

    async def warm() -> bool:
        return bool((await starts())["state"] == "warm")

    await hub.add_user("hal")
    await hub.start_server("hal")  # the first start on a node has its environment warmed
    await eventually(warm, "the node is warm", timeout=200, interval=0.5)
    before = (await starts())["warm"]
    for user in ("fay", "gil"):
        await hub.add_user(user)
        await hub.start_server(user)
        printed = await hub.run_cell(user, "import os; print(os.environ['JUPYTERHUB_SSL_KEYFILE'])")
        assert printed.strip() == str(directory_of(await lease_of(hub, user)) / "server.key")

    async def counted() -> bool:
        return bool((await starts())["warm"] >= before + 2)

    await eventually(counted, "both were started warm", timeout=20, interval=0.2)
    lease = await lease_of(hub, "fay")
    folder = directory_of(await lease_of(hub, "gil"))
    trust = certs_dir(hub) / "hub-ca_trust.crt"
    neighbour = tls.Certificates(folder / "server.key", folder / "server.crt", trust).client()
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await status_of(f"{lease.url}/user/fay/api", neighbour)
    assert await status_of(f"{lease.url}/user/fay/api", tls.of_hub(certs_dir(hub)).client()) == 200
