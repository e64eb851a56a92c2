"""What a run means, in numbers and in sentences; pure functions of its records."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .models import BenchmarkRun, CaseResult, RunNode, Sample

#: Outcomes that count as not delivered; skipped cases were not asked of the node.
FAULTS = ("failed", "timed_out", "lost", "cancelled")


@dataclass(frozen=True)
class CaseSummary:
    """One case over all nodes."""

    case: str
    succeeded: int
    tried: int
    median_seconds: float | None
    slowest_seconds: float | None
    slowest_node: str
    #: Name of the primary figure, when the nodes agree on one.
    primary: str
    #: Sum of the primary figures: what the farm delivered at once.
    farm_total: float | None
    #: Jain's index of the primary figures, 1 when all nodes delivered the same; None below two nodes.
    balance: float | None


@dataclass(frozen=True)
class Usage:
    """Means and peaks of what a node, a role or the farm used."""

    name: str
    scope: str
    cpu_mean_ratio: float | None
    memory_peak_ratio: float | None
    gpu_mean_ratio: float | None
    gpu_memory_peak_ratio: float | None
    load_mean: float | None
    power_mean_watts: float | None
    #: Share of the samples in which the node was connected.
    up_ratio: float
    #: Uptime at the end, in seconds.
    uptime_seconds: float | None
    succeeded_per_minute: float | None


def jain_index(values: Sequence[float]) -> float | None:
    """Return Jain's fairness index, (Σx)² / (n·Σx²): 1/n when one does all, 1 when all do the same."""
    squares = sum(value * value for value in values)
    if len(values) < 2 or squares == 0:
        return None
    return sum(values) ** 2 / (len(values) * squares)


def summarize_case(case: str, results: Iterable[CaseResult]) -> CaseSummary:
    """Return one case's results over all nodes as one record."""
    here = [result for result in results if result.case == case]
    good = [result for result in here if result.outcome == "succeeded"]
    timed = [(r.duration_seconds, r.node) for r in good if r.duration_seconds is not None]
    slowest = max(timed, default=None)
    names = {result.primary for result in good if result.primary_value is not None}
    values = [r.primary_value for r in good if r.primary_value is not None] if len(names) == 1 else []
    return CaseSummary(
        case=case,
        succeeded=len(good),
        tried=sum(result.outcome != "skipped" for result in here),
        median_seconds=statistics.median(seconds for seconds, _ in timed) if timed else None,
        slowest_seconds=slowest[0] if slowest else None,
        slowest_node=slowest[1] if slowest else "",
        primary=str(next(iter(names))) if len(names) == 1 else "",
        farm_total=sum(values) if values and _adds_up(str(next(iter(names)))) else None,
        balance=jain_index(values),
    )


def _adds_up(name: str) -> bool:
    """Whether nodes' figures of this name can be added up: rates can, times and shares cannot."""
    return name.endswith(("_per_second", "_gflops", "_tflops", "_per_minute"))


