"""The verdict of a run: a headline, what was delivered, what held it up, what failed, which limits held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..models import LimitOutcome
from .bottleneck import Bottleneck, not_measured
from .delivery import CaseSummary
from .evidence import FAULTS, Evidence
from .robust import balance_words
from .stability import Stability
from .wording import ROLE_TITLES, label, listed, number_text, percent_text, plural, seconds_text

Tone = Literal["good", "mixed", "bad", "going"]
#: As many different faults are told one by one.
MAX_FAULTS = 12
_ENDED = {"failed": "failed", "cancelled": "was cancelled", "interrupted": "was interrupted"}


@dataclass(frozen=True)
class Verdict:
    """What a run comes to, in sentences."""

    headline: str
    tone: Tone
    delivered: tuple[str, ...]
    #: What held the work up, one sentence for each role.
    bottlenecks: tuple[str, ...]
    #: What failed, was lost or took no part.
    faults: tuple[str, ...]
    #: One sentence for each limit of the suite.
    limits: tuple[str, ...]
    #: What one has to know to read the figures.
    remarks: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of it in the order in which it is read."""
        return (*self.delivered, *self.bottlenecks, *self.faults, *self.limits, *self.remarks)


def verdict(
    evidence: Evidence,
    cases: Sequence[CaseSummary],
    by_role: Mapping[str, Sequence[CaseSummary]],
    bottlenecks: Sequence[Bottleneck],
    held: Stability,
) -> Verdict:
    """Return the verdict of a run.

    Parameters
    ----------
    cases, by_role
        Each case over the farm, and over the nodes of each role.
    bottlenecks, held
        What held each role up, and how the farm held.
    """
    return Verdict(
        headline=_headline(evidence),
        tone=_tone(evidence),
        delivered=tuple(_delivered(evidence, cases, by_role)),
        bottlenecks=tuple(_bottlenecks(bottlenecks)),
        faults=(*_faults(evidence), *_losses(held), *_skipped(evidence)),
        limits=tuple(map(limit_sentence, evidence.run.limits)),
        remarks=tuple(filter(None, [*_remarks(evidence), not_measured(bottlenecks)])),
    )


def _headline(evidence: Evidence) -> str:
    run, tried, good = evidence.run, len(evidence.tried), len(evidence.succeeded)
    where = plural(len(evidence.nodes), "node")
    if run.going:
        return f"The run is still {run.state}: {good} of {tried} cases so far succeeded on {where}"
    if run.state != "completed":
        return f"The run was not completed, it {_ENDED[run.state]}{f': {run.detail}' if run.detail else ''}"
    broken = [limit for limit in run.limits if not limit.held]
    but = f", but {plural(len(broken), 'limit')} did not hold" if broken else ""
    own = {node.name for node in evidence.nodes}
    skipped = sum(result.outcome == "skipped" and result.node in own for result in evidence.counted)
    also = f", {skipped:,} skipped" if skipped else ""
    if not tried:
        return f"Nothing was measured on {where}: every case was skipped"
    if good == tried:
        return f"{where} delivered: all {tried:,} cases succeeded{also}{but}"
    return f"{good:,} of {tried:,} cases succeeded on {where}{also}{but}"


def _tone(evidence: Evidence) -> Tone:
    run = evidence.run
    if run.going:
        return "going"
    if run.state == "completed" and run.passed is not False and len(evidence.succeeded) == len(evidence.tried) > 0:
        return "good"
    return "mixed" if evidence.succeeded and run.passed is not False else "bad"


def _delivered(
    evidence: Evidence, cases: Sequence[CaseSummary], by_role: Mapping[str, Sequence[CaseSummary]]
) -> Iterator[str]:
    rate = evidence.per_minute(len(evidence.succeeded), evidence.names)
    if evidence.succeeded and rate is not None:
        yield (
            f"In {seconds_text(evidence.seconds)} the farm completed {plural(len(evidence.succeeded), 'case')}, "
            f"{number_text(rate)} per minute."
        )
    for summary in cases:
        if summary.succeeded:
            yield _case_sentence(summary) + "".join(_balances(summary.case, by_role)) + "."


def _case_sentence(summary: CaseSummary) -> str:
    text = f"{summary.case}: {summary.succeeded:,} of {summary.tried:,} succeeded"
    if summary.seconds is not None:
        text += f", median {seconds_text(summary.seconds.median)}"
    if summary.farm_total is not None:
        text += f"; together the nodes delivered {number_text(summary.farm_total)} {label(summary.primary)}"
        text += f" (phase {summary.farm_total_phase})" if summary.farm_total_phase else ""
    return text


