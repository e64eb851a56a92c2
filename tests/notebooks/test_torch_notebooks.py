"""The notebooks that compute with PyTorch, executed for real on the CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from nbclient.exceptions import CellExecutionError

from .conftest import NO_SUCH_GPU, Execute, check_result, pictures_of, result_of, text_of

pytestmark = pytest.mark.timeout(150)

#: Small enough for a test, and what must come out the same for the same seed.
SMALL: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "torch_training.ipynb": (
        {"scale": 0.5, "batch_size": 64, "learning_rate": 0.01, "min_accuracy": 0.8},
        ("accuracy", "first_loss", "last_loss"),
    ),
    "transformer_training.ipynb": (
        {"scale": 0.75, "width": 48, "learning_rate": 0.006, "max_excess_loss": 0.25},
        ("accuracy", "loss"),
    ),
    "transformer_inference.ipynb": (
        {"scale": 0.5, "width": 64, "layers": 2, "prompt_tokens": 16, "new_tokens": 8},
        ("text_crc32", "largest_regret"),
    ),
    "trade_forecasting.ipynb": ({"scale": 0.5, "trades": 8000, "history": 8}, ("skill", "direction_accuracy")),
    "linear_algebra.ipynb": (
        {"scale": 0.01, "size": 256, "points": 2**14, "library": "torch"},
        ("largest_residual",),
    ),
}

#: What is printed on the way.
SHOWN = {
    "torch_training.ipynb": r"loss \d\.\d+ -> \d\.\d+, accuracy",
    "transformer_training.ipynb": r"^the \w+ \w+ \w+ the \w+ \w+ and the \w+ \w+ \.$",  # a sentence that it has written
    "transformer_inference.ipynb": r"first token after \d+\.\d ms, [\d,]+ tokens/s",
    "trade_forecasting.ipynb": r"8,000 trades in \d+\.\d hours",
    "linear_algebra.ipynb": r"gemm_float32: +\d+\.\d\d GFLOP/s",
}

#: A network whose places see but themselves, and a cache of which the order is lost.
WITHOUT_ATTENTION = """
class Decoder(Decoder):
    def __init__(self):
        super().__init__()
        self.mask = torch.full_like(self.mask, -math.inf).fill_diagonal_(0)
"""
MIXED_CACHE = """
intact = attend
def attend(query, keys, values, causal):
    return intact(query, keys if causal else keys.flip(2), values, causal)
"""

WRONG: list[tuple[str, dict[str, Any], dict[str, str], str]] = [
    ("torch_training.ipynb", {"learning_rate": 0.0}, {}, "the loss did not fall|which is below min_accuracy"),
    ("transformer_training.ipynb", {"learning_rate": 0.0}, {}, r"the loss is \d\.\d+ nats per token above the entropy"),
    (
        "transformer_training.ipynb",
        {"max_excess_loss": 9.0},
        {"network": WITHOUT_ATTENTION},
        r"the accuracy is 0\.\d+, which is below min_accuracy",
    ),
    ("transformer_inference.ipynb", {}, {"network": MIXED_CACHE}, "standard deviations below the likeliest one"),
    (
        "trade_forecasting.ipynb",
        {"bounce": 0.0, "flow_impact": 0.0},
        {},
        r"the skill is -?0\.\d+, which is below min_skill",
    ),
    (
        "trade_forecasting.ipynb",
        {},
        {"features": "targets = targets[torch.randperm(trades)]"},
        r"the skill is -?0\.\d+, which is below min_skill",
    ),
]


@pytest.mark.torch
@pytest.mark.parametrize("name", sorted(SMALL))
async def test_same_seed_same_quality(execute: Execute, torch_python: str, name: str) -> None:
    """A simulated GPU is no reason to fail: it computes on the CPU, says so, and computes the same again."""
    parameters, same = SMALL[name]
    first = await execute(name, parameters, torch_python, CUDA_VISIBLE_DEVICES=NO_SUCH_GPU)
    result, text = result_of(first)
    check_result(result)
    assert result["status"] == "ok"
    assert result["device"] == "cpu, 1 thread"
    assert "cpu, 1 thread" in text or "GFLOP/s" in text
    assert pictures_of(first)
    assert re.search(SHOWN[name], text_of(first), re.MULTILINE)
    again, _ = result_of(await execute(name, parameters, torch_python, CUDA_VISIBLE_DEVICES=NO_SUCH_GPU))
    assert {key: again[key] for key in same} == {key: result[key] for key in same}


@pytest.mark.torch
@pytest.mark.parametrize(("name", "parameters", "defects", "message"), WRONG, ids=lambda value: str(value)[:40])
async def test_what_is_wrong_fails(
    execute: Execute,
    torch_python: str,
    name: str,
    parameters: dict[str, Any],
    defects: dict[str, str],
    message: str,
) -> None:
    """What does not learn, cannot be forecast or is computed wrongly fails, with both numbers in the message."""
    with pytest.raises(CellExecutionError, match=message):
        await execute(name, SMALL[name][0] | parameters, torch_python, defects)


@pytest.mark.parametrize("name", sorted(SMALL))
async def test_without_torch_it_is_skipped(execute: Execute, tmp_path: Path, name: str) -> None:
    """Where torch is missing the notebook ends cleanly and says so, word by word."""
    missing = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    (tmp_path / "torch.py").write_text(missing)
    parameters = {"library": "torch"} if name == "linear_algebra.ipynb" else {}
    result, text = result_of(await execute(name, parameters, PYTHONPATH=str(tmp_path)))
    check_result(result)
    assert text == "skipped: torch is not installed"
    assert (result["status"], result["reason"]) == ("skipped", "torch is not installed")


@pytest.mark.parametrize("name", ["torch_training.ipynb", "linear_algebra.ipynb"])
async def test_a_broken_torch_fails(execute: Execute, tmp_path: Path, name: str) -> None:
    """A torch that is there and cannot be imported is a failure, not a skip."""
    (tmp_path / "torch.py").write_text("import a_library_that_torch_misses")
    with pytest.raises(CellExecutionError, match="a_library_that_torch_misses"):
        await execute(name, PYTHONPATH=str(tmp_path))
