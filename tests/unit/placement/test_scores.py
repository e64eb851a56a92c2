"""Scorers: 0 to 1, and better for the better node."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_records import GIB, gpu, request, telemetry, view

from jupyterhub_agentfarm.errors import ConfigError
from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.placement import scores
from jupyterhub_agentfarm.placement.view import NodeView, Promised, promised

A, B = gpu("GPU-a"), gpu("GPU-b")
BUSY = telemetry(cpu_utilization_ratio=0.9, load1=8.0, memory_available_bytes=2 * GIB)
BETTER = [
    ("gpu_headroom", view("n1", A, B), view("n1", A, B, promised=Promised(frozenset({"GPU-a"})))),
    ("cpu", view(), view(report=BUSY)),
    ("cpu", view(), view(promised=Promised(unseen_spoken_cpus=2))),
    ("memory", view(), view(report=BUSY)),
    ("memory", view(), view(promised=Promised(unseen_memory_bytes=8 * GIB))),
    ("load", view(), view(report=BUSY)),
    ("load", view(), view(promised=Promised(unseen_spoken_cpus=1))),
    ("spread", view(), view(promised=Promised(spoken_cpus=1))),
]


@pytest.mark.parametrize(("name", "better", "worse"), BETTER)
def test_order(name: str, better: NodeView, worse: NodeView) -> None:
    """The node with more room scores higher."""
    wanted = request(gpus=1) if name == "gpu_headroom" else request()
    scorer = scores.SCORERS[name]
    assert scorer(better, wanted) > scorer(worse, wanted)


def test_each_server_counts_with_one_core_at_least() -> None:
    """One of eight cores and seven without a guarantee speak for fifteen cores, seen by telemetry or not."""
    leases = [
        Lease(f"l{i}", "ada", f"s{i}", "granted", i, request(cpus=8 if i == 0 else 0), 1.0, "n1", granted_at=1.0)
        for i in range(8)
    ]
    busy = telemetry(cpus=10, cpu_utilization_ratio=0.5)
    for seen_until, spoken in ((0.0, 0.5 + 1.5), (2.0, 1.5)):
        node_view = view(report=busy, promised=promised(leases, seen_until))
        assert scores.spread(node_view, request()) == 1 / (1 + spoken)


def test_a_server_without_gpu_leaves_gpu_nodes_alone() -> None:
    """For a request without GPUs a node without GPUs has the better headroom."""
    assert scores.gpu_headroom(view(), request()) > scores.gpu_headroom(view("n1", A), request())


@given(
    busy=st.none() | st.floats(0, 1),
    load=st.floats(0, 1000),
    free=st.integers(0, 32 * GIB),
    unseen=st.integers(0, 100),
    gpus=st.integers(0, 2),
)
def test_range(busy: float | None, load: float, free: int, unseen: int, gpus: int) -> None:
    """Whatever a node reports, a score is a number from 0 to 1."""
    report = telemetry(A, B, cpu_utilization_ratio=busy, load1=load, memory_available_bytes=free)
    node_view = view(
        report=report, promised=Promised(spoken_cpus=unseen, unseen_spoken_cpus=unseen, unseen_memory_bytes=2**33)
    )
    for name, scorer in scores.SCORERS.items():
        assert 0 <= scorer(node_view, request(gpus=gpus)) <= 1, name


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package's scorer is used by its entry point's name; one that takes a built-in name is refused."""
    mine = EntryPoint("mine", "jupyterhub_agentfarm.placement.scores:spread", scores.ENTRY_POINTS)
    monkeypatch.setattr(scores, "entry_points", lambda group: [mine])
    assert scores.load_scorers()["mine"] is scores.spread
    clash = EntryPoint("cpu", "jupyterhub_agentfarm.placement.scores:spread", scores.ENTRY_POINTS)
    monkeypatch.setattr(scores, "entry_points", lambda group: [clash])
    with pytest.raises(ConfigError, match="scorer cpu"):
        scores.load_scorers()
    missing = EntryPoint("gone", "jupyterhub_agentfarm.nowhere:scorer", scores.ENTRY_POINTS)
    monkeypatch.setattr(scores, "entry_points", lambda group: [missing])
    with pytest.raises(ConfigError, match="scorer gone cannot be imported"):
        scores.load_scorers()
