"""Every notebook of the project is executed for real; the benchmark's ones answer with a result record."""

from __future__ import annotations

import ast
import json
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from jupyterhub_agentfarm.benchmark.suites import read_suite

from .conftest import NOTEBOOKS, REPOSITORY, RESULT_TYPE, Execute, result_of, text_of

ALL = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
SMOKE = REPOSITORY / "benchmark" / "suites" / "smoke.toml"
SUITE = tomllib.loads(SMOKE.read_text())
CASES = {case["notebook"]: case for case in SUITE["case"]}
NO_SUCH_GPU = "GPU-00000000-dead-beef-0000-000000000000"


def parameters_of(name: str) -> dict[str, Any]:
    """Return the names and defaults that the notebook's tagged cell assigns."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assignments = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assignments}


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
        assert isinstance(result[result["primary"]], int | float), "the headline figure must be in the record"
        assert result[result["primary"]] > 0


@pytest.mark.parametrize("name", ALL)
def test_notebook_is_kept_clean(name: str) -> None:
    """A notebook is in format 4.5 with cell ids, says first what it does, has its parameters and no outputs."""
    raw = json.loads((NOTEBOOKS / name).read_text())
    nbformat.validate(raw)
    assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5)
    assert all(cell["id"] for cell in raw["cells"])
    assert raw["cells"][0]["cell_type"] == "markdown"
    assert raw["cells"][0]["source"][0].startswith("# ")
    assert parameters_of(name)
    code = [cell for cell in raw["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_suite_names_real_notebooks_and_parameters() -> None:
    """Every case names a notebook that is there, and only parameters that the notebook's tagged cell has."""
    suite = read_suite(SMOKE)
    assert suite.name == SMOKE.stem
    assert all(suite.notebook_path(case) == NOTEBOOKS / case.notebook for case in suite.cases)
    for case in SUITE["case"]:
        unknown = set(case["parameters"]) - set(parameters_of(case["notebook"]))
        assert not unknown, f"{case['notebook']} has no parameter {unknown}"


def test_every_benchmark_notebook_is_in_the_suite() -> None:
    """A notebook that displays a result record is a case of the smoke suite; the tour and the agent are not."""
    with_result = {name for name in ALL if RESULT_TYPE in (NOTEBOOKS / name).read_text()}
    assert with_result == set(CASES)
    assert set(ALL) - with_result == {"first_server.ipynb", "reference_agent.ipynb"}


@pytest.mark.parametrize("name", sorted(CASES))
async def test_case_runs_and_answers(execute: Execute, name: str) -> None:
    """With the suite's parameters every case ends with a valid result record."""
    notebook = await execute(name, CASES[name]["parameters"])
    result, text = result_of(notebook)
    check_result(result)
    assert text
    if name != "torch_training.ipynb":
        assert result["status"] == "ok"


async def test_tour_shows_the_leased_gpu(execute: Execute) -> None:
    """The tour names the GPU that was leased to the server, and the node's memory."""
    text = text_of(await execute("first_server.ipynb", CUDA_VISIBLE_DEVICES=NO_SUCH_GPU, JUPYTERHUB_USER="ada"))
    assert f"leased to this server:\n  {NO_SUCH_GPU}" in text
    assert "of ada" in text
    assert "GiB available" in text


async def test_tour_says_when_no_gpu_is_leased(execute: Execute) -> None:
    """An empty CUDA_VISIBLE_DEVICES is told as what it means."""
    assert "no GPU is leased to this server" in text_of(await execute("first_server.ipynb", CUDA_VISIBLE_DEVICES=""))


async def test_digits_below_the_accuracy_fails(execute: Execute) -> None:
    """A training that misses the wanted accuracy is a failure that names both numbers."""
    with pytest.raises(CellExecutionError, match=r"accuracy is 0\.\d+, which is below min_accuracy = 2\.0"):
        await execute("digits_classifier.ipynb", {"scale": 0.05, "min_accuracy": 2.0})


async def test_linear_algebra_with_a_residual_too_large_fails(execute: Execute) -> None:
    """A residual over the tolerance fails the notebook, before anything is displayed."""
    with pytest.raises(CellExecutionError, match="gemm: the residual is"):
        await execute("linear_algebra.ipynb", {"scale": 0.01, "size": 128, "tolerance": 0.0})


async def test_without_torch_it_is_skipped(execute: Execute, tmp_path: Path) -> None:
    """Where torch is missing the notebook ends cleanly and says so, word by word."""
    missing = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    (tmp_path / "torch.py").write_text(missing)
    result, text = result_of(await execute("torch_training.ipynb", PYTHONPATH=str(tmp_path)))
    check_result(result)
    assert text == "skipped: torch is not installed"
    assert (result["status"], result["reason"]) == ("skipped", "torch is not installed")


async def test_a_broken_torch_fails(execute: Execute, tmp_path: Path) -> None:
    """A torch that is there and cannot be imported is a failure, not a skip."""
    (tmp_path / "torch.py").write_text("import a_library_that_torch_misses")
    with pytest.raises(CellExecutionError, match="a_library_that_torch_misses"):
        await execute("torch_training.ipynb", PYTHONPATH=str(tmp_path))


@pytest.mark.torch
async def test_torch_trains_on_the_cpu_with_a_simulated_gpu(execute: Execute, torch_python: str) -> None:
    """A leased GPU that does not exist is no reason to fail: it trains on the CPU, learns, and says where."""
    parameters = CASES["torch_training.ipynb"]["parameters"]
    notebook = await execute("torch_training.ipynb", parameters, torch_python, CUDA_VISIBLE_DEVICES=NO_SUCH_GPU)
    result, text = result_of(notebook)
    check_result(result)
    assert result["status"] == "ok"
    assert result["device"] == "cpu, 1 thread"
    assert result["last_loss"] < result["first_loss"]
    assert result["accuracy"] >= parameters["min_accuracy"]
    assert "records/s on cpu, 1 thread" in text


@pytest.mark.torch
async def test_torch_that_does_not_learn_fails(execute: Execute, torch_python: str) -> None:
    """An accuracy below the wanted one fails the notebook."""
    with pytest.raises(CellExecutionError, match=r"below min_accuracy = 2\.0"):
        await execute("torch_training.ipynb", {"scale": 0.1, "min_accuracy": 2.0}, torch_python)
