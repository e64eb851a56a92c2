"""Records of benchmark runs, made up with known properties: what reports are tested on."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

from jupyterhub_agentfarm.benchmark.models import (
    BenchmarkRun,
    CaseResult,
    LimitOutcome,
    Phase,
    RunEvent,
    RunNode,
    Sample,
)
from jupyterhub_agentfarm.benchmark.report import Report

GIB = 2**30
#: When every made-up run starts.
START = 1_790_000_000.0


def run_node(name: str, role: str = "microserver", **about: Any) -> RunNode:
    """Return a node's part in a run; `about` replaces what it tells of itself."""
    big = role == "gpuserver"
    gpus = [
        {
            "uuid": f"GPU-{name}-{number}",
            "name": "NVIDIA H100 80GB" if big else "NVIDIA T4",
            "memory_total_bytes": (80 if big else 16) * GIB,
            "simulated": about.get("simulated", False),
        }
        for number in range(about.get("gpus", 1))
    ]
    facts = {
        "version": "0.6.0",
        "os": "Debian GNU/Linux 12",
        "arch": "x86_64",
        "python": "3.11.2",
        "driver_version": "550.54.15",
        "boot_id": about.get("boot_id", f"{hash_of(name)}-boot"),
    }
    told = {
        "facts": facts,
        "cpus": about.get("cpus", 64 if big else 8),
        "memory_total_bytes": (512 if big else 32) * GIB,
        "gpus": gpus,
        "labels": {},
        "clock_skew_seconds": 0.01,
    }
    return RunNode(name, role, about.get("skipped", ""), min(1, about.get("gpus", 1)), told)


def hash_of(name: str) -> str:
    """Return eight characters that are the same for the same name in every process."""
    return f"{random.Random(name).getrandbits(32):08x}"  # noqa: S311


def run_record(nodes: Sequence[RunNode], cases: Sequence[str], seconds: float, **changes: Any) -> BenchmarkRun:
    """Return a run over `nodes` that ended after so many seconds of measuring."""
    definition = {
        "cases": [{"name": case} for case in cases],
        "sha256": "ab" * 32,
        **changes.pop("definition", {}),
    }
    values: dict[str, Any] = {
        "id": "20260921-141320-abcdef",
        "suite": "soak",
        "state": "completed",
        "detail": "",
        "requested_by": "ada",
        "created_at": START - 12,
        "definition": definition,
        "nodes": tuple(nodes),
        "provenance": {"agentfarm": "0.6.0", "commit": "c0ffee", "python": "3.11.2"},
        "started_at": START,
        "ended_at": START + seconds + 3,
        "passed": True,
        "sample_interval_seconds": 30.0,
    }
    return BenchmarkRun(**(values | changes))


def success(node: str, case: str, at: float, seconds: float, **changes: Any) -> CaseResult:
    """Return a success that began so many seconds after the start; a `rate` is its primary figure."""
    rate = changes.pop("rate", None)
    figures = {} if rate is None else {"records_per_second": rate}
    values: dict[str, Any] = {
        "figures": figures,
        "primary": "records_per_second" if figures else None,
        "device": changes.pop("device", ""),
        "ended_at": START + at + seconds,
    }
    return CaseResult(node, case, "succeeded", "", START + at, seconds, **(values | changes))


def sample(node: str, at: float, **values: float) -> Sample:
    """Return a sample of a node so many seconds after the start; of a node that is up unless `up` says otherwise."""
    if values.get("up", 1) == 0:
        return Sample(START + at, "node", node, {"up": 0.0, "cases_succeeded": values.get("cases_succeeded", 0)})
    return Sample(START + at, "node", node, {"up": 1.0, "cpus": 8.0, "gpus": 1.0, **values})


