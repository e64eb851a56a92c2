"""Secrets are where they must be and nowhere else: a scan during and after a start, with everything logged at DEBUG.

What may lie where is the table `ALLOWED`. Everything else is a leak: in arguments, in another account's view of the
processes and files, in files of Hub and node, in logs, in answers of the Hub and the controller.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio
from configured_hub import configured
from hub_process import HubProcess, hub_process
from secrets_scan import Allowed, Scan
from ssh_node import SSHNode, ssh_node
from waiting import eventually

from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.noded.directories import root_for

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

LOUD = """
c.JupyterHub.log_level = 10
c.Application.log_level = 10
c.ConfigurableHTTPProxy.debug = True
c.Spawner.debug = True
"""
ALLOWED = (
    Allowed("local token", "*/run/token", "who can read it is the Hub's account; the spawner and admins use it"),
    Allowed("hub's cookie secret", "*/jupyterhub_cookie_secret", "JupyterHub keeps logins over a restart with it"),
    Allowed("server's cookie secret", "*/jupyter/jupyter_cookie_secret", "Jupyter Server's own; gone with the server"),
    Allowed("server's token", "*/jupyter/jpserver-*", "Jupyter Server's note of itself; gone with the server"),
    Allowed("farm's SSH key", "*/id_ed25519", "the key that the farm logs in to the node with"),
    Allowed("node's host key", "*/ssh_host_ed25519_key", "the node's own"),
)


@dataclass
class Story:
    """What was seen, and what must not have been."""

    scan: Scan
    #: What was seen when the server was gone.
    later: Scan
    secrets: dict[str, str]
    leases: list[str]
    status_after: int
    directory: Path
    directory_was_there: bool
    log: str
    noded_log: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story() -> AsyncIterator[Story]:
    """Start, use and stop a server, and look everywhere meanwhile."""
    async with ssh_node("n1", "127.0.0.11", sys.executable, 1) as node:
        node.spec = replace(node.spec, noded_args=("--log-level=DEBUG",))
        async with hub_process([node.spec], kind=configured(LOUD)) as hub:
            yield await told(hub, node)


async def told(hub: HubProcess, node: SSHNode) -> Story:
    """Go through the story."""
    scan, secrets = Scan(), {"admin's token": hub.token}
    roots = [hub.directory, node.directory, root_for(Path(node.spec.state_dir)), Path("/dev/shm")]
    await eventually(lambda: eligible(hub), "the node is eligible", timeout=60, interval=0.1)
    secrets["ada's token"] = await hub.add_user("ada")
    await hub.request_server("ada", {"gpus": 1})
    watching = asyncio.create_task(watch_processes(scan))
    progress = asyncio.create_task(answer(hub, "/hub/api/users/ada/server/progress", hub.token))
    lease = await launched(hub)
    scan.files(roots)
    await hub.ready("ada")
    watching.cancel()
    scan.note("progress", await progress)
    assert (await hub.run_cell("ada", "print(1)")).strip() == "1"
    directory = root_for(Path(node.state_dir)) / lease.id
    secrets |= secrets_of_processes(hub, lease) | secrets_of_files(hub, node, directory)
    await look(hub, scan, lease.id, secrets["ada's token"])
    was_there = directory.is_dir()
    roots += temporary(lease.created_at)
    scan.files(roots)
    scan.files_of_a_stranger(roots)
    await hub.stop_server("ada")
    status, _ = await hub.api("GET", "/user", token=secrets["server's token"])
    await eventually(lambda: not directory.exists(), "the server's directory is gone")
    later = Scan()
    later.files(roots)
    logs = hub.log_text(), noded_log(node)
    return Story(scan, later, secrets, [lease.id], status, directory, was_there, *logs)


def noded_log(node: SSHNode) -> str:
    """Return what noded wrote."""
    return Path(node.state_dir, "noded.log").read_text()


def temporary(since: float) -> list[Path]:
    """Return what Hub or server may have made in the system's temporary directory."""
    result = []
    for path in Path(tempfile.gettempdir()).iterdir():
        with suppress(FileNotFoundError):
            if path.lstat().st_mtime > since - 1 and not path.name.startswith("pytest-"):
                result.append(path)
    return result


async def watch_processes(scan: Scan) -> None:
    """Look at the processes again and again."""
    while True:
        scan.argument_lists()
        await asyncio.to_thread(scan.as_a_stranger)
        await asyncio.sleep(0.1)


async def eligible(hub: HubProcess) -> bool:
    """Whether the node takes servers."""
    return all(node["eligible"] for node in await hub.farm.nodes())


async def launched(hub: HubProcess) -> Lease:
    """Return the lease once its server has a process."""

    async def found() -> Lease | None:
        return next((lease for lease in await hub.farm.leases() if lease.url and lease.server), None)

    lease: Lease = await eventually(found, "the server is launched", timeout=60)
    return lease


