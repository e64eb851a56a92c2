"""The nodes that a demo has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jupyterhub_agentfarm.demo.app import DemoApp
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
    assert [node["simulated_gpus"] for node in written(tmp_path / "demo", NODES)] == [1, 1, 2]


def test_the_machines_own_gpus(tmp_path: Path) -> None:
    """With them there is one node: no GPU can be leased twice. It simulates none."""
    (node,) = written(tmp_path / "demo", REAL_NODES)
    assert (node["simulated_gpus"], node["role"]) == (0, "gpuserver")


@pytest.mark.parametrize(("arguments", "real"), [(["--real-gpus"], True), ([], False)])
def test_the_flag(arguments: list[str], real: bool) -> None:
    """It is off unless it is given."""
    app = DemoApp()
    app.parse_command_line(arguments)
    assert app.real_gpus is real
