"""Errors carry facts, a fixed reason and one sentence."""

from __future__ import annotations

import inspect

from jupyterhub_agentfarm import errors
from jupyterhub_agentfarm.errors import AgentFarmError, PlacementRefused, RemoteCommandFailed


def _classes() -> list[type[AgentFarmError]]:
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AgentFarmError)]


def test_reasons_are_distinct() -> None:
    """A reason names one kind of failure: metrics and clients rely on it."""
    reasons = [cls.reason for cls in _classes()]

    assert len(reasons) == len(set(reasons))


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """Every class is drawn, under its name."""
    missing = [cls.__name__ for cls in _classes() if cls.__name__ not in (errors.__doc__ or "")]

    assert missing == []


def test_a_failed_command_tells_its_last_line() -> None:
    """Command, exit status and stderr are facts; the sentence shows the line that matters."""
    error = RemoteCommandFailed("n1", "python3 -m x", 127, "warning: a\nsh: python3: not found\n")

    assert error.message == "node n1: `python3 -m x` ended with status 127: sh: python3: not found"
    assert error.facts()["stderr"] == "warning: a\nsh: python3: not found\n"


def test_a_refusal_lists_each_node() -> None:
    """The user reads why each node was refused."""
    error = PlacementRefused({"n2": "has 1 GPU, 4 are needed", "n1": "has no GPU"})

    assert error.message == (
        "No node of this farm can ever serve this request (n1: has no GPU; n2: has 1 GPU, 4 are needed)."
    )


def test_a_refusal_of_a_large_farm_stays_readable() -> None:
    """Eight nodes are named, the rest counted; the facts hold all."""
    error = PlacementRefused({f"n{i:03}": "no" for i in range(100)})

    assert "and 92 more nodes" in error.message
    assert len(error.facts()["refusals"]) == 100  # type: ignore[arg-type]


def test_an_empty_farm_says_how_to_add_a_node() -> None:
    """The first thing a new admin meets has an answer."""
    assert "agentfarm nodes add" in PlacementRefused({}).message