def secrets_of_processes(hub: HubProcess, lease: Lease) -> dict[str, str]:
    """Return what the environments of server, controller and proxy have."""
    assert lease.server is not None
    result = {"server's token": psutil.Process(lease.server.pid).environ()["JUPYTERHUB_API_TOKEN"]}
    for process in hub.processes():
        with suppress(psutil.Error):
            environment, command = process.environ(), " ".join(process.cmdline())
            if "jupyterhub_agentfarm.controller" in command:
                result["controller's token"] = environment["JUPYTERHUB_API_TOKEN"]
            if "configurable-http-proxy" in command:
                result["proxy's token"] = environment["CONFIGPROXY_AUTH_TOKEN"]
    return result


def secrets_of_files(hub: HubProcess, node: SSHNode, directory: Path) -> dict[str, str]:
    """Return what the secret files of Hub and node have; of keys, a line from the middle."""
    return {
        "local token": (Path(hub.environment["AGENTFARM_RUNTIME_DIR"]) / "token").read_text().strip(),
        "hub's cookie secret": (hub.directory / "jupyterhub_cookie_secret").read_text().strip(),
        "server's cookie secret": (directory / "jupyter" / "jupyter_cookie_secret").read_text().split()[0],
        "farm's SSH key": (node.directory / "id_ed25519").read_text().splitlines()[-3],
        "node's host key": (node.directory / "sshd" / "ssh_host_ed25519_key").read_text().splitlines()[-3],
    }


async def look(hub: HubProcess, scan: Scan, lease: str, token: str) -> None:
    """Add what Hub and controller answer to admin, user and the local account."""
    local = (Path(hub.environment["AGENTFARM_RUNTIME_DIR"]) / "token").read_text().strip()
    farm = "/services/agentfarm"
    for name, bearer in (("admin", hub.token), ("ada", token), ("local", local)):
        for path in ("/hub/api/users/ada?include_stopped_servers=1", "/hub/api/users", "/hub/api/services"):
            scan.note(f"{path} for {name}", await answer(hub, path, bearer))
        for path in ("leases", f"leases/{lease}", f"leases/{lease}/log", "nodes", "queue", "placement/explain"):
            scan.note(f"{path} for {name}", await answer(hub, f"{farm}/api/v1/{path}", bearer))
        for path in (f"{farm}/", f"{farm}/metrics", "/hub/metrics", "/hub/home", "/user/ada/api/status"):
            scan.note(f"{path} for {name}", await answer(hub, path, bearer))
        scan.note(f"events for {name}", await answer(hub, f"{farm}/api/v1/events", bearer, seconds=1))


async def answer(hub: HubProcess, path: str, token: str, seconds: float = 60) -> str:
    """Return what a GET is answered with, as much as comes in time."""
    text = b""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(seconds), hub.http.get(hub.url + path, headers=hub.headers(token)) as response:
            async for chunk in response.content.iter_any():
                text += chunk
    return text.decode(errors="replace")


async def test_no_secret_is_where_it_must_not_be(story: Story) -> None:
    """Nothing is found but what the table allows, each in a file of mode 0600."""
    assert story.scan.leaks(story.secrets, ALLOWED) == []


async def test_the_scan_sees_what_is_there(story: Story) -> None:
    """The places that may have a secret have it, and the scan saw it there; its sources are not empty."""
    names = {name for name, _ in story.scan.found(story.secrets)}
    assert names == {rule.secret for rule in ALLOWED}
    assert {"server's token", "controller's token", "proxy's token", "ada's token"} <= set(story.secrets)
    (lease,) = story.leases
    for place in ("/hub/api/users/ada?include_stopped_servers=1 for admin", "leases for admin", "events for local"):
        assert lease.encode() in story.scan.seen[place], place
    assert b"AGENTFARM_LEASE_ID" not in story.scan.seen.get("what nobody can read of processes", b"")
    assert b"jupyterhub_agentfarm.server" in story.scan.seen["argv"]
    assert b"The server answers" in story.scan.seen["progress"]


async def test_everything_was_logged_at_debug(story: Story) -> None:
    """The Hub, the controller, noded and the server wrote debug lines, all of which were scanned."""
    assert "[D " in story.log
    assert "DEBUG" in story.noded_log
    assert re.search(r"\[ControllerApp\] 20\d GET .* ms", story.log), story.log[-3000:]


async def test_a_stopped_servers_secrets_are_worth_nothing(story: Story) -> None:
    """After the stop the token is refused, and the server's private directory, which was there, is gone."""
    assert story.status_after == 403
    assert story.later.leaks(story.secrets, ALLOWED) == []
    gone = {"server's token", "server's cookie secret"}
    assert not gone & {name for name, _ in story.later.found(story.secrets)}
    assert story.directory_was_there
    assert not story.directory.exists()
