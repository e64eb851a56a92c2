"""Which task is next, and which must wait without keeping others back."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from agents_site import make_agent
from hypothesis import given
from hypothesis import strategies as st
from node_records import gpu, node, telemetry

from jupyterhub_agentfarm.agents.dispatch.choice import Asked, Bounds, Chooser, Standing, in_order, needs_of
from jupyterhub_agentfarm.agents.dispatch.room import Room
from jupyterhub_agentfarm.agents.models import Agent, AgentLimits, Task, TaskRequest
from jupyterhub_agentfarm.controller.views import node_view
from jupyterhub_agentfarm.models import Kernel, Lease, PlacementRequest, UserOptions
from jupyterhub_agentfarm.records import to_json

AGENTS = {name: make_agent(name, limits=AgentLimits(servers=3, gpus=2)) for name in ("a", "b", "c")}


def asked(number: int, agent: str = "a", *, priority: int = 0, warm: str | None = None, **options: Any) -> Asked:
    """Return a task with this number, which is older than those with larger ones."""
    request = TaskRequest(path="n.ipynb", priority=priority)
    task = Task(f"{number:016x}", agent, "available", "submitted", "", request, float(number), agent, 0.0, 0.0)
    return Asked(task, UserOptions(**options), needs_of(UserOptions(**options)), warm)


def room(*nodes: Any, leases: tuple[Lease, ...] = ()) -> Room:
    """Return the room on these nodes."""
    return Room([node_view(each, leases, lambda _lease: True) for each in nodes], to_json(list(leases)))


def chooser(executing: int = 10, waiting: int = 2, agents: dict[str, Agent] = AGENTS) -> Chooser:
    """Return a chooser with these bounds."""
    return Chooser(Bounds(executing, waiting), agents)


def held(number: int, *gpus: str, on: str | None = "n1", cpus: float = 0, **options: Any) -> Lease:
    """Return a lease of somebody else's."""
    request = PlacementRequest("other", f"s{number}", UserOptions(gpus=len(gpus), **options), cpus)
    return Lease(f"{number:032x}", "other", f"s{number}", "running", number, request, time.time(), on, gpus)


def test_the_order() -> None:
    """Priority first, then the agent with fewer attempts, then age."""
    tasks = [asked(1), asked(2, "b"), asked(3, priority=1), asked(4, "c"), asked(5, "b", priority=1)]
    order = in_order(tasks, Counter({"a": 1, "c": 0, "b": 2}))
    assert [int(each.task.id, 16) for each in order] == [3, 5, 4, 1, 2]


