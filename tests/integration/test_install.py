"""What the built package holds, and what a node needs of it: pip in fresh environments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import eventually

from jupyterhub_agentfarm.noded import procfs

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


def run(*command: str | Path, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a program outside the checkout and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module")
def node_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment in which `pip install .[noded]` was all."""
    folder = tmp_path_factory.mktemp("node")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    run(python, *PIP, "install", f"{ROOT}[noded]", cwd=folder)
    return python


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """A short path for a socket."""
    with tempfile.TemporaryDirectory(prefix="af") as folder:
        yield Path(folder)


async def test_noded_alone_starts(node_python: Path, state_dir: Path) -> None:
    """In that environment `--ensure` starts a daemon that answers."""
    ensure = (node_python, "-m", "jupyterhub_agentfarm.noded", "--ensure", f"--state-dir={state_dir}")
    first = json.loads(run(*ensure, cwd=state_dir).stdout)
    try:
        assert first == {"socket": str(state_dir / "noded.sock"), "pid": first["pid"]}
        assert json.loads(run(*ensure, cwd=state_dir).stdout) == first
    finally:
        os.kill(first["pid"], signal.SIGTERM)
        await eventually(lambda: (found := procfs.read(first["pid"])) is None or found.zombie, "noded ends")


def test_noded_brings_nothing_of_the_hub(node_python: Path) -> None:
    """What is installed is what noded imports, and no Hub is there."""
    folder = node_python.parent
    refused = run(node_python, "-c", "import jupyterhub", cwd=folder, check=False)
    assert "No module named 'jupyterhub'" in refused.stderr
    listed = json.loads(run(node_python, "-m", "pip", "list", "--format=json", cwd=folder).stdout)
    names = {package["name"].lower().replace("_", "-") for package in listed} - {"pip", "setuptools"}
    assert names == {"jupyterhub-agentfarm", "nvidia-ml-py", "psutil", "traitlets"}


def files_below(folder: Path, pattern: str = "*") -> set[str]:
    """Return the names of the files that git keeps in a folder, or would."""
    return {path.name for path in folder.glob(pattern) if path.is_file() and not path.name.startswith(".")}


def test_the_wheel_holds_the_files_that_are_not_code(tmp_path: Path) -> None:
    """Templates, notebooks, suites, units, the configuration, npm's lock files and Jupyter's own file are in it."""
    run(sys.executable, *PIP, "wheel", "--no-deps", f"--wheel-dir={tmp_path}", ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    share = "jupyterhub_agentfarm/share"
    wanted = {
        f"{share}/{folder}/{name}"
        for folder, source, pattern in (
            ("templates", "share/templates", "*.html"),
            ("templates/static", "share/templates/static", "*"),
            ("systemd", "share/systemd", "*.service"),
            ("notebooks", "notebooks", "*.ipynb"),
            ("suites", "benchmark/suites", "*.toml"),
        )
        for name in files_below(ROOT / source, pattern)
    }
    assert len(wanted) > 15
    wanted |= {f"{share}/jupyterhub_config.py", "jupyterhub_agentfarm/py.typed"}
    wanted |= {f"jupyterhub_agentfarm/demo/npm/{name}" for name in ("package.json", "package-lock.json")}
    assert wanted <= names, f"the wheel lacks {sorted(wanted - names)}"
    data = {name for name in names if name.endswith("data/data/etc/jupyter/jupyter_server_config.d/agentfarm.json")}
    assert len(data) == 1
    lab = "share/jupyter/labextensions/jupyterhub-agentfarm"
    for name in ("package.json", "static/remoteEntry.js"):
        assert sum(entry.endswith(f"data/data/{lab}/{name}") for entry in names) == 1, name
    assert not any(name.startswith("tests/") or "/__pycache__/" in name for name in names)
