"""Nodes that are refused, as the command line shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jupyterhub_agentfarm.cli.node_checks import check_node
from jupyterhub_agentfarm.cli.nodes import node_row

NodeViews = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("reason", "mend"), [("host_key", "trust nothing that answers there"), ("login_refused", "see sshd's log")]
)
def test_a_refused_node_says_so_in_list_and_doctor(node_view: NodeViews, reason: str, mend: str) -> None:
    """The list has the fixed reason before the detail, and the doctor what mends just that."""
    refused = node_view("a", state="unreachable", status="unreachable", detail="shows another key", reason=reason)
    row = node_row(refused, 300.0)
    assert row[1] == "unreachable"
    assert row[-1] == f"{reason}: shows another key"
    assert mend in check_node(refused, 300.0)[0].mend


def test_a_node_that_is_only_away_is_not_marked(node_view: NodeViews) -> None:
    """Any other reason is the detail's to tell."""
    away = node_view("a", state="down", status="down", detail="did not answer", reason="node_unreachable")
    assert node_row(away, 300.0)[-1] == "did not answer"
    assert "see that sshd answers" in check_node(away, 300.0)[0].mend
