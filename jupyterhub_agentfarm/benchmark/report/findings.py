"""Everything that a report says, computed once from the evidence; formats only write it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...records import to_json
from .balance import Balance, balance, node_loads
from .bottleneck import Bottleneck, bottleneck
from .comparison import Comparison, compare
from .conditions import NodeConditions, differences, node_conditions
from .contention import Contention, contentions
from .crosscheck import CrossCheck
from .delivery import CaseSummary, Completion, completion_spread, completions, summaries
from .energy import Energy, RecordCost, energy, record_costs
from .evidence import Evidence
from .intervals import IntervalUsage, at_intervals, interval_seconds
from .outliers import Outlier, outliers
from .roles import Analysis, analyses
from .scaling import Scaling, scalings
from .stability import Stability, stability
from .usage import Usage, usages
from .verdict import Verdict, verdict
from .wording import ROLE_TITLES


@dataclass(frozen=True)
class Findings:
    """What a run comes to.

    Parameters
    ----------
    evidence
        The run.
    baseline
        An earlier run that it is compared with.
    crosscheck
        What came of comparing it with Prometheus; None where none is configured.
    """

    evidence: Evidence
    baseline: Evidence | None = None
    crosscheck: CrossCheck | None = None

    @cached_property
    def roles(self) -> list[str]:
        """The roles of the run's nodes, microservers first."""
        found = {node.role for node in self.evidence.run.nodes}
        return [*(role for role in ROLE_TITLES if role in found), *sorted(found - ROLE_TITLES.keys())]

    @cached_property
    def usages(self) -> list[Usage]:
        """What each node, each role and the farm used."""
        return usages(self.evidence)

    def usage(self, scope: str, name: str) -> Usage | None:
        """Return what one of them used; None where it took no part."""
        return next((one for one in self.usages if (one.scope, one.name) == (scope, name)), None)

    @cached_property
    def intervals(self) -> Mapping[str, list[IntervalUsage]]:
        """What the nodes of each role used at regular intervals, and those of the farm."""
        found = {role: at_intervals(self.evidence, self.evidence.names_of(role)) for role in self.roles}
        return found | {"farm": at_intervals(self.evidence, self.evidence.names)}

    @cached_property
    def completions(self) -> list[Completion]:
        """What each node completed."""
        return completions(self.evidence)

    @cached_property
    def cases(self) -> list[CaseSummary]:
        """Each case over the farm."""
        return summaries(self.evidence)

    @cached_property
    def cases_by_role(self) -> Mapping[str, list[CaseSummary]]:
        """Each case over the nodes of each role."""
        return {role: summaries(self.evidence, self.evidence.names_of(role)) for role in self.roles}

    @cached_property
    def balances(self) -> list[Balance]:
        """How evenly the nodes of each role worked."""
        loads = node_loads(self.evidence)
        return [balance(self.evidence, role, loads) for role in self.roles if self.evidence.names_of(role)]

    @cached_property
    def bottlenecks(self) -> list[Bottleneck]:
        """What held the nodes of each role up."""
        return [bottleneck(self.evidence, one) for one in self.balances] if self.evidence.results else []

    @cached_property
    def stability(self) -> Stability:
        """How the farm held."""
        return stability(self.evidence)

    @cached_property
    def outliers(self) -> list[Outlier]:
        """Nodes that differ from their like."""
        return outliers(self.evidence, self.usages)

    @cached_property
    def scalings(self) -> list[Scaling]:
        """How each case scales."""
        return scalings(self.evidence)

    @cached_property
    def contentions(self) -> list[Contention]:
        """How each case fares when GPUs are shared."""
        return contentions(self.evidence)

    @cached_property
    def energy(self) -> Energy:
        """The energy of the GPUs."""
        return energy(self.evidence)

    @cached_property
    def record_costs(self) -> list[RecordCost]:
        """What a record of each case costs in energy."""
        return record_costs(self.evidence, self.energy)

    @cached_property
    def nodes(self) -> list[NodeConditions]:
        """What each node was."""
        return node_conditions(self.evidence, self.stability)

    @cached_property
    def verdict(self) -> Verdict:
        """What the run comes to, in sentences."""
        return verdict(self.evidence, self.cases, self.cases_by_role, self.bottlenecks, self.stability)

    @cached_property
    def comparison(self) -> Comparison | None:
        """The run against its baseline."""
        if self.baseline is None:
            return None
        return compare(self.evidence, self.baseline, differences(self.evidence.run, self.baseline.run))

    def analyses(self, role: str) -> list[Analysis]:
        """Return the five quantities of the specification for a role, analysed."""
        together = self.usage("role", role)
        if together is None:
            return []
        completed = [one for one in self.completions if one.role == role]
        return analyses(together, self.intervals[role], completed, [n for n in self.stability.nodes if n.role == role])

    def data(self) -> dict[str, Any]:
        """Return everything but the samples, ready for JSON."""
        return {
            "verdict": to_json(self.verdict) | {"sentences": list(self.verdict.sentences)},
            "run": to_json(self.evidence.run),
            "roles": [self._role(role) for role in self.roles],
            "farm": to_json(self.usage("farm", "farm")),
            "interval_seconds": interval_seconds(self.evidence),
            "farm_intervals": to_json(self.intervals["farm"]),
            "cases": to_json(self.cases),
            "stability": to_json(self.stability),
            "scaling": to_json(self.scalings),
            "contention": to_json(self.contentions),
            "energy": to_json(self.energy),
            "energy_per_record": to_json(self.record_costs),
            "outliers": to_json(self.outliers),
            "comparison": to_json(self.comparison),
            "prometheus": to_json(self.crosscheck),
            "nodes": to_json(self.nodes),
            "events": to_json(self.evidence.events),
            "results": to_json(self.evidence.results),
        }

    def _role(self, role: str) -> dict[str, Any]:
        return {
            "role": role,
            "together": to_json(self.usage("role", role)),
            "analyses": to_json(self.analyses(role)),
            "bottleneck": to_json(next((one for one in self.bottlenecks if one.role == role), None)),
            "nodes": to_json(
                [one for one in self.usages if one.scope == "node" and one.name in self.evidence.names_of(role)]
            ),
            "completions": to_json([one for one in self.completions if one.role == role]),
            "completions_spread": to_json(completion_spread(self.completions, role)),
            "cases": to_json(self.cases_by_role[role]),
            "balance": to_json(next((one for one in self.balances if one.role == role), None)),
            "intervals": to_json(self.intervals[role]),
        }