def test_agents_take_turns() -> None:
    """Of three bursts that came one after the other, each agent gets as many as the others."""
    tasks = {number: asked(number, "abc"[number // 10]) for number in range(30)}
    agents = {name: make_agent(name, limits=AgentLimits(servers=100)) for name in "abc"}
    standing, nodes = Standing(), room(node("n1"))
    for _ in range(6):
        best = chooser(6, 6, agents).best(tasks.values(), standing, nodes)
        assert best is not None
        del tasks[int(best.task.id, 16)]
        standing.begin(best.task.agent, f"s{best.task.id}", best.options, warm=False)
    assert standing.executing == {"a": 2, "b": 2, "c": 2}
    assert chooser(6, 6, agents).best(tasks.values(), standing, nodes) is None


def test_what_can_be_served_passes_what_cannot() -> None:
    """With the line full of tasks that wait, one that room is seen for goes; the like of those does not."""
    nodes = room(node("n1", gpu("GPU-a")), leases=(held(1, "GPU-a"),))
    stuck = [asked(number, gpus=1) for number in (1, 2, 3)]
    standing = Standing(waiting=Counter({needs_of(UserOptions(gpus=1)): 2}), executing=Counter({"b": 2}))
    assert chooser().best(stuck, standing, nodes) is None
    best = chooser().best([*stuck, asked(4, "c")], standing, nodes)
    assert best is not None
    assert best.task.agent == "c"


def test_a_few_wait_in_the_line() -> None:
    """What no room is seen for is sent into the line, but only so many; those not placed yet count."""
    nodes, standing = room(node("n1")), Standing()
    for unplaced in range(2):
        standing.unplaced = unplaced
        assert chooser().best([asked(1, gpus=1)], standing, nodes) is not None
    standing.unplaced = 2
    assert chooser().best([asked(1, gpus=1), asked(2)], standing, nodes) is None


def test_evidence_beats_the_look_ahead() -> None:
    """Where the like of a task waits although room was seen, that task counts as one that no room is seen for."""
    nodes = room(node("n1"))
    standing = Standing(waiting=Counter({needs_of(UserOptions()): 1, needs_of(UserOptions(gpus=2)): 1}))
    assert chooser().best([asked(1)], standing, nodes) is None
    assert chooser().best([asked(1), asked(2, cpus=1)], standing, nodes) is not None


def test_agents_limits() -> None:
    """An agent at its limit of servers or GPUs keeps waiting here, and others go; what can never be is let through."""
    standing = Standing()
    for number in range(2):
        standing.add_server("a", f"s{number}", 1)
    nodes = room(node("n1", *(gpu(f"GPU-{each}") for each in "abcdef")))
    assert chooser().best([asked(1, gpus=1)], standing, nodes) is None
    assert chooser().best([asked(1, gpus=1), asked(2, "b", gpus=1)], standing, nodes) is not None
    assert chooser().best([asked(1)], standing, nodes) is not None
    standing.add_server("a", "s2", 0)
    assert chooser().best([asked(1)], standing, nodes) is None
    assert chooser().kept_by_limits([asked(1), asked(2, "b")], standing) == {"a"}
    assert chooser().best([asked(1, gpus=3)], standing, nodes) is not None, "the controller says why it never can"
    standing.add_server("a", "s2", 0)
    assert standing.servers["a"] == {"s0": 1, "s1": 1, "s2": 0}


def test_agents_that_are_not_active_are_left_out() -> None:
    """Tasks of an agent that is suspended or unknown stay where they are."""
    assert chooser().best([asked(1, "gone")], Standing(), room(node("n1"))) is None


def test_a_warm_server_needs_no_room() -> None:
    """A task with a server that waits for it goes although nothing is free and its agent is at its limit."""
    standing = Standing(unplaced=5)
    for number in range(3):
        standing.add_server("a", f"s{number}", 0)
    best = chooser().best([asked(1, warm="s1")], standing, room())
    assert best is not None
    assert best.warm == "s1"
    standing.executing["a"] = 10
    assert chooser().best([asked(1, warm="s1")], standing, room()) is None, "as many execute as may"


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({}, True),
        ({"gpus": 1}, True),
        ({"gpus": 2}, False),
        ({"gpus": 1, "gpu_model": "a100"}, False),
        ({"gpus": 1, "gpu_model": "t4"}, True),
        ({"gpus": 1, "gpu_memory_bytes": 2**34}, False),
        ({"cpus": 3}, True),
        ({"cpus": 4}, False),
        ({"memory_bytes": 31 * 2**30}, False),
        ({"kernel": "python3"}, True),
        ({"kernel": "ir"}, False),
        ({"node": "n1"}, True),
        ({"node": "n2"}, False),
        ({"labels": {"disk": "nvme"}}, True),
        ({"labels": {"disk": "hdd"}}, False),
    ],
)
def test_room_on_a_node(options: dict[str, Any], fits: bool) -> None:
    """GPUs that nobody holds or works on, cores and memory neither promised nor in use, labels, kernels."""
    devices = (gpu("GPU-a"), gpu("GPU-b", "Tesla T4", 15), gpu("GPU-c", "Tesla T4", 15, foreign_pids=(9,)))
    report = telemetry(*devices, cpus=8, cpu_utilization_ratio=0.5)
    known = node("n1", report=report, labels={"disk": "nvme"}, kernels=(Kernel("python3"),))
    there = room(known, leases=(held(1, "GPU-a", cpus=5),))
    asked_for = UserOptions(**options)
    assert there.fits(asked_for, asked_for.labels) is fits
    assert there.take(asked_for, asked_for.labels) is fits


def test_taken_room_is_gone() -> None:
    """What was seen room for once is not seen for the next."""
    there = room(node("n1", gpu("GPU-a"), gpu("GPU-b")))
    one = UserOptions(gpus=1)
    assert [there.take(one, {}) for _ in range(3)] == [True, True, False]
    assert not there.fits(one, {})


def test_what_the_line_waits_for_is_kept() -> None:
    """Of a node that a waiting request could be served by, nothing that it waits for counts as free; the rest does."""
    known = node("n1", gpu("GPU-a"), gpu("GPU-b", "Tesla T4"), labels={"disk": "nvme"})
    waiting = replace(held(1, "GPU-x", on=None, gpu_model="a100"), state="waiting", gpus=())
    there = room(known, leases=(waiting,))
    assert not there.fits(UserOptions(gpus=1, gpu_model="a100"), {})
    assert there.fits(UserOptions(gpus=1, cpus=1), {})
    cores = replace(held(2, on=None, cpus=99, labels={"disk": "nvme"}), state="waiting")
    assert not room(known, leases=(cores,)).fits(UserOptions(cpus=1), {})
    assert room(known, leases=(cores,)).fits(UserOptions(gpus=2), {})
    assert room(node("n2"), leases=(cores,)).fits(UserOptions(cpus=1), {}), "it could not be served there"


def test_nodes_without_room() -> None:
    """A node that is cordoned or has not reported has none; one whose kernels are not known may have any."""
    assert not room(node("n1", state="unreachable")).fits(UserOptions(), {})
    assert not room(node("n1", telemetry=None)).fits(UserOptions(), {})
    assert room(node("n1")).fits(UserOptions(kernel="ir"), {})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(-2, 2)), max_size=12), st.data())
def test_whatever_is_asked_the_bounds_hold(wanted: list[tuple[str, int, int]], data: Any) -> None:
    """However tasks are mixed, no bound and no limit is passed, and nothing that fits is kept back by what does not."""
    tasks = [asked(n, agent, priority=p, gpus=gpus) for n, (agent, gpus, p) in enumerate(wanted)]
    nodes = room(node("n1", gpu("GPU-a")))
    standing, bounds = Standing(), chooser(data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3)))
    while (best := bounds.best(tasks, standing, nodes)) is not None:
        tasks.remove(best)
        fits = nodes.take(best.options, {})
        standing.begin(best.task.agent, best.task.id, best.options, warm=False)
        standing.unplaced -= 1
        if not fits:
            standing.waiting[needs_of(best.options)] += 1
    assert standing.total <= bounds.bounds.executing
    assert standing.waiting.total() <= bounds.bounds.waiting
    assert all(len(mine) <= 3 and sum(mine.values()) <= 2 for mine in standing.servers.values())
    if standing.total < bounds.bounds.executing:
        for left in tasks:
            limited = not standing.within_limits(AGENTS[left.task.agent], left.options.gpus)
            assert limited or not nodes.fits(left.options, {}) or standing.waiting[needs_of(left.options)]
