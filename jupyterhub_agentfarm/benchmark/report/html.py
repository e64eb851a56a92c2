"""A report as one HTML page that needs nothing else: styles and drawings are inside, nothing is fetched, nothing runs.

Everything that came from a node, a notebook or a user is escaped by the template; what is trusted are the drawings,
in which matplotlib escapes the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from ...share import share_path
from . import charts, wording
from .balance import Balance
from .cells import cells
from .evidence import FAULTS, simulated_gpus
from .findings import Findings
from .markdown import comparison_sentences
from .occurrences import MAX_LISTED, left_out, occurrences
from .plots import Plot, plots_of_role
from .verdict import limit_text

#: As many errors are shown with their traceback, one of each kind.
MAX_ERRORS = 20


@dataclass(frozen=True)
class RoleSection:
    """What the page shows of the nodes of a role."""

    role: str
    title: str
    names: Sequence[str]
    plots: Sequence[Plot]
    #: Drawings about completion rates and durations, and about balance.
    completion_plots: Sequence[Plot]
    balance: Balance | None
    balance_plots: Sequence[Plot]


def html(findings: Findings) -> str:
    """Return the report as one HTML page; it takes a second or so of computing."""
    found = occurrences(findings.evidence)
    return (
        _environment()
        .get_template("report.html")
        .render(
            f=findings,
            run=findings.evidence.run,
            evidence=findings.evidence,
            verdict=findings.verdict,
            against=comparison_sentences(findings),
            limits=[(*limit_text(limit), limit.held) for limit in findings.evidence.run.limits],
            sections=[_section(findings, role, found) for role in findings.roles],
            cells=cells(findings.evidence),
            errors=_errors(findings),
            occurrences=found[:MAX_LISTED],
            events_left_out=left_out(found),
            scaling_plots=[charts.scaling_plot(one) for one in findings.scalings],
            contention_plots=[plot for one in findings.contentions if (plot := charts.contention_plot(one))],
            sample_count=len({sample.at for sample in findings.evidence.samples}),
        )
    )


def _section(findings: Findings, role: str, marks: Sequence[Any]) -> RoleSection:
    title, evidence = wording.ROLE_TITLES.get(role, role), findings.evidence
    names = evidence.names_of(role)
    if not names:
        return RoleSection(role, title, (), (), (), None, ())
    balance = next((one for one in findings.balances if one.role == role), None)
    completed = [one for one in findings.completions if one.role == role]
    about_completion = [charts.durations(evidence, title, names), charts.completion_rates(title, completed)]
    idle = charts.idle_time(title, balance) if balance else None
    return RoleSection(
        role=role,
        title=title,
        names=names,
        plots=plots_of_role(evidence, title, names, findings.intervals[role], marks),
        completion_plots=[plot for plot in about_completion if plot],
        balance=balance,
        balance_plots=[idle] if idle else [],
    )


def _errors(findings: Findings) -> list[Any]:
    """Return one result of each different error, so that the same traceback is not shown a thousand times."""
    kinds: dict[tuple[str, str], Any] = {}
    for result in findings.evidence.counted:
        if result.outcome in FAULTS and result.error is not None:
            kinds.setdefault((result.case, result.error.message), result)
    return list(kinds.values())[:MAX_ERRORS]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(share_path("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Any] = {
        "when": wording.when,
        "percent": wording.percent_text,
        "change": wording.change_text,
        "size": wording.bytes_text,
        "seconds": wording.seconds_text,
        "number": wording.number_text,
        "energy": wording.energy_text,
        "p": wording.p_text,
        "tiny": wording.tiny_text,
        "clock": wording.clock_text,
        "label": wording.label,
        "listed": wording.listed,
        "simulated": simulated_gpus,
    }
    environment.filters |= filters
    environment.globals |= {"role_titles": wording.ROLE_TITLES}
    return environment
