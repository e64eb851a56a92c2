"""What counts as reading a variable while a module is imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from jupyterhub_agentfarm.kernels.environment import Watched

VARIABLES = {"FIRST": "1", "SECOND": "2", "THIRD": "3"}


def only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no other variables; called in a test itself, since pytest sets one at its start."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("look", "names"),
    [
        (lambda: os.environ["SECOND"], {"SECOND"}),
        (lambda: os.environ.get("MISSING"), {"MISSING"}),
        (lambda: os.getenv("FIRST"), {"FIRST"}),
        (lambda: "THIRD" in os.environ, {"THIRD"}),
        (os.environ.copy, set()),
        (lambda: dict(os.environ), set()),
        (lambda: os.environ | {"MORE": "4"}, set()),
        (lambda: list(os.environ.items()), set()),
        (lambda: list(os.environ), set()),
        (lambda: [os.environ.copy(), os.environ.copy(), os.environ["FIRST"]], {"FIRST"}),
        (lambda: next(iter(os.environ.values())), {"FIRST"}),
        (lambda: [os.environ[name] for name in os.environ if name != "FIRST"], {"SECOND", "THIRD"}),
        (lambda: [os.environ[name] for name in os.environ if name != "SECOND"], {"FIRST", "THIRD"}),
        (lambda: [(os.environ[name], "X" in os.environ) for name in os.environ], {*VARIABLES, "X"}),
    ],
)
def test_reading(look: Callable[[], Any], names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a variable names it; copying all names none; beginning a copy names what was asked for."""
    only_these(monkeypatch)
    with Watched() as watched:
        look()
    assert watched.read == names
    assert dict(os.environ) == VARIABLES


def test_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set and removed is told, with its values."""
    only_these(monkeypatch)
    with Watched() as watched:
        os.environ["FOURTH"] = "4"
        os.environ["FIRST"] = "one"
        del os.environ["SECOND"]
    assert watched.written == {"FOURTH": "4", "FIRST": "one", "SECOND": None}
