"""Filters: which refusal, whether it may end, and its sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from node_records import GIB, gpu, request, telemetry, view

from jupyterhub_agentfarm.models import Filesystem, Kernel, Mark
from jupyterhub_agentfarm.placement.filters import REFUSALS, Limits, refusal
from jupyterhub_agentfarm.placement.view import Held, NodeView, OwnerUse, Promised

A, B = gpu("GPU-a"), gpu("GPU-b", "NVIDIA T4", 16)
MARK = Mark("new disks", 0.0, "root")
KEPT = Mark("a benchmark", 0.0, "benchmark", kept_for="benchmark")
NEVER_UP = {"telemetry": None, "reported_at": None}
CASES = [
    ("node", view("n1"), request(node="n2"), False, "the node n2 was asked for"),
    (
        "avoided",
        view("n1"),
        replace(request(), avoid=("n1",)),
        False,
        "could not start the server a moment ago",
    ),
    ("avoided", view("n1"), request(avoid=("n1",)), True, "is to be avoided as long as another node can take it"),
    ("not_eligible", view(cordon=MARK), request(), True, "is cordoned: new disks"),
    ("not_eligible", view(drain=MARK), request(), True, "is draining: new disks"),
    ("not_eligible", view(drain=KEPT), request(node="n1"), True, "is draining: a benchmark"),
    ("not_eligible", view(drain=KEPT), request("benchmark"), True, "is draining: a benchmark"),
    ("not_eligible", view(drain=KEPT, cordon=MARK), request("benchmark", node="n1"), True, "is draining: a benchmark"),
    ("not_eligible", view(drain=MARK), request("", node="n1"), True, "is draining: new disks"),
    ("not_eligible", view(state="unreachable", detail="no route"), request(), True, "is unreachable"),
    ("not_eligible", view(state="down", detail="no route", **NEVER_UP), request(gpus=9), True, "is down"),
    ("not_eligible", view(reconciled=False), request(), True, "its servers are being checked"),
    ("labels", view(labels={"room": "b"}), request(labels={"room": "a"}), False, "has no label room=a"),
    (
        "kernel",
        view(kernels=(Kernel("python3", "python"), Kernel("ir", "R"))),
        request(kernel="julia-1.10"),
        False,
        "has no kernel julia-1.10, it has ir, python3",
    ),
    ("kernel", view(kernels=()), request(kernel="ir"), False, "has no kernel ir, it has none"),
    ("kernel", view(), request(kernel="ir"), True, "has not told its kernels yet"),
    (
        "kernel",
        view(kernels_error="no Python there"),
        request(kernel="ir"),
        True,
        "has not told its kernels yet: no Python there",
    ),
    ("stale_telemetry", view(fresh=False), request(), True, "has not reported lately"),
    ("stale_telemetry", view(**NEVER_UP), request(), True, "has not reported yet"),
    ("gpus", view(), request(gpus=1), False, "needs 1 GPU, it has none"),
    ("gpus", view("n1", A), request(gpus=2), False, "needs 2 GPUs, it has 1"),
    (
        "gpus",
        view("n1", A, B, promised=Promised(frozenset({"GPU-a"}))),
        request(gpus=2),
        True,
        "needs 2 GPUs, 1 is free",
    ),
    (
        "gpus",
        view("n1", A, promised=Promised(frozenset({"GPU-a"}))),
        request(gpus=1),
        True,
        "needs 1 GPU, none is free",
    ),
    (
        "gpus",
        view("n1", A, held=Held(frozenset({"GPU-a"}))),
        request(gpus=1),
        True,
        "needs 1 GPU, what is free is kept for an earlier request",
    ),
    (
        "gpus",
        view(report=telemetry(gpu_health="hanging", gpu_error="NVML does not answer")),
        request(gpus=1),
        True,
        "its GPUs cannot be read: NVML does not answer",
    ),
    ("gpu_model", view("n1", B), request(gpus=1, gpu_model="a100"), False, "needs 1 GPU 'a100', it has NVIDIA T4"),
    (
        "gpu_memory",
        view("n1", B),
        request(gpus=1, gpu_memory_bytes=24 * GIB),
        False,
        "needs 1 GPU with 24 GiB, its largest has 16 GiB",
    ),
    (
        "foreign_process",
        view("n1", gpu("GPU-a", foreign_pids=(42,))),
        request(gpus=1),
        True,
        "needs 1 GPU, processes from outside the farm use one (pid 42)",
    ),
    ("cpu", view(), request(cpus=9), False, "needs 9 of 8 cores, 8.0 are free"),
    ("cpu", view(promised=Promised(cpus=6)), request(cpus=4), True, "needs 4 of 8 cores, 2.0 are free"),
    (
        "cpu",
        view(report=telemetry(cpu_utilization_ratio=0.75)),
        request(cpus=4),
        True,
        "needs 4 of 8 cores, 2.0 are free",
    ),
    (
        "cpu",
        view(held=Held(cpu=True)),
        request(cpus=1),
        True,
        "needs 1 of 8 cores, what is free is kept for an earlier request",
    ),
    ("memory", view(), request(memory_gib=64), False, "needs 64 GiB of 32 GiB memory, 30 GiB are free"),
    ("memory", view(), request(memory_gib=31), True, "needs 31 GiB of 32 GiB memory, 30 GiB are free"),
    (
        "memory",
        view(promised=Promised(unseen_memory_bytes=20 * GIB)),
        request(memory_gib=16),
        True,
        "needs 16 GiB of 32 GiB memory, 10 GiB are free",
    ),
]


@pytest.mark.parametrize(("name", "node_view", "wanted", "later", "detail"), CASES, ids=lambda value: str(value)[:40])
def test_refusal(name: str, node_view: NodeView, wanted: object, later: bool, detail: str) -> None:
    """Each refusal has its name, says whether it can end, and reads like this."""
    found = refusal(node_view, wanted, Limits())  # type: ignore[arg-type]
    assert found is not None
    assert (found.name, found.later, found.detail) == (name, later, detail)
    assert found.name in REFUSALS


def test_an_idle_node_passes() -> None:
    """A node that has everything is refused by no filter."""
    wanted = request(
        gpus=1,
        gpu_model="A100",
        gpu_memory_bytes=40 * GIB,
        cpus=8,
        memory_gib=30,
        labels={"x": "y"},
        node="n1",
        kernel="IR",
    )
    idle = view("n1", A, B, labels={"x": "y"}, kernels=(Kernel("ir"),))
    assert refusal(idle, wanted, Limits(min_disk_bytes=GIB)) is None
    unknown = view("n1", A, B, labels={"x": "y"})
    assert refusal(unknown, replace(wanted, options=replace(wanted.options, kernel="")), Limits()) is None


def test_disk() -> None:
    """A full filesystem refuses only when it is one of those that count."""
    report = telemetry(filesystems=(Filesystem("/", 10 * GIB, GIB // 2), Filesystem("/boot", GIB, 0)))
    found = refusal(view(report=report), request(), Limits(min_disk_bytes=GIB))
    assert found is not None
    assert (found.name, found.later, found.detail) == ("disk", True, "needs 1 GiB of disk, 0.5 GiB are free in /")
    assert refusal(view(report=report), request(), Limits(min_disk_bytes=GIB // 4)) is None


@pytest.mark.parametrize(
    ("use", "later"),
    [(OwnerUse(gpus=2, max_gpus=2), True), (OwnerUse(gpus=0, max_gpus=0), False), (OwnerUse(3, None, 3, 3), True)],
)
def test_quota(use: OwnerUse, later: bool) -> None:
    """An owner at the quota waits for servers of their own to end; what a quota can never allow is refused."""
    found = refusal(view("n1", A), request(gpus=1), Limits(use))
    assert found is not None
    assert (found.name, found.later) == ("quota", later)


def test_the_refusal_that_never_ends_is_told() -> None:
    """A busy, cordoned node without the label is refused for the label: waiting would be in vain."""
    found = refusal(view(cordon=MARK), request(labels={"room": "a"}), Limits())
    assert found is not None
    assert (found.name, found.later) == ("labels", False)


def test_mig_parent_is_not_leased() -> None:
    """A GPU split into MIG devices counts as its parts only."""
    parts = [gpu(f"MIG-{i}", memory_gib=5, parent_uuid="GPU-a") for i in range(2)]
    split = view("n1", A, *parts)
    assert [device.uuid for device in split.gpus] == ["MIG-0", "MIG-1"]
    assert refusal(split, request(gpus=3), Limits()) is not None
    assert refusal(split, request(gpus=2), Limits()) is None


def test_a_drained_node_takes_whom_it_is_kept_for() -> None:
    """The owner that a node is kept for gets in by asking for it by name, and nobody else does."""
    assert refusal(view(drain=KEPT), request("benchmark", node="n1"), Limits()) is None
