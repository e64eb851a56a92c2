"""PlacementPolicy: the choice, its GPUs, its explanation."""

from __future__ import annotations

import pytest
from node_records import GIB, gpu, request, telemetry, view
from traitlets import TraitError

from jupyterhub_agentfarm.placement import PlacementPolicy
from jupyterhub_agentfarm.placement.filters import Limits
from jupyterhub_agentfarm.placement.policy import MAX_CANDIDATES
from jupyterhub_agentfarm.placement.view import Promised


def test_the_idle_node_wins_and_says_why() -> None:
    """The best score wins; the explanation has every score and every refusal."""
    views = [view("busy", report=telemetry(cpu_utilization_ratio=0.9, load1=9)), view("idle"), view("no", fresh=False)]
    decision = PlacementPolicy().decide(request(), views, Limits())
    assert decision.node == "idle"
    by_node = {candidate.node: candidate for candidate in decision.why.candidates}
    assert by_node["idle"].score > by_node["busy"].score  # type: ignore[operator]
    assert set(by_node["idle"].scores) == {"gpu_headroom", "cpu", "memory", "load", "spread"}
    assert (by_node["no"].refusal, by_node["no"].later) == ("stale_telemetry", True)
    assert decision.why.refusals == {"stale_telemetry": 1}
    assert decision.why.sentence().endswith("best of 2 nodes that fit")


def test_equal_nodes_by_name() -> None:
    """Of equal nodes the first by name is taken, in whatever order they come."""
    policy = PlacementPolicy()
    for names in (["n2", "n1", "n3"], ["n3", "n2", "n1"]):
        assert policy.decide(request(), [view(name) for name in names], Limits()).node == "n1"


def test_gpus_are_picked_small_first() -> None:
    """The smallest GPUs that satisfy are leased; foreign, leased and small ones are not."""
    gpus = [
        gpu("GPU-5", memory_gib=80),
        gpu("GPU-4", memory_gib=40),
        gpu("GPU-3", memory_gib=40),
        gpu("GPU-2", memory_gib=24, foreign_pids=(1,)),
        gpu("GPU-1", memory_gib=24),
        gpu("GPU-0", memory_gib=8),
    ]
    node_view = view("n1", *gpus, promised=Promised(frozenset({"GPU-1"})))
    decision = PlacementPolicy().decide(request(gpus=2, gpu_memory_bytes=10 * GIB), [node_view], Limits())
    assert decision.gpus == ("GPU-3", "GPU-4")


def test_weights() -> None:
    """A weight turns the choice; a wrong name or all zeros are refused with the option's name."""
    views = [view("a", promised=Promised(spoken_cpus=5)), view("b", report=telemetry(cpu_utilization_ratio=0.3))]
    assert PlacementPolicy(weights={"spread": 5}).decide(request(), views, Limits()).node == "b"
    assert PlacementPolicy(weights={"spread": 0}).decide(request(), views, Limits()).node == "a"
    with pytest.raises(TraitError, match=r"PlacementPolicy.weights must name scorers .*, not cpus"):
        PlacementPolicy(weights={"cpus": 1})
    with pytest.raises(TraitError, match="not turn all off"):
        PlacementPolicy(weights=dict.fromkeys(("gpu_headroom", "cpu", "memory", "load", "spread"), 0))


def test_many_candidates_are_cut_and_counted() -> None:
    """An explanation keeps at most 200 candidates, the chosen one first, and counts all."""
    views = [view(f"n{i}") for i in range(150)] + [view(f"r{i}", fresh=False) for i in range(150)]
    why = PlacementPolicy().decide(request(), views, Limits()).why
    assert len(why.candidates) == MAX_CANDIDATES
    assert why.candidates[0].node == why.chosen
    assert (why.considered, why.refusals) == (300, {"stale_telemetry": 150})
    assert why.sentence().endswith("best of 150 nodes that fit")


def test_waiting_sentence() -> None:
    """What a request waits for is told of three nodes, and the rest is counted."""
    leased = Promised(frozenset({"GPU-a"}))
    views = [view(f"n{i}", gpu("GPU-a"), promised=leased) for i in range(5)] + [view("n9")]
    decision = PlacementPolicy().decide(request(gpus=1), views, Limits())
    assert decision.node is None
    assert decision.later == ("n0", "n1", "n2", "n3", "n4")
    assert decision.waiting_for() == (
        "n0: needs 1 GPU, none is free; n1: needs 1 GPU, none is free; n2: needs 1 GPU, none is free; "
        "2 more nodes are busy"
    )


def test_quota_by_group() -> None:
    """The largest quota of an owner's groups counts, before the general one."""
    policy = PlacementPolicy(max_gpus_per_owner=1, group_max_gpus={"quant": 4, "lab": 2})
    wanted = request(gpus=1)
    assert policy.limits(wanted, 0, 0).owner.max_gpus == 1
    member = type(wanted)("ada", "", wanted.options, groups=("lab", "quant"))
    assert policy.limits(member, 0, 0).owner.max_gpus == 4
