"""Search: the index finds what the full pipeline finds, whatever happened before."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_records import GIB, gpu, request, telemetry, view

from jupyterhub_agentfarm.models import Filesystem, Gpu, Kernel, Mark, PlacementRequest
from jupyterhub_agentfarm.placement import PlacementPolicy
from jupyterhub_agentfarm.placement.decision import Decision
from jupyterhub_agentfarm.placement.filters import Limits
from jupyterhub_agentfarm.placement.index import NodeIndex
from jupyterhub_agentfarm.placement.line import Holds
from jupyterhub_agentfarm.placement.view import NodeView, OwnerUse, PoolUse, Promised

NAMES = tuple(f"n{i}" for i in range(12))
WEIGHTS = ("gpu_headroom", "cpu", "memory", "load", "spread")
LABELS = ({}, {"room": "a"}, {"room": "b", "net": "fast"})
MODELS = ("NVIDIA A100", "NVIDIA T4", "Tesla t4")
KINDS = ("", "t4", "A100", "nvidia")
KERNELS = (None, (), ("python3",), ("python3", "ir"))


def devices(source: Random) -> list[Gpu]:
    """Some GPUs, of one or several models, foreign processes on some; sometimes one is split into MIG devices."""
    found = [
        gpu(f"GPU-{i}", source.choice(MODELS), source.choice((16, 40)), foreign_pids=source.choice(((), (), (), (7,))))
        for i in range(source.choice((0, 1, 1, 1, 2, 4)))
    ]
    if found and source.random() < 0.2:
        found.append(gpu("MIG-0", found[0].name, 5, parent_uuid="GPU-0"))
    return found


def any_node(source: Random, name: str) -> NodeView:
    """Any node: mostly open, in any state of use; often equal to another."""
    gpus = devices(source)
    report = telemetry(
        *gpus,
        cpus=source.choice((4, 8)),
        cpu_utilization_ratio=source.choice((None, 0.0, 0.0, 0.5, source.random())),
        load1=source.choice((0.0, 0.0, 1.0, source.uniform(0, 10))),
        memory_available_bytes=source.choice((2, 30, 30)) * GIB,
        gpu_health=source.choice(("ok",) * 9 + ("hanging",)) if gpus else "absent",
        filesystems=(Filesystem("/", 100 * GIB, source.choice((GIB // 2, 50 * GIB, 50 * GIB))),),
    )
    leased = frozenset(device.uuid for device in gpus if source.random() < 0.4)
    unseen = source.choice((0, 0, 1, 2))
    promised = Promised(leased, unseen + len(leased), source.choice((0.0, 0.0, 2.0)), GIB, unseen, unseen / 2, unseen)
    rare = source.randint(0, 30)
    changes: dict[str, Any] = {0: {"state": "down"}, 1: {"cordon": Mark("x", 0.0, "root")}}.get(rare, {})
    made = view(
        name, report=report, labels=source.choice(LABELS), promised=promised, fresh=rare != 3, reconciled=rare != 4
    )
    changes |= {"telemetry": None} if rare == 5 else {}
    kernels = source.choice(KERNELS)
    changes |= {"kernels": None if kernels is None else tuple(Kernel(each) for each in kernels)}
    return dataclasses.replace(made, node=dataclasses.replace(made.node, **changes))


def any_request(source: Random) -> PlacementRequest:
    """Anything a user may ask for."""
    made: PlacementRequest = request(
        "ada",
        "",
        source.choice((0, 0, 0, 2, 6)),
        source.choice((0, 0, 0, 4, 64)),
        gpus=source.choice((0, 0, 1, 1, 2, 3)),
        node=source.choice((None,) * 12 + ("n0", "nowhere")),
        labels=source.choice(({}, {}, {}, *LABELS)),
        gpu_memory_bytes=source.choice((0, 0, 0, 20, 80)) * GIB,
        gpu_model=source.choice(KINDS),
        kernel=source.choice(("",) * 4 + ("python3", "IR", "julia")),
        avoid=source.choice(((), (), NAMES[:2], NAMES[5:])),
    )
    return made


def any_limits(source: Random) -> Limits:
    """Mostly none; sometimes an owner who is at the quota."""
    use = source.choice((OwnerUse(),) * 8 + (OwnerUse(1, 2), OwnerUse(0, None, 1, 1)))
    pools = source.choice(((),) * 8 + ((PoolUse("lab", 1, 2, 5), PoolUse("ops", 0, None, 2, 3)),))
    return Limits(use, source.choice((0, GIB)), pools=pools)


def said(decision: Decision) -> tuple[Any, ...]:
    """Return everything a decision says, but for its time."""
    why = dataclasses.replace(decision.why, decided_at=0)
    return decision.node, decision.gpus, why, decision.later, decision.refusals, decision.refused_with


def change(source: Random, times: int, index: NodeIndex, known: dict[str, NodeView]) -> None:
    """Let nodes come, change and go, in the index and in what is known."""
    for _ in range(times):
        name = source.choice(NAMES)
        if name in known and source.random() < 0.2:
            del known[name]
            index.remove(name)
        else:
            known[name] = any_node(source, name)
            index.put(known[name])


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_index_finds_what_the_full_pipeline_finds(seed: int) -> None:
    """After any changes, for any request and holds: same node, same GPUs, same explanation and refusals."""
    source = Random(seed)  # noqa: S311 - drawn evenly: most farms must have several nodes that fit, which shrinking would avoid
    policy = PlacementPolicy(weights={name: source.choice((0, 0.3, 1, 5)) for name in source.sample(WEIGHTS, 2)})
    index, known = policy.index(), dict[str, NodeView]()
    change(source, source.randint(1, 30), index, known)
    holds = Holds()
    for _ in range(source.choice((0, 0, 1, 2))):
        holds.hold(any_request(source), [each for each in known.values() if source.random() < 0.5])
    for _ in range(5):
        wanted, held_to = any_request(source), any_limits(source)
        full = policy.decide(wanted, [holds.over(each) for each in known.values()], held_to)
        assert said(policy.choose(wanted, index, held_to, holds)) == said(full)


def test_equal_scores_by_name_over_groups() -> None:
    """Nodes of different groups with the same score are decided by name, as in the full pipeline."""
    policy = PlacementPolicy()
    views = [view("b", labels={"room": "a"}), view("c"), view("a", labels={"room": "b"})]
    index = indexed(policy, views)
    assert policy.choose(request(), index, Limits(), Holds()).node == "a"


def test_only_nodes_that_can_be_the_best_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 nodes the filters are asked about one, until the explanation is read."""
    asked: list[str] = []
    policy = PlacementPolicy()
    index = indexed(policy, [view(f"n{i:03}", gpu("GPU-a")) for i in range(300)])
    module = "jupyterhub_agentfarm.placement."
    real = __import__(f"{module}filters", fromlist=["refusal"]).refusal

    def noted(each: NodeView, *rest: Any) -> Any:
        asked.append(each.node.name)
        return real(each, *rest)

    monkeypatch.setattr(f"{module}search.refusal", noted)
    monkeypatch.setattr(f"{module}decision.refusal", noted)
    decision = policy.choose(request(gpus=1), index, Limits(), Holds())
    assert (decision.node, asked) == ("n000", ["n000"])
    assert decision.why.considered == 300
    assert len(asked) == 301


