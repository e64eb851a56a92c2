"""A trace of tasks on nodes of unlike load: balance goes by what nodes report, and no node is overloaded needlessly."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tasks_recorded import recorded, recordings
from tasks_trace import BLIND, blind_trace, farm_trace, made_up

pytestmark = pytest.mark.timeout(120)


async def test_no_start_overloads_a_node(tmp_path: Path) -> None:
    """No task takes a node above its cores, all are executed, and the line stays short; counts alone do worse."""
    figures, farm, trace = await farm_trace(made_up(3, 70), tmp_path)
    assert figures["starts_that_overload_a_node_while_another_has_room"] == 0
    assert figures["starts_that_overload_a_node"] == 0
    assert all(work.ended_at for work in trace)
    assert farm.most_waiting <= 4
    for way in BLIND:
        blind = await asyncio.to_thread(blind_trace, made_up(3, 70), way, 3)
        assert blind["starts_that_overload_a_node_while_another_has_room"] > 0, way
        assert blind["overload_core_seconds"] > figures["overload_core_seconds"], way
        assert blind["difference_of_shares_median"] > figures["difference_of_shares_median"], way


async def test_no_start_overloads_a_node_on_what_was_recorded(tmp_path: Path) -> None:
    """The same holds on what a farm's nodes reported and its agents asked for, where blind ways overload nodes."""
    scene = recorded(recordings()[-1])
    figures, _, trace = await farm_trace(scene, tmp_path)
    assert figures["starts_that_overload_a_node_while_another_has_room"] == 0
    assert all(work.ended_at for work in trace)
    for way in BLIND:
        blind = await asyncio.to_thread(blind_trace, scene, way, 3)
        assert blind["starts_that_overload_a_node_while_another_has_room"] > 0, way
        assert blind["overload_core_seconds"] > figures["overload_core_seconds"], way
