"""The nodes that a demo has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jupyterhub_agentfarm.demo.app import DemoApp
from jupyterhub_agentfarm.demo.gpus import described
from jupyterhub_agentfarm.demo.layout import NODES, REAL_NODES, DemoNode, Layout


def written(root: Path, nodes: tuple[DemoNode, ...]) -> list[dict[str, object]]:
    """Return the nodes' entries as the Hub reads them."""
    layout = Layout(root, nodes)
    layout.claim()
    try:
        layout.renew()
        layout.write_nodes({node.address: 1000 + number for number, node in enumerate(nodes)}, "ssh-ed25519 A", "py")
        found: list[dict[str, object]] = json.loads(layout.nodes_file.read_text())
        return found
    finally:
        layout.release()


def test_gpus_are_simulated(tmp_path: Path) -> None:
    """Each node of the ordinary demo has GPUs of its own that do not exist."""
    nodes = written(tmp_path / "demo", NODES)
    assert [node["simulated_gpus"] for node in nodes] == [1, 1, 2]
    assert {tuple(node["noded_args"]) for node in nodes} == {("--NodedApp.warm_servers=False",)}  # type: ignore[arg-type]


def test_the_machines_own_gpus(tmp_path: Path) -> None:
    """With them there is one node: no GPU can be leased twice. It simulates none."""
    (node,) = written(tmp_path / "demo", REAL_NODES)
    assert (node["simulated_gpus"], node["role"], node["noded_args"]) == (0, "gpuserver", [])


@pytest.mark.parametrize(("arguments", "real"), [(["--real-gpus"], True), ([], False)])
def test_the_flag(arguments: list[str], real: bool) -> None:
    """It is off unless it is given."""
    app = DemoApp()
    app.parse_command_line(arguments)
    assert app.real_gpus is real


H200 = {"name": "NVIDIA H200", "memory_total_bytes": 150 * 10**9}


@pytest.mark.parametrize(
    ("gpus", "health", "error", "said"),
    [
        ([H200, H200], "ok", None, "GPUs of this machine: 2 x NVIDIA H200, 140 GiB"),
        ([{**H200, "memory_total_bytes": None}], "ok", None, "GPUs of this machine: 1 x NVIDIA H200"),
        ([], "absent", None, "This machine has no NVIDIA GPU, or no driver of one: what is run uses the processor."),
        ([], "failed", "Driver/library version mismatch", "does not answer (Driver/library version mismatch)"),
        ([], "hanging", None, "does not answer (hanging)"),
    ],
)
def test_what_is_said_of_real_gpus(gpus: list[Any], health: str, error: str | None, said: str) -> None:
    """Which there are; or that there are none, and what that means."""
    assert said in described({"gpus": gpus, "gpu_health": health, "gpu_error": error})
