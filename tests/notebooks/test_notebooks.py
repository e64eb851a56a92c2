"""Every notebook is kept clean; those that need no more than the demo's packages are executed for real."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from .conftest import (
    NO_SUCH_GPU,
    NOTEBOOKS,
    REPOSITORY,
    Execute,
    check_result,
    parameters_of,
    pictures_of,
    result_of,
    text_of,
)

pytestmark = pytest.mark.timeout(150)

ALL = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
SMOKE = tomllib.loads((REPOSITORY / "benchmark" / "suites" / "smoke.toml").read_text())
IN_THE_DEMO = [case for case in SMOKE["case"] if case["name"] != "torch"]

#: Small enough for a test, and what must come out the same for the same seed.
SMALL: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "digits_classifier.ipynb": ({"scale": 0.2, "min_accuracy": 0.9}, ("accuracy",)),
    "linear_algebra.ipynb": (
        {"scale": 0.01, "size": 256, "points": 2**14, "library": "numpy"},
        ("largest_residual",),
    ),
    "gradient_boosting.ipynb": ({"scale": 0.02, "max_auc_loss": 0.08}, ("auc", "best_auc")),
    "option_pricing.ipynb": ({"scale": 0.1}, ("price", "delta", "standard_errors_off")),
}

#: What must not pass: parameters that nothing good can come of, and defects in what is computed.
WRONG: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    (
        "digits_classifier.ipynb",
        {},
        {"data": "y_train = np.random.default_rng(seed).permutation(y_train)"},
        r"accuracy is 0\.\d+, which is below min_accuracy = 0\.9",
    ),
    (
        "linear_algebra.ipynb",
        {},
        {"imports": "intact = np.fft.fft\nnp.fft.fft = lambda signal: intact(signal) * (np.arange(len(signal)) != 7)"},
        "fft: the residual is",
    ),
    ("gradient_boosting.ipynb", {"wrong_labels": 0.5}, {}, r"the AUC is 0\.\d+, which is more than max_auc_loss"),
    ("option_pricing.ipynb", {}, {"simulation": "DRIFT = RATE * YEARS / steps"}, "standard errors off, which is over"),
]


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


@pytest.mark.parametrize("case", IN_THE_DEMO, ids=lambda case: case["name"])
async def test_case_of_the_smoke_suite_succeeds(execute: Execute, case: dict[str, Any]) -> None:
    """With the suite's own parameters a node of the demo passes its quality check."""
    result, _ = result_of(await execute(case["notebook"], case["parameters"]))
    check_result(result)
    assert result["status"] == "ok"


@pytest.mark.parametrize("name", sorted(SMALL))
async def test_same_seed_same_quality(execute: Execute, name: str) -> None:
    """Executed twice it shows its result and a picture or table, and what it computed is the same both times."""
    parameters, same = SMALL[name]
    first = await execute(name, parameters, CUDA_VISIBLE_DEVICES=NO_SUCH_GPU)
    result, text = result_of(first)
    check_result(result)
    assert result["status"] == "ok"
    assert result["device"] == "cpu, 1 thread"
    assert text
    assert pictures_of(first) or "columns the predicted one" in text_of(first)
    again, _ = result_of(await execute(name, parameters, CUDA_VISIBLE_DEVICES=""))
    assert {key: again[key] for key in same} == {key: result[key] for key in same}


@pytest.mark.parametrize(("name", "parameters", "defects", "message"), WRONG, ids=lambda value: str(value)[:40])
async def test_what_is_wrong_fails(
    execute: Execute, name: str, parameters: dict[str, Any], defects: dict[str, str], message: str
) -> None:
    """A training that cannot learn and a wrong computation fail the notebook, with both numbers in the message."""
    with pytest.raises(CellExecutionError, match=message):
        await execute(name, SMALL[name][0] | parameters, defects=defects)


async def test_all_cores_are_used_where_threads_is_0(execute: Execute) -> None:
    """0 threads is all cores that the server may use, and the device says how many."""
    parameters = SMALL["linear_algebra.ipynb"][0] | {"threads": 0}
    defects = {"imports": "assert os.environ['OMP_NUM_THREADS'] == str(len(os.sched_getaffinity(0)))"}
    result, _ = result_of(await execute("linear_algebra.ipynb", parameters, defects=defects))
    assert not result["device"].startswith("cpu, 0")


async def test_tour_shows_the_leased_gpu(execute: Execute) -> None:
    """The tour names the GPU that was leased to the server, and the node's memory."""
    text = text_of(await execute("first_server.ipynb", CUDA_VISIBLE_DEVICES=NO_SUCH_GPU, JUPYTERHUB_USER="ada"))
    assert f"leased to this server:\n  {NO_SUCH_GPU}" in text
    assert "of ada" in text
    assert "GiB available" in text


async def test_tour_says_when_no_gpu_is_leased(execute: Execute) -> None:
    """An empty CUDA_VISIBLE_DEVICES is told as what it means."""
    assert "no GPU is leased to this server" in text_of(await execute("first_server.ipynb", CUDA_VISIBLE_DEVICES=""))