def farm_samples(node: RunNode, at: float, wave: random.Random, busy: float = 1.0) -> Sample:
    """Return a plausible sample of a node under work."""
    big = node.role == "gpuserver"
    gpu = min(1.0, max(0.0, busy * wave.gauss(0.93 if big else 0.82, 0.06)))
    total, gpu_total = (512 if big else 32) * GIB, (80 if big else 16) * GIB
    return sample(
        node.name,
        at,
        cpus=64.0 if big else 8.0,
        cpu_utilization_ratio=min(1.0, max(0.0, busy * wave.gauss(0.3 if big else 0.55, 0.05))),
        load1=(64 if big else 8) * busy * 0.5,
        memory_total_bytes=total,
        memory_used_bytes=total * (0.35 + 0.1 * busy) + at * 2e4,
        gpu_utilization_ratio=gpu,
        gpu_memory_total_bytes=gpu_total,
        gpu_memory_used_bytes=gpu_total * (0.2 + 0.5 * gpu),
        gpu_power_watts=(120 + 500 * gpu) if big else (20 + 45 * gpu),
        uptime_seconds=864_000 + at,
        boot_at=START - 864_000,
        clock_skew_seconds=wave.gauss(0.004, 0.001),
        disk_used_bytes=100 * GIB,
        disk_total_bytes=400 * GIB,
    )


def soak_report(
    microservers: int = 4,
    seconds: float = 14_400,
    case_seconds: float = 300,
    interval_seconds: float = 60,
    slow_node: int = 2,
    **changes: Any,
) -> Report:
    """Return a report of hours of work on some nodes: one is lost and comes back, the service is away once."""
    wave = random.Random(7)  # noqa: S311
    nodes = [run_node(f"micro-{number + 1:02d}") for number in range(microservers)]
    nodes.append(run_node("big-01", "gpuserver"))
    cases = ("conv-net", "transformer", "etl")
    lost = (nodes[1].name, seconds * 0.4, seconds * 0.47) if microservers > 1 else ("", 0.0, 0.0)
    gap = (seconds * 0.7, seconds * 0.72)
    results, samples = [], []
    for place, node in enumerate(nodes):
        speed = (0.72 if place == slow_node else 1.0) * (6 if node.role == "gpuserver" else 1)
        at, repetition = 0.0, 1
        while at < seconds - case_seconds:
            for case in cases:
                took = case_seconds / len(cases) * wave.uniform(0.93, 1.05)
                away = node.name == lost[0] and lost[1] - took < at < lost[2]
                rate = round(1000 * speed * wave.gauss(1, 0.015), 2)
                done = success(node.name, case, at, took, rate=rate, device="cuda: NVIDIA T4", repetition=repetition)
                if away:
                    results.append(CaseResult(node.name, case, "lost", "the node is down", repetition=repetition))
                    at = lost[2]
                    break
                results.append(done)
                at += took + 1.5
            repetition += 1
        for number in range(int(seconds / interval_seconds) + 1):
            moment = number * interval_seconds
            if gap[0] < moment < gap[1]:
                continue
            if node.name == lost[0] and lost[1] <= moment < lost[2]:
                samples.append(sample(node.name, moment, up=0))
            else:
                samples.append(farm_samples(node, moment, wave))
    samples.sort(key=lambda one: one.at)
    events = [
        RunEvent(START, "run_started"),
        RunEvent(START, "phase_started", "", "main"),
        RunEvent(START + lost[1], "node_lost", lost[0], "no heartbeat for 10 s"),
        RunEvent(START + lost[2], "node_back", lost[0], "", lost[2] - lost[1]),
        RunEvent(START + gap[1], "service_gap", "", "the benchmark service was away", gap[1] - gap[0]),
        RunEvent(START + seconds, "phase_ended", "", "main"),
    ]
    phase = Phase("main", tuple(node.name for node in nodes), 1, None, seconds)
    limits = (LimitOutcome("max_memory_ratio", 0.9, 0.52, True), LimitOutcome("max_nodes_lost", 0, 1, False))
    values: dict[str, Any] = {"limits": limits, "passed": False, "sample_interval_seconds": interval_seconds}
    definition = {"phases": [phase_json(phase)], "mode": "duration", "work": "each"}
    run = run_record(nodes, cases, seconds, definition=definition, **(values | changes))
    return Report(run, results, samples, [event for event in events if event.node or event.kind != "node_lost"])


@functools.cache
def soak_page() -> str:
    """Return the page of `soak_report()`, drawn once."""
    return soak_report().html()


def phase_json(phase: Phase) -> dict[str, Any]:
    """Return a phase as a run's definition holds it."""
    return {**vars(phase), "nodes": list(phase.nodes)}
