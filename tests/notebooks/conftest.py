"""Executing the notebooks for real, in a Python environment of choice."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from kernel_ways import held_ports
from nbclient import NotebookClient
from nbformat import NotebookNode

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"
RESULT_TYPE = "application/vnd.agentfarm.result+json"
NO_SUCH_GPU = "GPU-00000000-dead-beef-0000-000000000000"

Execute = Callable[..., Awaitable[NotebookNode]]


def parameters_of(name: str) -> dict[str, Any]:
    """Return the names and defaults that the notebook's tagged cell assigns."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assignments = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): _value(node.value) for node in assignments}


def _value(node: ast.expr) -> Any:
    """Return the value of a literal, or of a power of two."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return ast.literal_eval(node.left) ** ast.literal_eval(node.right)
    return ast.literal_eval(node)


def prepared(name: str, parameters: Mapping[str, Any], defects: Mapping[str, str]) -> NotebookNode:
    """Return the notebook with its parameters, as papermill gives them, and with defects.

    Parameters
    ----------
    defects
        Code that is executed after the cell with this id.
    """
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    (tagged,) = [cell.id for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for place, source in (
        {tagged: "\n".join(f"{key} = {value!r}" for key, value in parameters.items())} | dict(defects)
    ).items():
        (index,) = [index for index, cell in enumerate(notebook.cells) if cell.id == place]
        notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(source))
    return notebook


def result_of(notebook: NotebookNode) -> tuple[dict[str, Any], str]:
    """Return the result record that the last cell displays, and its text."""
    outputs = [o for o in notebook.cells[-1].outputs if RESULT_TYPE in o.get("data", {})]
    assert len(outputs) == 1, f"the last cell shows {len(outputs)} results"
    return outputs[0].data[RESULT_TYPE], outputs[0].data["text/plain"]


def text_of(notebook: NotebookNode) -> str:
    """Return everything the cells printed."""
    return "".join(o.text for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream")


def pictures_of(notebook: NotebookNode) -> list[str]:
    """Return the pictures that the cells showed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def check_result(result: dict[str, Any]) -> None:
    """Fail unless the record is flat and has what the benchmark service relies on."""
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert all(isinstance(value, str | int | float) for value in result.values()), "the record must be flat"
    assert result["status"] in {"ok", "skipped"}
    assert isinstance(result["device"], str)
    assert result["seconds"] >= 0
    if result["status"] == "skipped":
        assert isinstance(result["reason"], str)
        assert result["reason"]
    else:
        assert result["primary"].endswith(("_per_second", "_gflops")), "the headline figure must be a throughput"
        assert result[result["primary"]] > 0
        assert isinstance(result[result["quality"]], int | float), "the figure of quality must be in the record"


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    """Return a coroutine function that executes one notebook in a kernel of its own and returns it."""

    async def _execute(
        name: str,
        parameters: Mapping[str, Any] | None = None,
        python: str = sys.executable,
        defects: Mapping[str, str] | None = None,
        **environment: str,
    ) -> NotebookNode:
        folder = tmp_path / "kernels" / "node"
        folder.mkdir(parents=True, exist_ok=True)
        argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "node", "language": "python"}))
        specs = KernelSpecManager(kernel_dirs=[str(folder.parent)], ensure_native_kernel=False)
        notebook = prepared(name, parameters or {}, defects or {})
        with held_ports() as ports:
            manager = AsyncKernelManager(kernel_name="node", kernel_spec_manager=specs, **ports)
            client = NotebookClient(notebook, km=manager, timeout=100, resources={"metadata": {"path": str(tmp_path)}})
            client.owns_km = True  # it stops the kernel also when a cell fails
            return await client.async_execute(env=os.environ | environment)

    return _execute


def _python_of(node: str, instead: str) -> str:
    """Return the Python of an environment that kernels.sh makes, or of the one that $`instead` names."""
    folder = REPOSITORY / ".cache" / node
    if named := os.environ.get(instead):
        return named
    if not (folder / "ready").exists():
        pytest.skip(f"there is no {folder} (make test makes it: tests/notebooks/kernels.sh)")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session")
def torch_python() -> str:
    """Return the Python of a node that has PyTorch and a kernel: Debian's, or the one that $TORCH_PYTHON names."""
    return _python_of("torch-node", "TORCH_PYTHON")


@pytest.fixture(scope="session")
def library_python() -> str:
    """Return the Python of a node that has JAX, pandas and XGBoost, or the one that $LIBRARY_PYTHON names."""
    return _python_of("library-node", "LIBRARY_PYTHON")
