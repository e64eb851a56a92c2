"""A report as Markdown, for an issue or a chat: the verdict and the tables, no plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .cells import cell_text, cells
from .findings import Findings
from .usage import Level, Usage
from .verdict import limit_text
from .wording import (
    ROLE_TITLES,
    UNKNOWN,
    change_text,
    label,
    number_text,
    p_text,
    percent_text,
    seconds_text,
    when,
)

_SPECIAL = str.maketrans(
    {c: f"\\{c}" for c in "\\`*_[]|"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
)


def markdown(findings: Findings) -> str:
    """Return the report as Markdown; everything from nodes, notebooks and users is escaped."""
    run = findings.evidence.run
    sha = str(run.definition.get("sha256") or "")[:12]
    end = f"Run {_escaped(run.id)}, started {when(run.created_at)}, suite {_escaped(sha)}."
    parts = [*_verdict(findings), *_results(findings)]
    for role in findings.roles:
        parts += _role(findings, role)
    parts += [*_scaling(findings), *_contention(findings), *_comparison(findings), *_prometheus(findings), end]
    return "\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    return text.translate(_SPECIAL)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield f"| {' | '.join(map(_escaped, head))} |"
        yield "|---" * len(head) + "|"
        yield from (f"| {' | '.join(map(_escaped, row))} |" for row in rows)
        yield ""


def _verdict(findings: Findings) -> Iterator[str]:
    found = findings.verdict
    yield f"# Benchmark {_escaped(findings.evidence.run.suite)}: {_escaped(found.headline)}"
    yield ""
    yield from (f"- {_escaped(sentence)}" for sentence in (*found.sentences, *comparison_sentences(findings)))
    yield ""
    limits = [(*limit_text(limit), "held" if limit.held else "broken") for limit in findings.evidence.run.limits]
    yield from _table(("limit", "wanted", "measured", ""), limits)


def _results(findings: Findings) -> Iterator[str]:
    by_place, run = cells(findings.evidence), findings.evidence.run
    yield "## Results"
    yield ""
    rows = [[node.name, *(cell_text(by_place.get((node.name, case))) for case in run.cases)] for node in run.nodes]
    yield from _table(["node", *run.cases], rows)


def _role(findings: Findings, role: str) -> Iterator[str]:
    names = findings.evidence.names_of(role)
    yield f"## {_escaped(ROLE_TITLES.get(role, role))}"
    yield ""
    if not names:
        yield "None of them took part."
    yield from (f"- {one.title}: {_escaped(one.sentence)}" for one in findings.analyses(role))
    yield ""
    rows = [_usage_row(one) for one in findings.usages if one.scope == "node" and one.name in names]
    yield from _table(("node", "GPU mean", "memory peak", "CPU mean", "completed", "per minute", "up", "uptime"), rows)


def _usage_row(one: Usage) -> list[str]:
    def mean(level: Level | None) -> str:
        return percent_text(level.mean if level else None)

    return [
        one.name,
        mean(one.gpu),
        percent_text(one.memory.peak if one.memory else None),
        mean(one.cpu),
        f"{one.succeeded:,} of {one.tried:,}",
        number_text(one.succeeded_per_minute),
        percent_text(one.up_ratio),
        seconds_text(one.uptime_seconds),
    ]


def _scaling(findings: Findings) -> Iterator[str]:
    for one in findings.scalings:
        yield f"## {_escaped(one.case)}: {one.kind} scaling"
        yield ""
        rows = [(str(p.nodes), number_text(p.speedup), percent_text(p.efficiency_ratio)) for p in one.points]
        yield from _table(("nodes", "times the smallest", "efficiency"), rows)
        if one.caveat:
            yield from (_escaped(one.caveat), "")


def _contention(findings: Findings) -> Iterator[str]:
    for one in findings.contentions:
        yield f"## {_escaped(one.case)}: dedicated and shared GPUs"
        yield ""
        rows = [(str(p.concurrency), percent_text(p.each_ratio), percent_text(p.together_ratio)) for p in one.points]
        yield from _table(("at once", "each delivers", "all together"), rows)


def comparison_sentences(findings: Findings) -> list[str]:
    """Return what the comparison with the baseline comes to."""
    found = findings.comparison
    if found is None:
        return []
    against = f"Against run {found.baseline}"
    said = [
        f"{against}: {one.case} became worse, {label(one.figure)} {change_text(one.change_ratio)} "
        f"({p_text(one.adjusted_p_value)})."
        for one in found.regressions
    ]
    said += [f"{against}: {case} fails on {node}, where it succeeded." for node, case in found.newly_failing[:8]]
    return said or [f"{against}: no regression was found in {len(found.cases)} cases that both have."]


def _comparison(findings: Findings) -> Iterator[str]:
    if (found := findings.comparison) is None:
        return
    yield f"## Against run {_escaped(found.baseline)}"
    yield ""
    rows = [
        (
            one.case,
            label(one.figure),
            number_text(one.before.median),
            number_text(one.now.median),
            change_text(one.change_ratio),
            p_text(one.adjusted_p_value),
            one.finding,
        )
        for one in found.cases
    ]
    yield from _table(("case", "figure", "before", "now", "change", "p (Holm)", "finding"), rows)
    yield from (f"- {_escaped(sentence)}" for sentence in found.conditions)
    yield ""


def _prometheus(findings: Findings) -> Iterator[str]:
    if (found := findings.crosscheck) is None:
        return
    yield "## Prometheus"
    yield ""
    if found.problem:
        yield f"{_escaped(found.url)}: {_escaped(found.problem)}"
    else:
        yield f"{len(found.compared) - len(found.differing)} of {len(found.compared)} figures agree."
    yield ""
    rows = [
        (
            row.name,
            row.quantity,
            UNKNOWN if row.ours is None else number_text(row.ours),
            UNKNOWN if row.theirs is None else number_text(row.theirs),
        )
        for row in found.differing
    ]
    yield from _table(("node", "quantity", "here", "Prometheus"), rows)
