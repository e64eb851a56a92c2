"""A service that cannot start says why in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = [
    ("c.PlacementPolicy.weights = {'cpus': 2}", "PlacementPolicy.weights must name scorers"),
    ("c.Inventory.nodes = [{'name': 'a'}]", "Inventory.nodes[0].host must be given"),
    ("c.ControllerApp.db_url = 'mysql://x'", "ControllerApp.db_url must be a URL"),
    ("c.ControllerApp.service_url = 'http://192.0.2.1:1'", "ServiceApp.service_url http://192.0.2.1:1 cannot be"),
]


@pytest.mark.parametrize(("line", "message"), CASES)
def test_bad_configuration(tmp_path: Path, line: str, message: str) -> None:
    """Exit status 1 and one line that names the option, no traceback."""
    (tmp_path / "jupyterhub_config.py").write_text(line)
    command = [sys.executable, "-m", "jupyterhub_agentfarm.controller", f"--runtime-dir={tmp_path / 'run'}"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("agentfarm: ")
    assert message in last
    assert "Traceback" not in ended.stderr
