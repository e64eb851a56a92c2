"""What held the work up."""

from __future__ import annotations

import dataclasses

import pytest
from benchmark_records import GIB, phase_json, run_node, run_record, sample, success

from jupyterhub_agentfarm.benchmark.models import CaseError, CaseResult, Phase
from jupyterhub_agentfarm.benchmark.report.bottleneck import Bottleneck
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence
from jupyterhub_agentfarm.benchmark.report.findings import Findings

PHASE = Phase("main", ("n1",))
BUSY = (success("n1", "train", 0, 99, phase="main"),)


def found(results: tuple[CaseResult, ...] = BUSY, seconds: float = 100, **values: float) -> Bottleneck:
    """Return the bottleneck of a node that used so much all the time."""
    samples = [sample("n1", at, **values) for at in range(0, 101, 10)] if values else []
    definition = {"phases": [phase_json(PHASE)]}
    run = run_record([run_node("n1")], ["train"], seconds, definition=definition, sample_interval_seconds=10.0)
    events = ()
    (one,) = Findings(Evidence(run, results, samples, events)).bottlenecks
    return one


@pytest.mark.parametrize(
    ("values", "resource"),
    [
        ({"gpu_utilization_ratio": 0.97, "cpu_utilization_ratio": 0.3}, "gpu"),
        ({"gpu_utilization_ratio": 0.4, "cpu_utilization_ratio": 0.96}, "cpu"),
        ({"gpu_utilization_ratio": 0.75, "cpu_utilization_ratio": 0.3}, "gpu"),
        ({"cpu_utilization_ratio": 0.3, "memory_used_bytes": 31 * GIB, "memory_total_bytes": 32 * GIB}, "memory"),
        ({"gpu_memory_used_bytes": 15.5 * GIB, "gpu_memory_total_bytes": 16 * GIB}, "gpu_memory"),
        ({"cpu_utilization_ratio": 0.2, "disk_busy_ratio": 0.99}, "disk"),
        ({"cpu_utilization_ratio": 0.2, "network_busy_ratio": 0.95}, "network"),
        ({"gpu_utilization_ratio": 0.2, "cpu_utilization_ratio": 0.13}, "notebook"),
        ({}, "unknown"),
    ],
)
def test_the_resource_that_is_used_up(values: dict[str, float], resource: str) -> None:
    """Each resource is the bottleneck when it is in use nearly all the time; when none is, the notebook is."""
    assert found(**values).resource == resource


def test_waiting_is_a_bottleneck() -> None:
    """When nothing was executed for most of the time, waiting is, whatever was in use meanwhile."""
    results = (success("n1", "train", 0, 20, phase="main"), success("n1", "train", 90, 10, phase="main"))
    one = found(results, cpu_utilization_ratio=0.5)
    assert one.resource == "waiting"
    assert "70" in one.sentence


def test_what_is_used_while_nothing_is_executed_does_not_count() -> None:
    """A GPU that somebody else used before the case began is not what held the case up."""
    run = run_record([run_node("n1")], ["train"], 100, sample_interval_seconds=10.0)
    samples = [sample("n1", at, gpu_utilization_ratio=0.1 if at >= 30 else 1.0) for at in range(0, 101, 10)]
    (one,) = Findings(Evidence(run, [success("n1", "train", 25, 75)], samples)).bottlenecks
    assert one.resource == "notebook"


@pytest.mark.parametrize(
    ("text", "resource"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "gpu_memory"),
        ("MemoryError: Unable to allocate 30. GiB", "memory"),
        ("the server was killed: out of memory", "memory"),
    ],
)
def test_memory_that_ran_out(text: str, resource: str) -> None:
    """Cases that failed because memory ran out say so themselves."""
    failed = CaseResult("n1", "train", "failed", "cell 3 raised", phase="main", error=CaseError(text))
    one = found((*BUSY, failed), gpu_utilization_ratio=0.99)
    assert one.resource == resource
    assert one.sentence.startswith("1 case did not succeed because")


def test_one_failure_among_many_does_not_decide() -> None:
    """One case of forty that ran out of memory is a fault, and not what held the others up."""
    failed = CaseResult("n1", "train", "failed", "MemoryError", phase="main")
    assert found((*BUSY * 39, failed), gpu_utilization_ratio=0.99).resource == "gpu"


def test_the_notebook_is_told_with_its_processors() -> None:
    """On 8 processors of which an eighth is busy, the notebook has one thread at work."""
    assert "On average 1 of 8 processors were busy on a node." in found(cpu_utilization_ratio=0.125).sentence


def test_what_is_not_measured_is_not_ruled_out() -> None:
    """The report names the resources that nothing was measured of."""
    run = run_record([run_node("n1")], ["train"], 100, sample_interval_seconds=10.0)
    samples = [sample("n1", at, cpu_utilization_ratio=0.99) for at in range(0, 101, 10)]
    remarks = Findings(Evidence(run, BUSY, samples)).verdict.remarks
    assert any("the GPUs, the memory of the GPUs, memory, the disks and the network" in remark for remark in remarks)


def test_roles_have_bottlenecks_of_their_own() -> None:
    """The microservers' processors and the GPU server's GPU are told apart."""
    nodes = [run_node("n1"), run_node("big", "gpuserver")]
    run = run_record(nodes, ["train"], 100, sample_interval_seconds=10.0)
    samples = [sample("n1", at, cpu_utilization_ratio=0.99, gpu_utilization_ratio=0.1) for at in range(0, 101, 10)]
    samples += [sample("big", at, cpu_utilization_ratio=0.1, gpu_utilization_ratio=0.99) for at in range(0, 101, 10)]
    results = [dataclasses.replace(BUSY[0], node=name, phase="") for name in ("n1", "big")]
    both = Findings(Evidence(run, results, samples)).bottlenecks
    assert [(one.role, one.resource) for one in both] == [("microserver", "cpu"), ("gpuserver", "gpu")]
