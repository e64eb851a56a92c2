"""A project's workspace on a real Hub: people and an agent share it, another user does not, and membership counts."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from configured_hub import configured
from hub_process import HubProcess, hub_process
from ssh_node import ssh_node
from waiting import eventually

from jupyterhub_agentfarm.isolation import Isolation

pytestmark = [
    pytest.mark.hub,
    pytest.mark.skipif(os.geteuid() != 0, reason="hub: only root can make accounts and switch to them"),
]

USERS = ("ada", "scout", "cy")
NOBODY = 65534
SITE = """
c.AgentFarmSpawner.projects = {"quant"}
c.JupyterHub.load_groups = {"quant": {"users": []}}
c.Spawner.args = []
"""
LOOKS = """
import os
try:
    print(open("%s/quant/result.txt").read(), end="|")
except OSError as exc:
    print(exc.strerror, end="|")
print(os.environ.get("AGENTFARM_PROJECTS"), os.path.exists(os.path.expanduser("~/projects/quant")))
"""


class AtHome(configured(SITE)):  # type: ignore[misc]
    """A Hub whose servers have the homes of their accounts."""

    def command(self) -> list[str]:
        """Return the Hub's program and arguments."""
        return [word for word in super().command() if not word.startswith("--Spawner.environment=HOME=")]


@dataclasses.dataclass
class Place:
    """Where the accounts of a test are, and their projects."""

    root: Path
    mark: str
    python: str


@pytest.fixture
def place() -> Iterator[Place]:
    """A directory for projects and a Python that every account can use; accounts and group are gone after the test."""
    root = Path(tempfile.mkdtemp(prefix="afp", dir="/srv" if os.access("/srv", os.W_OK) else None))
    root.chmod(0o755)
    (root / "projects").mkdir()
    mark = f"af{secrets.token_hex(3)}"
    try:
        yield Place(root / "projects", mark, public_python(root))
    finally:
        for user in USERS:
            subprocess.run(["/usr/sbin/userdel", "--remove", f"{mark}-{user}"], capture_output=True, check=False)
        subprocess.run(["/usr/sbin/groupdel", f"{mark}-quant"], capture_output=True, check=False)
        shutil.rmtree(root)


def public_python(folder: Path) -> str:
    """Return a program that any account can run servers with; skip the test where there is none."""
    packages = ":".join(path for path in sys.path if path.startswith("/"))
    path = folder / "python3"
    for line in (f'exec "{sys.executable}" "$@"', f'PYTHONPATH="{packages}" exec /usr/bin/python3 "$@"'):
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
        command = [str(path), "-c", "import jupyterhub_agentfarm.server.app, ipykernel.kernelapp"]
        done = subprocess.run(command, user=NOBODY, cwd="/", capture_output=True, check=False, env={"HOME": "/"})
        if done.returncode == 0:
            return str(path)
    return pytest.skip("hub: no Python with the tests' packages that other accounts can use")


@pytest.fixture
async def hub(place: Place) -> AsyncIterator[HubProcess]:
    """Run a Hub with a node that has accounts and projects."""
    isolation = Isolation(
        account=f"{place.mark}-{{username}}",
        create_accounts=True,
        projects=str(place.root),
        project_group=f"{place.mark}-{{project}}",
    )
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(ssh_node("n1", "127.0.0.11", sys.executable))
        spec = dataclasses.replace(node.spec, server_python=place.python, isolation=isolation)
        found = await stack.enter_async_context(hub_process([spec], kind=AtHome))

        async def ready() -> bool:
            return all(each["eligible"] for each in await found.farm.nodes())

        await eventually(ready, "the node is eligible", timeout=60, interval=0.1)
        yield found


async def membership(hub: HubProcess, method: str, *users: str) -> None:
    """Put users into the project's group, or take them out."""
    status, body = await hub.api(method, "/groups/quant/users", {"users": users})
    assert status in {200, 204}, body


async def test_people_and_an_agent_share_a_project(hub: HubProcess, place: Place) -> None:
    """One writes, the agent reads and answers, a stranger cannot; new members can, and old ones cannot any more."""
    for user in USERS:
        await hub.add_user(user)
    await membership(hub, "POST", "ada", "scout")
    looks, told = LOOKS % place.root, f"{place.root}/quant"
    for user in USERS:
        await hub.request_server(user)
    for user in USERS:
        await hub.ready(user)
    await hub.run_cell("ada", "open('projects/quant/result.txt', 'w').write('42 from ada')")
    assert await hub.run_cell("scout", looks) == f"42 from ada|{told} True\n"
    await hub.run_cell("scout", "open('projects/quant/result.txt', 'a').write(', seen by scout')")
    assert await hub.run_cell("ada", looks) == f"42 from ada, seen by scout|{told} True\n"
    assert await hub.run_cell("cy", looks) == "Permission denied|None False\n"
    assert (await hub.farm.projects("n1")).names == ("quant",)

    await membership(hub, "POST", "cy")
    await membership(hub, "DELETE", "ada")
    for user in ("ada", "cy"):
        await hub.stop_server(user)
        await hub.start_server(user)
    assert await hub.run_cell("cy", looks) == f"42 from ada, seen by scout|{told} True\n"
    assert await hub.run_cell("ada", looks) == "Permission denied|None False\n"
