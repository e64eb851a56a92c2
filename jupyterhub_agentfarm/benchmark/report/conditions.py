"""Under which conditions a run was made, and in what two runs' conditions differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..models import BenchmarkRun, RunNode
from .evidence import Evidence, facts_of, gpus_of
from .stability import Stability
from .wording import bytes_text, listed


@dataclass(frozen=True)
class NodeConditions:
    """What a node was."""

    name: str
    role: str
    #: Why it took no part; "" when it did.
    skipped: str
    cpus: int | None
    memory_total_bytes: float | None
    #: Names of its GPUs, simulated ones marked.
    gpus: tuple[str, ...]
    gpus_wanted: int
    os: str
    arch: str
    python: str
    #: Version of agentfarm on it.
    version: str
    driver_version: str
    boot_id: str
    #: The controller's clock less the node's: the median over the run, or as it was at the start.
    clock_skew_seconds: float | None
    #: Other nodes that are the same machine.
    same_machine_as: tuple[str, ...]


def node_conditions(evidence: Evidence, held: Stability) -> list[NodeConditions]:
    """Return what each node of the run was, also those that took no part."""
    skews = {node.node: node.clock_skew_seconds for node in held.nodes}
    return [_node(evidence, node, skews.get(node.name)) for node in evidence.run.nodes]


def _node(evidence: Evidence, node: RunNode, skew: float | None) -> NodeConditions:
    about, facts = node.about, facts_of(node)

    def fact(key: str) -> str:
        return str(facts.get(key) or "")

    same = next((names for names in evidence.machines if node.name in names), [])
    at_start = about.get("clock_skew_seconds")
    return NodeConditions(
        name=node.name,
        role=node.role,
        skipped=node.skipped,
        cpus=_whole(about.get("cpus")),
        memory_total_bytes=_number(about.get("memory_total_bytes")),
        gpus=tuple(_gpu(gpu) for gpu in gpus_of(about)),
        gpus_wanted=node.gpus,
        os=fact("os"),
        arch=fact("arch"),
        python=fact("python"),
        version=fact("version"),
        driver_version=fact("driver_version"),
        boot_id=fact("boot_id"),
        clock_skew_seconds=_number(at_start) if skew is None else skew,
        same_machine_as=tuple(name for name in same if name != node.name),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _gpu(gpu: Mapping[str, object]) -> str:
    memory = _number(gpu.get("memory_total_bytes"))
    size = f", {bytes_text(memory)}" if memory else ""
    return f"{gpu.get('name')}{size}{' (simulated)' if gpu.get('simulated') else ''}"


def differences(run: BenchmarkRun, baseline: BenchmarkRun) -> list[str]:
    """Return in what the conditions of two runs differ, a sentence each."""
    return [*_of_suite(run, baseline), *_of_programs(run, baseline), *_of_nodes(run, baseline)]


def _of_suite(run: BenchmarkRun, baseline: BenchmarkRun) -> Iterator[str]:
    if run.suite != baseline.suite:
        yield f"The suite is {run.suite}, that of the baseline {baseline.suite}."
    elif run.definition.get("sha256") != baseline.definition.get("sha256"):
        yield "The text of the suite was changed."
    changed = sorted(
        key
        for key in run.parameters.keys() | baseline.parameters.keys()
        if run.parameters.get(key) != baseline.parameters.get(key)
    )
    if changed:
        yield f"Parameters differ: {listed(changed)}."


def _of_programs(run: BenchmarkRun, baseline: BenchmarkRun) -> Iterator[str]:
    for key in ("agentfarm", "commit", "python"):
        before, now = baseline.provenance.get(key), run.provenance.get(key)
        if before != now:
            yield f"{key} of the service was {before or 'not known'} and is {now or 'not known'}."


def _of_nodes(run: BenchmarkRun, baseline: BenchmarkRun) -> Iterator[str]:
    now, before = ({node.name: node for node in of.taking_part} for of in (run, baseline))
    if added := sorted(now.keys() - before.keys()):
        yield f"{listed(added)} took no part in the baseline."
    if missing := sorted(before.keys() - now.keys()):
        yield f"{listed(missing)} took part in the baseline only."
    changed: dict[str, list[str]] = {}
    for name in sorted(now.keys() & before.keys()):
        for what, value in _identity(now[name]).items():
            if (earlier := _identity(before[name])[what]) != value:
                changed.setdefault(f"{what} was {earlier or 'not known'} and is {value or 'not known'}", []).append(
                    name
                )
    for what, names in changed.items():
        yield f"{listed(names)}: {what}."


def _identity(node: RunNode) -> dict[str, str]:
    facts = facts_of(node)
    found = {key: str(facts.get(key) or "") for key in ("version", "python", "driver_version", "os")}
    found["agentfarm"] = found.pop("version")
    found |= {"driver": found.pop("driver_version"), "processors": str(node.about.get("cpus") or "")}
    return found | {"GPUs": ", ".join(_gpu(gpu) for gpu in gpus_of(node.about)), "GPUs asked for": str(node.gpus)}
