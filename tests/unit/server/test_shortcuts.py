"""What a server leaves out when it starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jupyterlab.extensions import MANAGERS

from jupyterhub_agentfarm.server.node_modules import node_roots
from jupyterhub_agentfarm.server.shortcuts import DEFAULT, configuration, shortcuts
from jupyterhub_agentfarm.spawner.spawner import AgentFarmSpawner

#: Takes the shortcuts, and says what has come of it.
TAKES = """
import json, os, sys
from jupyterhub_agentfarm.server.shortcuts import take
take()
import jupyterlab.labapp
from jsonschema import FormatChecker
print(json.dumps(["iri" in FormatChecker.checkers, os.environ["PATH"]]))
"""

LSP = (
    "import json, jupyter_lsp as lsp; print(json.dumps([str(root) for root in lsp.LanguageServerManager().node_roots]))"
)


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
    """The variable names others; the spawner, which does not send its default, has the same one."""
    assert shortcuts({}) == DEFAULT == AgentFarmSpawner().trait_defaults("shortcuts")
    assert shortcuts({"AGENTFARM_SHORTCUTS": "none"}) == {"none"}
    assert shortcuts({"AGENTFARM_SHORTCUTS": "extensions, iri"}) == {"extensions", "iri"}


def test_the_extension_manager_waits_until_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """JupyterLab finds it; it is described as JupyterLab's own, and is that one from the first question on."""
    monkeypatch.setenv("AGENTFARM_SHORTCUTS", "extensions")
    name = configuration()["LabApp"]["extension_manager"]
    manager = MANAGERS[name].load()({}, {}, None)
    usual = MANAGERS["pypi"].load()({}, {}, None)
    assert manager.metadata == usual.metadata
    assert vars(manager).keys() == {"_make"}  # nothing was made so far
    assert manager.get_normalized_name.__func__ is type(usual).get_normalized_name
    assert isinstance(vars(manager)["_manager"], type(usual))
    assert not hasattr(manager, "no_such_thing")


def test_without_its_entry_point_jupyterlabs_own_manager_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that has not got it, of before an upgrade: JupyterLab would not start with its name."""
    monkeypatch.setenv("AGENTFARM_SHORTCUTS", "extensions")
    monkeypatch.delitem(MANAGERS, "agentfarm")
    assert configuration() == {}


@pytest.mark.parametrize(
    ("npmrc", "variables", "prefix"),
    [
        ("", {}, "node"),
        ("", {"NPM_CONFIG_PREFIX": "{home}/of-variable"}, "of-variable"),
        ("registry = x\nprefix = ~/of-file\n", {}, "of-file"),
        ("prefix=${HOME}/of-file", {"npm_config_prefix": ""}, "of-file"),
        ('prefix="{home}/quoted"', {}, "quoted"),
    ],
)
def test_prefixes_of_npm(tmp_path: Path, npmrc: str, variables: dict[str, str], prefix: str) -> None:
    """Its variable, the user's configuration and the folder of Node.js say where its programs are."""
    program = tmp_path / "node" / "bin" / "node"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    (tmp_path / ".npmrc").write_text(npmrc.replace("{home}", str(tmp_path)))
    given = {name: value.format(home=tmp_path) for name, value in variables.items()}
    roots = node_roots({"HOME": str(tmp_path), "PATH": str(program.parent), **given})
    assert roots[4:6] == [str(tmp_path / prefix / "lib"), str(tmp_path / prefix)]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_folders_are_those_that_jupyter_lsp_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same order, with npm's answer among them; jupyter-lsp asks npm only without the shortcut."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGENTFARM_SHORTCUTS", "iri")
    assert "LanguageServerManager" not in configuration()
    monkeypatch.setenv("AGENTFARM_SHORTCUTS", "npm")
    ours = configuration()["LanguageServerManager"]["node_roots"]
    done = subprocess.run([sys.executable, "-c", LSP], cwd=tmp_path, check=True, capture_output=True, timeout=100)
    theirs = json.loads(done.stdout)
    assert set(theirs) <= set(ours)
    assert [root for root in ours if root in theirs] == theirs


def test_a_users_file_that_is_called_as_a_module_breaks_nothing(tmp_path: Path) -> None:
    """The server imports nothing from the directory that it starts in, as jupyterhub-singleuser."""
    (tmp_path / "jupyter_server.py").write_text("raise SystemExit('imported from the home')")
    command = [sys.executable, "-m", "jupyterhub_agentfarm.server", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert "imported from the home" not in done.stderr
    assert done.returncode == 0, done.stderr
