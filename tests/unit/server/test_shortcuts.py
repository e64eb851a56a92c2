"""What a server leaves out when it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jupyterhub_agentfarm.server.shortcuts import DEFAULT, configuration, shortcuts

#: Takes the shortcuts, and says what has come of it.
TAKES = """
import json, os, sys
from jupyterhub_agentfarm.server.shortcuts import take
take()
import jupyterlab.labapp
from jsonschema import FormatChecker
print(json.dumps(["iri" in FormatChecker.checkers, os.environ["PATH"]]))
"""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A `node` that leaves a mark when it is run."""
    program = tmp_path / "bin" / "node"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'was-run'}\n")
    program.chmod(0o755)
    return program


def taken(node: Path, *names: str) -> tuple[bool, bool]:
    """Return whether IRIs are checked and whether Node.js was run, with these shortcuts."""
    path = f"{node.parent}:{os.environ['PATH']}"
    variables = {"PATH": path, "HOME": str(node.parents[1]), "AGENTFARM_SHORTCUTS": ",".join(names)}
    done = subprocess.run([sys.executable, "-c", TAKES], env=variables, check=True, capture_output=True, timeout=100)
    iri, after = json.loads(done.stdout)
    assert after == path
    return iri, (node.parents[1] / "was-run").exists()


@pytest.mark.timeout(200)
def test_each_leaves_out_what_it_says_and_nothing_else(node: Path) -> None:
    """With `iri` no IRIs are checked, with `yarn` no Node.js is run; the path is as before in any case."""
    assert taken(node, "iri", "yarn") == (False, False)
    assert taken(node, "none") == (True, True)


def test_what_is_left_out_by_default_and_by_order() -> None:
    """The variable names others; the extension manager stays unless it is named."""
    assert shortcuts({}) == DEFAULT == {"iri", "yarn"}
    assert shortcuts({"AGENTFARM_SHORTCUTS": "none"}) == {"none"}
    assert shortcuts({"AGENTFARM_SHORTCUTS": "extensions, iri"}) == {"extensions", "iri"}
    assert configuration() == {}


def test_a_users_file_that_is_called_as_a_module_breaks_nothing(tmp_path: Path) -> None:
    """The server imports nothing from the directory that it starts in, as jupyterhub-singleuser."""
    (tmp_path / "jupyter_server.py").write_text("raise SystemExit('imported from the home')")
    command = [sys.executable, "-m", "jupyterhub_agentfarm.server", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert "imported from the home" not in done.stderr
    assert done.returncode == 0, done.stderr
