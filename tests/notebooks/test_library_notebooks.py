"""The notebooks that compute with JAX, pandas and XGBoost, executed for real on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nbclient.exceptions import CellExecutionError

from .conftest import NO_SUCH_GPU, Execute, check_result, pictures_of, result_of

pytestmark = pytest.mark.timeout(150)

#: Small enough for a test, and what must come out the same for the same seed.
SMALL: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "jax": ("option_pricing.ipynb", {"library": "jax", "scale": 0.1}, ("price", "delta", "standard_errors_off")),
    "xgboost": (
        "gradient_boosting.ipynb",
        {"library": "xgboost", "scale": 0.02, "max_auc_loss": 0.08},
        ("auc", "best_auc"),
    ),
    "pandas": ("dataframe_etl.ipynb", {"scale": 0.05}, ("bars", "bars_crc32", "wrong_sums")),
}

REPEATED_STAY = 'def clean(table):\n    return table.assign(market=table["market"].ffill())'
ONE_IS_LOST = (
    "intact = join\ndef join(table):\n    return intact(table.drop(index=table.index[100]))\njoin.__name__ = 'join'"
)
WRONG: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("jax", {}, {"simulation": "DRIFT = RATE * YEARS / steps"}, "standard errors off, which is over"),
    ("xgboost", {"wrong_labels": 0.5}, {}, r"the AUC is 0\.\d+, which is more than max_auc_loss"),
    ("pandas", {}, {"steps": REPEATED_STAY}, r"market M00: trades, lots and turnover are \(\d+, \d+, \d+\), not \("),
    ("pandas", {}, {"steps": ONE_IS_LOST}, r"market M\d\d: trades, lots and turnover are \(\d+, \d+, \d+\), not \("),
]


@pytest.mark.parametrize("library", sorted(SMALL))
async def test_same_seed_same_quality(execute: Execute, library_python: str, library: str) -> None:
    """It computes on the CPU where the leased GPU is none, says so, and computes the same again."""
    name, parameters, same = SMALL[library]
    first = await execute(name, parameters, library_python, CUDA_VISIBLE_DEVICES=NO_SUCH_GPU)
    result, text = result_of(first)
    check_result(result)
    assert result["status"] == "ok"
    assert result["device"].startswith("cpu")
    assert text
    assert pictures_of(first)
    again, _ = result_of(await execute(name, parameters, library_python, CUDA_VISIBLE_DEVICES=NO_SUCH_GPU))
    assert {key: again[key] for key in same} == {key: result[key] for key in same}


@pytest.mark.parametrize(("library", "parameters", "defects", "message"), WRONG, ids=lambda value: str(value)[:40])
async def test_what_is_wrong_fails(
    execute: Execute,
    library_python: str,
    library: str,
    parameters: dict[str, Any],
    defects: dict[str, str],
    message: str,
) -> None:
    """A wrong simulation, labels that say nothing, and records too many or too few fail the notebook."""
    name, small, _ = SMALL[library]
    with pytest.raises(CellExecutionError, match=message):
        await execute(name, small | parameters, library_python, defects)


@pytest.mark.parametrize("library", sorted(SMALL))
async def test_without_the_library_it_is_skipped(execute: Execute, tmp_path: Path, library: str) -> None:
    """Where the library is missing the notebook ends cleanly and says which."""
    name, parameters, _ = SMALL[library]
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError(\"No module\", name='{library}')")
    result, text = result_of(await execute(name, parameters, PYTHONPATH=str(tmp_path)))
    check_result(result)
    assert text == f"skipped: {library} is not installed"
