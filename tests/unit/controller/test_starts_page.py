"""How servers are started, on the controller's page of metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from node_records import node

from jupyterhub_agentfarm.controller.metrics_page import starts_text
from jupyterhub_agentfarm.metrics import COLD_REASONS
from jupyterhub_agentfarm.models import ColdReason, WarmStarts


def test_the_reasons_of_the_metric_are_those_of_noded() -> None:
    """A reason that noded has and the metric has not would be counted nowhere."""
    assert get_args(ColdReason) == COLD_REASONS


def test_each_reason_is_there_from_the_start() -> None:
    """Counts by way and reason for each node that tells, 0 where nothing happened; others are left out."""
    telling, silent = node("a"), node("b")
    assert telling.telemetry is not None
    starts = WarmStarts("warm", "", 3, {"no_zygote": 2})
    telling = replace(telling, telemetry=replace(telling.telemetry, warm_starts=starts))
    lines = starts_text([telling, silent]).splitlines()
    assert 'agentfarm_server_starts_total{node="a",way="warm",reason=""} 3' in lines
    assert 'agentfarm_server_starts_total{node="a",way="cold",reason="no_zygote"} 2' in lines
    assert 'agentfarm_server_starts_total{node="a",way="cold",reason="failed"} 0' in lines
    assert 'agentfarm_node_warm{node="a"} 1' in lines
    assert not [line for line in lines if 'node="b"' in line]
