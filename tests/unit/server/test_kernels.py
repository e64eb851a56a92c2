"""The kernels of an environment, found as Jupyter finds them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from jupyterhub_agentfarm.models import Kernel
from jupyterhub_agentfarm.records import from_json
from jupyterhub_agentfarm.server.kernels import kernels


def kernelspec(folder: Path, name: str, **spec: object) -> None:
    """Write a kernelspec."""
    made = folder / "kernels" / name
    made.mkdir(parents=True)
    content = {"argv": ["true", "{connection_file}"], "display_name": name.upper(), "language": "x"} | spec
    (made / "kernel.json").write_text(json.dumps(content))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Give an account's own folder and one that is searched first, both with kernelspecs."""
    own, first = tmp_path / "own", tmp_path / "first"
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(own))
    monkeypatch.setenv("JUPYTER_PATH", str(first))
    kernelspec(own, "mine")
    kernelspec(own, "both", display_name="The account's")
    kernelspec(first, "both", display_name="The first")
    kernelspec(first, "Julia-1.10", language="julia")
    kernelspec(first, "no name")
    (first / "kernels" / "empty").mkdir()
    (first / "kernels" / "a-file").touch()
    return own, first


def test_what_jupyter_finds(folders: tuple[Path, Path]) -> None:
    """Names and words are those that jupyter_client's own manager finds; the first folder of a name counts."""
    with pytest.warns(UserWarning, match="Invalid kernelspec directory name"):
        specs = {name: found["spec"] for name, found in KernelSpecManager().get_all_specs().items()}
    found = {each.name: each for each in kernels()}
    assert {"mine", "both", "julia-1.10", "python3"} <= found.keys()
    assert found.keys() == specs.keys() - {"no name"}  # which no request can name
    for name, kernel in found.items():
        assert (kernel.language, kernel.display_name) == (specs[name]["language"], specs[name]["display_name"])
    assert found["both"].display_name == "The first"


def test_a_broken_kernelspec_is_none(folders: tuple[Path, Path]) -> None:
    """One that is no JSON object is left out; the others are found."""
    for number, content in enumerate(("{", "[]", '"text"')):
        kernelspec(folders[1], f"broken-{number}")
        (folders[1] / "kernels" / f"broken-{number}" / "kernel.json").write_text(content)
    assert not [each for each in kernels() if each.name.startswith("broken")]
    assert "julia-1.10" in {each.name for each in kernels()}


def test_as_a_program(folders: tuple[Path, Path]) -> None:
    """It prints one line; with --shared the account's own are left out."""
    command = [sys.executable, "-m", "jupyterhub_agentfarm.server.kernels"]
    for options, mine in (([], True), (["--shared"], False)):
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=30, check=True)
        (line,) = done.stdout.splitlines()
        found = [from_json(Kernel, each) for each in json.loads(line)]
        assert ("mine" in {each.name for each in found}) == mine
        assert "julia-1.10" in {each.name for each in found}