def usage(name: str, scope: str, samples: Iterable[Sample]) -> Usage:
    """Return what one node, role or the farm used, from the samples of a run."""
    own = [sample for sample in samples if (sample.scope, sample.name) == (scope, name)]
    values = [sample.values for sample in own]
    seconds = own[-1].at - own[0].at if own else 0
    succeeded = values[-1].get("cases_succeeded", 0) if values else 0
    nodes = values[-1].get("nodes", 1) if values else 1
    return Usage(
        name=name,
        scope=scope,
        cpu_mean_ratio=_mean(v.get("cpu_utilization_ratio") for v in values),
        memory_peak_ratio=_peak(_share(v, "memory") for v in values),
        gpu_mean_ratio=_mean(v.get("gpu_utilization_ratio") for v in values),
        gpu_memory_peak_ratio=_peak(_share(v, "gpu_memory") for v in values),
        load_mean=_mean(v.get("load1") for v in values),
        power_mean_watts=_mean(v.get("gpu_power_watts") for v in values),
        up_ratio=sum(v.get("up", 0) for v in values) / (nodes * len(values)) if values else 0.0,
        uptime_seconds=next((v["uptime_seconds"] for v in reversed(values) if "uptime_seconds" in v), None),
        succeeded_per_minute=60 * succeeded / seconds if seconds > 0 else None,
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return statistics.fmean(known) if known else None


def _peak(values: Iterable[float | None]) -> float | None:
    return max(_known(values), default=None)


def _share(values: object, what: str) -> float | None:
    if not isinstance(values, dict) or not values.get(f"{what}_total_bytes"):
        return None
    used = values.get(f"{what}_used_bytes")
    return None if used is None else float(used) / float(values[f"{what}_total_bytes"])


def plural(number: int, word: str) -> str:
    """Return "1 node", "2 nodes"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def seconds_text(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def number_text(value: float) -> str:
    """Return a figure for people: thousands apart, at most four digits that matter."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def verdict(run: BenchmarkRun, results: Sequence[CaseResult]) -> tuple[str, tuple[str, ...]]:
    """Return the run's verdict: the headline, and sentences that carry it."""
    taking_part = run.taking_part
    counted = [result for result in results if result.outcome != "skipped"]
    good = sum(result.outcome == "succeeded" for result in counted)
    sentences = list(_delivered(run, results))
    sentences += _faults(counted)
    sentences += _skipped(run, results)
    if any(gpu.get("simulated") for node in taking_part for gpu in _gpus_of(node.about)):
        sentences.append("GPUs marked as simulated do not exist: their figures say nothing about a device.")
    sentences += _same_machine(taking_part)
    where = plural(len(taking_part), "node")
    skipped = sum(r.outcome == "skipped" and r.node in {node.name for node in taking_part} for r in results)
    also = f", {skipped} skipped" if skipped else ""
    if run.going:
        return f"The run is still {run.state}: {good} of {len(run.cases) * len(taking_part)} cases done", tuple(
            sentences
        )
    if run.state != "completed":
        why = f": {run.detail}" if run.detail else ""
        return f"The run was not completed, it {_ENDED[run.state]}{why}", tuple(sentences)
    if not counted:
        return f"Nothing was measured on {where}: every case was skipped", tuple(sentences)
    if good == len(counted):
        return f"{where} delivered: all {len(counted)} cases succeeded{also}", tuple(sentences)
    return f"{good} of {len(counted)} cases succeeded on {where}{also}", tuple(sentences)


_ENDED = {"failed": "failed", "cancelled": "was cancelled", "interrupted": "was interrupted"}


def _gpus_of(about: object) -> list[dict[str, object]]:
    gpus = about.get("gpus") if isinstance(about, dict) else None
    return gpus if isinstance(gpus, list) else []


def _delivered(run: BenchmarkRun, results: Sequence[CaseResult]) -> Iterable[str]:
    for case in run.cases:
        summary = summarize_case(case, results)
        if not summary.succeeded:
            continue
        text = f"{case}: {summary.succeeded} of {plural(summary.tried, 'node')} succeeded"
        if summary.median_seconds is not None:
            text += f", median {seconds_text(summary.median_seconds)}"
        if summary.farm_total is not None:
            text += f"; together they delivered {number_text(summary.farm_total)} {label(summary.primary)}"
        yield text + "".join(_balances(run, case, results)) + "."


def _balances(run: BenchmarkRun, case: str, results: Sequence[CaseResult]) -> Iterable[str]:
    """Say for each role how evenly its nodes delivered: a GPU server is not meant to equal a microserver."""
    for role, title in (("microserver", "microservers"), ("gpuserver", "GPU servers")):
        names = {node.name for node in run.nodes if node.role == role}
        index = summarize_case(case, [result for result in results if result.node in names]).balance
        if index is not None:
            how = "evenly" if index >= 0.98 else "somewhat unevenly" if index >= 0.9 else "unevenly"
            yield f", {how} over the {title} (Jain's index {index:.3f})"


def _faults(results: Sequence[CaseResult]) -> Iterable[str]:
    counts = Counter((r.outcome, r.node, r.reason or (r.error.message if r.error else "")) for r in results)
    for (outcome, node, reason), count in sorted(counts.items()):
        if outcome in FAULTS:
            why = f": {reason}" if reason else ""
            yield f"{node}: {plural(count, 'case')} {outcome.replace('_', ' ')}{why}."


def _skipped(run: BenchmarkRun, results: Sequence[CaseResult]) -> Iterable[str]:
    for node in run.nodes:
        if node.skipped:
            yield f"{node.name} took no part: {node.skipped}."
    absent = {node.name for node in run.nodes if node.skipped}
    reasons = Counter((r.case, r.reason) for r in results if r.outcome == "skipped" and r.node not in absent)
    for (case, reason), count in sorted(reasons.items()):
        yield f"{case} was skipped on {plural(count, 'node')}{': ' + reason if reason else ''}."


def _same_machine(nodes: Sequence[RunNode]) -> Iterable[str]:
    """Say which nodes are one machine under several names, as in the demo: what they use is counted more than once."""
    machines: dict[object, list[str]] = {}
    for node in nodes:
        facts = node.about.get("facts")
        if isinstance(facts, dict) and facts.get("boot_id"):
            machines.setdefault(facts["boot_id"], []).append(node.name)
    for names in machines.values():
        if len(names) > 1:
            together = f"{', '.join(names[:-1])} and {names[-1]}"
            yield f"{together} are one machine: CPU, memory and load are that machine's, its processors were shared."


def label(name: str) -> str:
    """Return the name of a figure for people: "train_samples_per_second" → "train samples/s"."""
    text = name.replace("_per_second", "/s").replace("_gflops", " GFLOP/s").replace("_tflops", " TFLOP/s")
    return text.replace("_ratio", " (share)").replace("_bytes", " (bytes)").replace("_", " ")
