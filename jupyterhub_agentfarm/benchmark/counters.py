"""What benchmark runs have come to, counted for the metrics page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .. import metrics
from ..metrics import Histogram, sample_line
from .models import BenchmarkRun, CaseResult
from .node_series import Blocks

_FINISHED, _CASES = "agentfarm_tasks_finished_total", "agentfarm_benchmark_cases_total"
_RUNS, _DURATIONS = "agentfarm_benchmark_runs_total", "agentfarm_benchmark_case_duration_seconds"


class BenchmarkCounters:
    """What runs have come to, since the first one ever: it starts from the store."""

    def __init__(self) -> None:
        self._cases: Counter[tuple[str, str, str, str]] = Counter()
        self._tasks: Counter[tuple[str, str]] = Counter()
        self._runs: Counter[tuple[str, str]] = Counter()
        self._made: dict[str, Blocks] = {}
        self._durations: dict[tuple[str, str], Histogram] = {}
        #: Nodes of which something was counted since the page was made last.
        self.changed: set[str] = set()

    def count_case(self, run: BenchmarkRun, result: CaseResult) -> None:
        """Count one result."""
        self._made.pop(result.node, None)
        self.changed.add(result.node)
        self._cases[result.node, run.suite, result.case, result.outcome] += 1
        if result.outcome in metrics.TASK_OUTCOMES:
            self._tasks[result.node, result.outcome] += 1
        if result.outcome == "succeeded" and result.duration_seconds is not None and not result.warm_up:
            made = Histogram(_DURATIONS, {"suite": run.suite, "case": result.case})
            self._durations.setdefault((run.suite, result.case), made).add(result.duration_seconds)

    def count_run(self, run: BenchmarkRun) -> None:
        """Count one run that ended."""
        self._runs[run.suite, run.state] += 1

    def node_blocks(self, node: str) -> Blocks:
        """Return the counters of one node; outcomes that never came about are 0."""
        if node not in self._made:
            self._made[node] = self._make_node_blocks(node)
        return self._made[node]

    def _make_node_blocks(self, node: str) -> Blocks:
        tasks = [
            sample_line(_FINISHED, {"node": node, "kind": "case", "outcome": outcome}, self._tasks[node, outcome])
            for outcome in metrics.TASK_OUTCOMES
        ]
        cases = [
            sample_line(
                _CASES,
                {"node": node, "suite": suite, "case": case, "outcome": outcome},
                self._cases[node, suite, case, outcome],
            )
            for suite, case in sorted({(suite, case) for at, suite, case, _ in self._cases if at == node})
            for outcome in metrics.CASE_OUTCOMES
        ]
        return {_FINISHED: block(tasks), _CASES: block(cases)}

    def hub_blocks(self, suites: Iterable[str]) -> Blocks:
        """Return the counters of runs, from 0 for the `suites` that exist, and the histogram of durations."""
        known = sorted({*suites, *(suite for suite, _ in self._runs)})
        runs = [
            sample_line(_RUNS, {"suite": suite, "outcome": outcome}, self._runs[suite, outcome])
            for suite in known
            for outcome in metrics.RUN_OUTCOMES
        ]
        histogram = [line for key in sorted(self._durations) for line in self._durations[key].lines()]
        return {_RUNS: block(runs), _DURATIONS: block(histogram)}


def block(lines: Iterable[str]) -> str:
    """Return lines as one text, each with its line feed."""
    return "".join(f"{line}\n" for line in lines)
