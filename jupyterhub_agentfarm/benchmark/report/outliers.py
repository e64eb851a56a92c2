"""Nodes that differ from their like: named, with by how much and in what."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..models import CaseResult
from .delivery import fullest, node_medians
from .evidence import Evidence, by_node
from .robust import OUTLIER_MIN_VALUES, modified_z_scores, outlying
from .usage import Usage
from .wording import change_text, label, number_text, percent_text, seconds_text


@dataclass(frozen=True)
class Outlier:
    """A node that differs from the others of its role."""

    node: str
    role: str
    #: In what: "train: duration", "CPU utilisation".
    what: str
    value: float
    #: The median of the role's nodes.
    median: float
    #: Modified z-score of Iglewicz and Hoaglin: an outlier is beyond ±3.5.
    score: float
    sentence: str


def outliers(evidence: Evidence, usages: Sequence[Usage]) -> list[Outlier]:
    """Return the outliers of each role: in what its nodes delivered and in what they used."""
    found: list[Outlier] = []
    for role in sorted({node.role for node in evidence.nodes}, reverse=True):
        names = set(evidence.names_of(role))
        if len(names) < OUTLIER_MIN_VALUES:
            continue
        for case in evidence.run.cases:
            good = fullest([r for r in evidence.succeeded if r.case == case and r.node in names])
            found += _among(role, f"{case}: {_primary(good)}", node_medians(good), number_text)
            found += _among(role, f"{case}: duration", _durations(good), seconds_text)
        own = [one for one in usages if one.scope == "node" and one.name in names]
        found += _among(role, "CPU utilisation", {one.name: one.cpu.mean for one in own if one.cpu}, percent_text)
        found += _among(role, "memory in use", {one.name: one.memory.mean for one in own if one.memory}, percent_text)
        found += _among(role, "GPU utilisation", {one.name: one.gpu.mean for one in own if one.gpu}, percent_text)
    return found


def _among(role: str, what: str, values: Mapping[str, float], text: Callable[[float], str]) -> list[Outlier]:
    names, numbers = list(values), list(values.values())
    scores = modified_z_scores(numbers)
    middle = statistics.median(numbers) if numbers else 0.0
    found = []
    for place in outlying(numbers):
        value = numbers[place]
        away = f", {change_text(value / middle - 1)}" if middle else ""
        sentence = f"{names[place]}: {what} {text(value)}, where the median of its role is {text(middle)}{away}."
        found.append(Outlier(names[place], role, what, value, middle, scores[place], sentence))
    return found


def _primary(results: Sequence[CaseResult]) -> str:
    names = {result.primary or "" for result in results}
    return label(names.pop()) if len(names) == 1 else "primary figure"


def _durations(results: Sequence[CaseResult]) -> dict[str, float]:
    """Return the median duration on each node, in seconds."""
    return {
        node: statistics.median(known)
        for node, own in by_node(results).items()
        if (known := [result.duration_seconds for result in own if result.duration_seconds is not None])
    }
