"""Executing the notebooks for real, in a Python environment of choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"
RESULT_TYPE = "application/vnd.agentfarm.result+json"
SYSTEM_PYTHON = "/usr/bin/python3"

Execute = Callable[..., Awaitable[NotebookNode]]


def with_parameters(name: str, parameters: dict[str, Any]) -> NotebookNode:
    """Return the notebook with a cell that assigns `parameters` after the tagged one, as papermill does."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    source = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(source))
    return notebook


def result_of(notebook: NotebookNode) -> tuple[dict[str, Any], str]:
    """Return the result record that the last cell displays, and its text."""
    outputs = [o for o in notebook.cells[-1].outputs if RESULT_TYPE in o.get("data", {})]
    assert len(outputs) == 1, f"the last cell shows {len(outputs)} results"
    return outputs[0].data[RESULT_TYPE], outputs[0].data["text/plain"]


def text_of(notebook: NotebookNode) -> str:
    """Return everything the cells printed."""
    return "".join(o.text for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream")


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    """Return a coroutine function that executes one notebook in a kernel of its own and returns it."""

    async def _execute(
        name: str, parameters: dict[str, Any] | None = None, python: str = sys.executable, **environment: str
    ) -> NotebookNode:
        folder = tmp_path / "kernels" / "node"
        folder.mkdir(parents=True, exist_ok=True)
        argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "node", "language": "python"}))
        specs = KernelSpecManager(kernel_dirs=[str(folder.parent)], ensure_native_kernel=False)
        manager = AsyncKernelManager(kernel_name="node", kernel_spec_manager=specs)
        notebook = with_parameters(name, parameters or {})
        client = NotebookClient(notebook, km=manager, timeout=50, resources={"metadata": {"path": str(tmp_path)}})
        client.owns_km = True  # it stops the kernel also when a cell fails
        return await client.async_execute(env=os.environ | environment)

    return _execute


@pytest.fixture(scope="session")
def torch_python() -> str:
    """Return the Python of a node's environment that has Debian's PyTorch and a kernel."""
    if subprocess.run([SYSTEM_PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode:
        pytest.skip(f"{SYSTEM_PYTHON} has no torch: apt-get install --no-install-recommends python3-torch python3-venv")
    folder = REPOSITORY / ".cache" / "torch-node"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        make = [SYSTEM_PYTHON, "-m", "venv", "--clear", "--system-site-packages", str(folder)]
        subprocess.run(make, check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "ipykernel>=6.29"], check=True)
        ready.touch()
    return str(python)