def _balances(case: str, by_role: Mapping[str, Sequence[CaseSummary]]) -> Iterator[str]:
    """Say for each role how evenly its nodes delivered: a GPU server is not meant to equal a microserver."""
    for role, own in by_role.items():
        index = next((one.balance for one in own if one.case == case), None)
        if index is not None:
            title = _lower(ROLE_TITLES.get(role, role))
            yield f", {balance_words(index)} over the {title} (Jain's index {index:.3f})"


def _lower(title: str) -> str:
    return title if title.startswith("GPU") else title.lower()


def _bottlenecks(found: Sequence[Bottleneck]) -> Iterator[str]:
    for one in found:
        title = ROLE_TITLES.get(one.role, one.role)
        yield f"{title}: the bottleneck is {one.title}. {one.sentence}"


def _faults(evidence: Evidence) -> Iterator[str]:
    counts = Counter((r.outcome, r.node, r.reason or (r.error.message if r.error else "")) for r in evidence.counted)
    told = [(key, count) for key, count in sorted(counts.items(), key=lambda item: -item[1]) if key[0] in FAULTS]
    for (outcome, node, reason), count in told[:MAX_FAULTS]:
        yield f"{node}: {plural(count, 'case')} {outcome.replace('_', ' ')}{f': {reason}' if reason else ''}."
    if rest := sum(count for _, count in told[MAX_FAULTS:]):
        yield f"{plural(rest, 'more case')} did not succeed, for {plural(len(told) - MAX_FAULTS, 'other reason')}."


def _losses(held: Stability) -> Iterator[str]:
    for node in held.nodes:
        if node.losses:
            total = sum(length for _, length in node.losses)
            yield f"{node.node} was lost {_times(len(node.losses))}, for {seconds_text(total)} in all."
        if node.restarts:
            yield f"{node.node}: its machine was started anew {_times(len(node.restarts))}."
    if held.gaps:
        total = sum(length for _, length in held.gaps)
        yield f"The benchmark service was away {_times(len(held.gaps))}, for {seconds_text(total)} in all: a gap."


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _skipped(evidence: Evidence) -> Iterator[str]:
    absent: dict[str, list[str]] = {}
    for node in evidence.run.nodes:
        if node.skipped:
            absent.setdefault(node.skipped, []).append(node.name)
    for reason, names in absent.items():
        yield f"{listed(names)} took no part: {reason}."
    own = {node.name for node in evidence.nodes}
    skipped = {(r.node, r.case, r.reason) for r in evidence.counted if r.outcome == "skipped" and r.node in own}
    for (case, reason), count in sorted(Counter((case, reason) for _, case, reason in skipped).items()):
        yield f"{case} was skipped on {plural(count, 'node')}{f': {reason}' if reason else ''}."


_LIMITS = {
    "max_memory_ratio": ("memory in use of every node", "at most"),
    "max_gpu_memory_ratio": ("GPU memory in use of every node", "at most"),
    "min_succeeded_ratio": ("cases that succeed, of those tried", "at least"),
    "min_cases_per_minute": ("cases that succeed per minute", "at least"),
    "max_nodes_lost": ("nodes that are lost", "at most"),
    "min_balance_ratio": ("Jain's index of the nodes' completion rates", "at least"),
}
_SHARES = ("max_memory_ratio", "max_gpu_memory_ratio", "min_succeeded_ratio")


def limit_text(limit: LimitOutcome) -> tuple[str, str, str]:
    """Return what a limit is about, what was wanted, and what was measured, in words."""
    about, bound = _LIMITS.get(limit.name, (limit.name, "within"))
    number = percent_text if limit.name in _SHARES else number_text
    return about, f"{bound} {number(limit.wanted)}", number(limit.got) if limit.got is not None else "not measured"


def limit_sentence(limit: LimitOutcome) -> str:
    """Return what came out against a limit."""
    about, wanted, got = limit_text(limit)
    word = "held" if limit.held else "broken"
    return f"Limit {word}: {about}, {wanted}, {'measured ' + got if limit.got is not None else got}."


def _remarks(evidence: Evidence) -> Iterable[str]:
    if evidence.simulated:
        yield "GPUs marked as simulated do not exist: their figures say nothing about a device."
    for names in evidence.machines:
        yield (
            f"{listed(names, most=8)} are one machine: CPU, memory and load are that machine's, its processors were "
            "shared, and in sums it is counted once."
        )
