"""R beside Python on a real Hub: a request that names R's kernel goes to the node that has it, and R computes there."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from hub_process import HubProcess, hub_process
from ssh_node import SSHNode, ssh_node
from waiting import eventually

from jupyterhub_agentfarm.models import OwnerLimits
from jupyterhub_agentfarm.runs.client import ServerRuns

pytestmark = [pytest.mark.hub, pytest.mark.rkernel, pytest.mark.asyncio(loop_scope="module")]

#: What a notebook in R leaves: numbers that only R's own functions give, and where it ran.
CELLS = (
    "model <- lm(dist ~ speed, data = cars)",
    "cat(R.version$language, round(coef(model)[['speed']], 4), Sys.getenv('AGENTFARM_NODE_PROBE'), sep = '|')",
)
NOTEBOOK: dict[str, Any] = {
    "cells": [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(CELLS)
    ],
    "metadata": {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}

#: What JupyterLab asks a server for to open a notebook in R.
R_SESSION = {"path": "a.ipynb", "name": "", "type": "notebook", "kernel": {"name": "ir"}}


def server_python(node: SSHNode, *, hidden: bool) -> str:
    """Return a program for a node's servers: Python that says in its environment which node it is.

    With `hidden` it looks for no kernelspecs in the folders of the system, as on a node where R is not installed: all
    nodes of these tests are one machine.
    """
    folder = node.directory / "server"
    folder.mkdir()
    hide = "import jupyter_core.paths as paths\npaths.SYSTEM_JUPYTER_PATH[:] = []\n" if hidden else ""
    (folder / "sitecustomize.py").write_text(hide)
    path = folder / "python"
    environment = f'PYTHONPATH="{folder}" AGENTFARM_NODE_PROBE="{node.spec.name}"'
    path.write_text(f'#!/bin/sh\n{environment} exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub() -> AsyncIterator[HubProcess]:
    """Run a Hub with a node without R, which is the first by name, and one with it."""
    async with AsyncExitStack() as stack:
        nodes = []
        for number, (name, hidden) in enumerate((("plain", True), ("rnode", False))):
            node = await stack.enter_async_context(ssh_node(name, f"127.0.0.{11 + number}", sys.executable))
            nodes.append(replace(node.spec, server_python=server_python(node, hidden=hidden)))
        found = await stack.enter_async_context(hub_process(nodes))

        async def told() -> bool:
            return all(node["eligible"] and node["kernels"] is not None for node in await found.farm.nodes())

        await eventually(told, "both nodes are eligible and have told their kernels", timeout=60, interval=0.1)
        await found.add_user("ada")
        yield found


async def node_of(hub: HubProcess, name: str) -> str | None:
    """Return where ada's server of this name is."""
    return next(lease.node for lease in await hub.farm.leases() if lease.server_name == name)


async def test_each_node_tells_its_own(hub: HubProcess) -> None:
    """R's kernel is there with its language on one node, and not on the other."""
    listed = {
        node["name"]: {each["name"]: each["language"] for each in node["kernels"]} for node in await hub.farm.nodes()
    }
    assert listed["rnode"]["ir"] == "R"
    assert "ir" not in listed["plain"]
    assert listed["plain"]["python3"] == listed["rnode"]["python3"] == "python"


async def test_r_runs_where_it_is(hub: HubProcess) -> None:
    """Servers asked for with R's kernel go to its node, however busy it is; a cell and a notebook run there in R."""
    for name in ("r1", "r2"):
        await hub.start_server("ada", {"kernel": "ir"}, name)
        assert await node_of(hub, name) == "rnode"
    await hub.start_server("ada", {"kernel": "python3"}, "py")
    assert await node_of(hub, "py") == "plain"  # which is idle
    assert await hub.run_cell("ada", CELLS[0] + "\n" + CELLS[1], "r1", "ir") == "R|3.9324|rnode"
    assert (await hub.run_cell("ada", "import os; print(os.environ['AGENTFARM_NODE_PROBE'])", "py")) == "plain\n"

    async def headers() -> dict[str, str]:
        return hub.headers()

    runs = ServerRuns(hub.http, f"{hub.url}/user/ada/r2/", "rnode", headers)
    run = await runs.submit({"notebook": NOTEBOOK})

    async def ended() -> Any:
        found = await runs.get(run["id"])
        return found if found["state"] in ("completed", "failed") else None

    done = await eventually(ended, "the notebook ended", timeout=60)
    assert (done["state"], done["kernel_name"]) == ("completed", "ir"), done
    executed = json.loads(await runs.notebook(run["id"]))
    (output,) = executed["cells"][1]["outputs"]
    assert "".join(output["text"]) == "R|3.9324|rnode"


async def test_a_kernel_that_no_node_has(hub: HubProcess) -> None:
    """The start is refused with 409 and a sentence that says what each node has."""
    status, body = await hub.api("POST", "/users/ada/servers/none", {"kernel": "julia-1.10"})
    assert status == 409, body
    assert "plain: has no kernel julia-1.10, it has python3;" in body["message"]
    assert "rnode: has no kernel julia-1.10, it has ir, python3" in body["message"]


async def test_an_owners_limits_hold_at_the_hub(hub: HubProcess) -> None:
    """Who starts a server straight at the Hub is held to the limits that the controller was told of, in it too."""
    await hub.add_user("helper")
    await hub.farm.set_owner_limits("helper", OwnerLimits(servers=1, kernels=("python3",)))
    status, body = await hub.api("POST", "/users/helper/servers/r", {"kernel": "ir"})
    assert status == 409, body
    assert "helper may not use the kernel ir, only python3." in body["message"]
    await hub.start_server("helper", {"node": "rnode"}, "one")
    base = f"{hub.url}/user/helper/one/api/"
    async with hub.http.post(f"{base}sessions", json=R_SESSION, headers=hub.headers()) as answer:
        assert answer.status == 501, await answer.text()
    async with hub.http.get(f"{base}kernelspecs", headers=hub.headers()) as answer:
        assert list((await answer.json())["kernelspecs"]) == ["python3"]
    assert await hub.request_server("helper", {}, "two") == 202
    (waits,) = [lease for lease in await hub.farm.leases() if lease.server_name == "two"]
    assert waits.detail.startswith("plain: helper may have 1 server and has 1")
    await hub.farm.drop_owner_limits("helper")
    await hub.ready("helper", "two")


async def test_a_node_without_it_by_name(hub: HubProcess) -> None:
    """Node and kernel that contradict each other are refused for the kernel."""
    status, body = await hub.api("POST", "/users/ada/servers/none", {"kernel": "ir", "node": "plain"})
    assert status == 409, body
    assert "plain: has no kernel ir, it has python3" in body["message"]
