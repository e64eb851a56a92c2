"""What the doctor and `nodes show` say of how a node starts servers."""

from __future__ import annotations

from typing import Any

import pytest

from jupyterhub_agentfarm.cli.nodes import node_fields
from jupyterhub_agentfarm.cli.warm_checks import check_warm_starts, warm_line
from jupyterhub_agentfarm.terminal.quantities import UNKNOWN


def seen(node_view: Any, **starts: Any) -> dict[str, Any]:
    """Return a node whose noded tells this of its starts."""
    view: dict[str, Any] = node_view("a")
    view["telemetry"] = {
        **view["telemetry"],
        "warm_starts": {"state": "warm", "why": "", "warm": 0, "cold": {}} | starts,
    }
    return view


@pytest.mark.parametrize(
    ("starts", "level", "said"),
    [
        ({"warm": 12, "cold": {"no_zygote": 1}}, "ok", "warm; 12 started warm, started cold: 1 no_zygote"),
        ({"state": "off", "why": "NodedApp.warm_servers is off"}, "ok", "off: NodedApp.warm_servers is off"),
        ({"state": "cold", "why": "no server was started yet"}, "ok", "cold: no server was started yet"),
        ({"state": "warming", "why": "it is being made", "cold": {"no_zygote": 1}}, "ok", "warming: it is being made"),
        ({"state": "cold", "why": "root is careful", "cold": {"unfit": 3}}, "warn", "cold: root is careful"),
    ],
)
def test_it_says_what_is_in_force_and_why_not(node_view: Any, starts: dict[str, Any], level: str, said: str) -> None:
    """A node that never starts servers warm although it is to is worth a warning with what to look at."""
    node = seen(node_view, **starts)
    (finding,) = check_warm_starts(node)
    assert finding.level == level
    assert finding.message.startswith(said)
    assert bool(finding.mend) == (level == "warn")
    assert node_fields(node, 300.0)["starts"] == warm_line(node) == finding.message


def test_an_older_noded_says_nothing(node_view: Any) -> None:
    """Then nothing is found, and nothing is shown."""
    assert [*check_warm_starts(node_view("a"))] == []
    assert node_fields(node_view("a"), 300.0)["starts"] == UNKNOWN
