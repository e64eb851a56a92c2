"""Kernels of nodes: each node tells its own, and a request that names one goes where it is."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from controllers import Controller, controller, gpu_nodes, ready
from node_records import request
from waiting import eventually

from jupyterhub_agentfarm.controller import kernels
from jupyterhub_agentfarm.controller.launching import kernels_command
from jupyterhub_agentfarm.errors import PlacementRefused
from jupyterhub_agentfarm.isolation import Isolation
from jupyterhub_agentfarm.models import NodeSpec


def kernelspec(folder: Path, name: str) -> None:
    """Write a kernelspec."""
    made = folder / "kernels" / name
    made.mkdir(parents=True)
    (made / "kernel.json").write_text(json.dumps({"argv": ["true"], "display_name": name, "language": "x"}))


def python_with(folder: Path) -> str:
    """Return a program that is Python with the kernelspecs of a folder beside its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nJUPYTER_PATH="{folder}" exec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


async def names_of(farm: Controller, node: str) -> set[str] | None:
    """Return the names of a node's kernels as the API shows them; None: not known."""
    known = (await farm.client.node(node))["kernels"]
    return None if known is None else {each["name"] for each in known}


async def told(farm: Controller, node: str, name: str = "python3") -> None:
    """Wait until a node has told that it has a kernel."""

    async def known() -> bool:
        return name in (await names_of(farm, node) or ())

    await eventually(known, f"{node} has {name}", timeout=20)


async def test_a_request_goes_where_its_kernel_is(tmp_path: Path) -> None:
    """The node with the kernel is chosen each time; a kernel that none has is refused with what there is."""
    kernelspec(tmp_path / "b", "zig")
    async with gpu_nodes("a", "b") as nodes:
        nodes[1].spec = replace(nodes[1].spec, server_python=python_with(tmp_path / "b"))
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 2)
            await told(farm, "a")
            await told(farm, "b", "zig")
            assert "zig" not in (await names_of(farm, "a") or ())
            leases = [await farm.client.place(request("ada", str(each), kernel="zig")) for each in range(3)]
            assert {lease.node for lease in leases} == {"b"}
            assert leases[0].why is not None
            assert leases[0].why.refusals == {"kernel": 1}
            with pytest.raises(PlacementRefused) as refused:
                await farm.client.place(request("bob", kernel="cobol"))
            assert "has no kernel cobol, it has" in refused.value.refusals["a"]
            assert "zig" in refused.value.refusals["b"]
            assert refused.value.message.startswith("No node of this farm can ever serve this request (a: has no")


async def test_a_node_that_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels are unknown, with the reason: who names one waits, who names none is served; it is asked again."""
    monkeypatch.setattr(kernels, "AGAIN_SECONDS", 0.2)
    python = tmp_path / "b" / "python"
    kernelspec(tmp_path / "b", "zig")
    python_with(tmp_path / "b")
    shutil.move(python, tmp_path / "real")
    async with gpu_nodes("b") as nodes:
        nodes[0].spec = replace(nodes[0].spec, server_python=str(python))
        async with controller(tmp_path, *nodes) as farm:
            await ready(farm, 1)

            async def failed() -> str:
                return str((await farm.client.node("b"))["kernels_error"])

            assert "ended with status" in await eventually(failed, "it is known that b cannot tell", timeout=20)
            assert (await farm.client.node("b"))["kernels"] is None
            assert (await farm.client.place(request("bob"))).state == "granted"
            waits = await farm.client.place(request("ada", kernel="zig"))
            assert (waits.state, waits.detail[:30]) == ("waiting", "b: has not told its kernels ye")
            shutil.move(tmp_path / "real", python)

            async def granted() -> bool:
                return (await farm.client.lease(waits.id)).state == "granted"

            await eventually(granted, "it is granted once b has told", timeout=20)
            assert (await farm.client.node("b"))["kernels_error"] == ""


async def test_a_kernel_that_is_installed_or_removed_later(tmp_path: Path) -> None:
    """What changes on a node shows after `Farm.kernels_interval`; a restart of noded or controller loses nothing."""
    config: Any = {"Farm": {"kernels_interval": 0.2}}
    async with gpu_nodes("b") as nodes:
        nodes[0].spec = replace(nodes[0].spec, server_python=python_with(tmp_path / "b"))
        async with controller(tmp_path, *nodes, config=config) as farm:
            await ready(farm, 1)
            await told(farm, "b")
            kernelspec(tmp_path / "b", "zig")
            await told(farm, "b", "zig")
            nodes[0].kill_noded()
            await told(farm, "b", "zig")  # what was known counts meanwhile
        async with controller(tmp_path, *nodes, config=config) as farm:
            await told(farm, "b", "zig")
            shutil.rmtree(tmp_path / "b" / "kernels" / "zig")

            async def gone() -> bool:
                return "zig" not in (await names_of(farm, "b") or {"zig"})

            await eventually(gone, "b has no zig any more", timeout=20)


@pytest.mark.parametrize(
    ("isolation", "shared"),
    [
        (Isolation(), False),
        (Isolation("{username}"), True),
        (Isolation(sandbox="bubblewrap"), True),
        (Isolation(sandbox="container", image="lab:1"), True),
    ],
)
def test_the_accounts_own_kernels_count_where_servers_run_as_it(isolation: Isolation, shared: bool) -> None:
    """Servers with another account or home do not see them; in a container the image is asked."""
    command = kernels_command(NodeSpec("gpu01", "10.0.0.1", server_python="/opt/python"), isolation)
    assert ("--shared" in command) == shared
    inside = ["/opt/python", "-m", "jupyterhub_agentfarm.server.kernels", *(["--shared"] if shared else [])]
    assert command[-len(inside) :] == inside
    assert (command[0] == "docker") == (isolation.image is not None)
