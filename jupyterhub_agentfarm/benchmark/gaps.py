"""Results that never came: every case has one on every node of every phase, whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .models import BenchmarkRun, CaseResult, Outcome, Phase, RunNode

#: Gives, for a node that took part, what its missing cases count as, and why.
Missing = Callable[[str], tuple[Outcome, str]]


def missing_results(run: BenchmarkRun, known: Sequence[Mapping[str, Any]], missing: Missing) -> Iterator[CaseResult]:
    """Give a result for each case that has none on a node of a phase.

    In a phase that goes on for a time only nodes without any result get some: the others did what they could in it.

    Parameters
    ----------
    run
        The run, as it ends.
    known
        What it came to, as the store adds it up.
    missing
        What a missing result counts as.
    """
    have = {(row["phase"], row["node"], row["case"]) for row in known if not row["warm_up"]}
    for number, phase in enumerate(run.phases):
        for node in _nodes_of(run, phase, first=number == 0):
            left = [case for case in run.cases if (phase.name, node.name, case) not in have]
            if phase.repetitions is None and len(left) < len(run.cases):
                continue
            skipped: tuple[Outcome, str] = ("skipped", node.skipped)
            outcome, reason = skipped if node.skipped else missing(node.name)
            for case in left:
                yield CaseResult(node.name, case, outcome, reason, phase=phase.name, repetition=phase.warm_up + 1)


def _nodes_of(run: BenchmarkRun, phase: Phase, *, first: bool) -> Iterator[RunNode]:
    """Give the nodes of a phase; those that take no part in the run are in its first."""
    for node in run.nodes:
        if node.name in phase.nodes or (node.skipped and first):
            yield node