def test_explanation_is_of_the_moment_of_the_choice() -> None:
    """What changes between the choice and the reading does not change the explanation."""
    policy = PlacementPolicy()
    index = indexed(policy, [view("a"), view("b")])
    decision = policy.choose(request(), index, Limits(), Holds())
    index.put(view("a", fresh=False))
    index.remove("b")
    assert (decision.why.chosen, decision.why.considered, decision.why.refusals) == ("a", 2, {})


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_changes_an_explanation_is_of_its_moment(seed: int) -> None:
    """Decisions that are read late say what the full pipeline said when they were made, each of its own moment."""
    source = Random(seed)  # noqa: S311 - drawn evenly, as above
    policy = PlacementPolicy()
    index, known, made = policy.index(), dict[str, NodeView](), []
    for _ in range(4):
        change(source, source.randint(0, 10), index, known)
        wanted = any_request(source)
        made.append(
            (policy.choose(wanted, index, Limits(), Holds()), policy.decide(wanted, [*known.values()], Limits()))
        )
    change(source, 10, index, known)
    for chosen, full in made:
        assert said(chosen) == said(full)


def test_another_packages_scorer_is_asked_about_every_node() -> None:
    """A scorer that may look at anything of the request still decides."""
    policy = PlacementPolicy()
    policy.scorers = {**policy.scorers, "mine": lambda each, wanted: float(each.node.name == wanted.owner)}
    index = indexed(policy, [view("a"), view("ada")])
    assert policy.choose(request("ada"), index, Limits(), Holds()).node == "ada"


def test_telemetry_gets_too_old() -> None:
    """A node leaves the choice when its report is too old, and is back with the next report."""
    policy = PlacementPolicy()
    index = policy.index()
    index.put(view("a"), fresh_until=10)
    index.put(view("b"), fresh_until=20)
    before = index.version
    index.expire(10)
    assert (policy.choose(request(), index, Limits(), Holds()).node, index.version) == ("a", before)
    index.expire(10.5)
    assert policy.choose(request(), index, Limits(), Holds()).node == "b"
    assert index.version > before
    index.put(view("a"), fresh_until=30)
    index.expire(20.5)
    decision = policy.choose(request(), index, Limits(), Holds())
    assert (decision.node, decision.why.refusals) == ("a", {"stale_telemetry": 1})


def test_version_tells_waits_from_load() -> None:
    """A report of other load alone does not count as a change that somebody waits for; a foreign process does."""
    policy = PlacementPolicy()
    index = indexed(policy, [view("a", gpu("GPU-a"))])
    version, load_version = index.version, index.load_version
    index.put(view("a", report=telemetry(gpu("GPU-a"), load1=3.0, cpu_utilization_ratio=0.5)))
    assert (index.version, index.load_version) == (version, load_version + 1)
    index.put(view("a", gpu("GPU-a", foreign_pids=(1,))))
    assert index.version == version + 1


def indexed(policy: PlacementPolicy, views: list[NodeView]) -> NodeIndex:
    """Return an index of these nodes."""
    index = policy.index()
    for each in views:
        index.put(each)
    return index
