"""What a run comes to against its suite's limits, counted as it goes; what is kept grows with the nodes alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from .definition import Limits
from .models import CaseResult, LimitOutcome, Phase, RunEvent, Sample

#: Outcomes that a node was tried with; what was skipped or cancelled was not asked of it.
TRIED = ("succeeded", "failed", "timed_out", "lost")


class Tally:
    """Counts what limits are about.

    Parameters
    ----------
    phases
        The run's phases.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self._phases = {phase.name: phase for phase in phases}
        self.tried = self.succeeded = 0
        self.succeeded_on: Counter[str] = Counter()
        self.measured_seconds = 0.0
        self.lost: set[str] = set()
        #: Nodes that are lost now, and since when.
        self.away: dict[str, float] = {}
        #: The largest at any sample of any node.
        self.memory_ratio: float | None = None
        self.gpu_memory_ratio: float | None = None
        self._seconds_of: defaultdict[str, float] = defaultdict(float)

    def add_result(self, result: CaseResult) -> None:
        """Count a result."""
        if result.warm_up or result.outcome not in TRIED:
            return
        self.tried += 1
        if result.outcome == "succeeded":
            self.succeeded += 1
            self.succeeded_on[result.node] += 1

    def add_sample(self, sample: Sample) -> None:
        """Take a node's peaks."""
        if sample.scope == "node":
            self.memory_ratio = _peak(self.memory_ratio, sample, "memory")
            self.gpu_memory_ratio = _peak(self.gpu_memory_ratio, sample, "gpu_memory")

    def add_event(self, event: RunEvent) -> None:
        """Count lost nodes, and the time of phases."""
        if event.kind == "node_lost":
            self.lost.add(event.node)
            self.away[event.node] = event.at
        elif event.kind == "node_back":
            self.away.pop(event.node, None)
        elif event.kind == "phase_ended" and event.seconds is not None:
            self.measured_seconds += event.seconds
            phase = self._phases.get(event.detail)
            for node in phase.nodes if phase is not None else ():
                self._seconds_of[node] += event.seconds

    @property
    def succeeded_ratio(self) -> float | None:
        """Succeeded cases of those tried."""
        return self.succeeded / self.tried if self.tried else None

    @property
    def cases_per_minute(self) -> float | None:
        """Succeeded cases of the farm per minute of its phases."""
        return 60 * self.succeeded / self.measured_seconds if self.measured_seconds else None

    @property
    def balance_ratio(self) -> float | None:
        """Jain's index of what the nodes succeeded with per second: 1 when all are equal, 1/n when one did it all."""
        rates = [self.succeeded_on[node] / seconds for node, seconds in self._seconds_of.items() if seconds]
        squares = sum(rate**2 for rate in rates)
        return sum(rates) ** 2 / (len(rates) * squares) if squares else None


def _peak(known: float | None, sample: Sample, what: str) -> float | None:
    used, total = sample.values.get(f"{what}_used_bytes"), sample.values.get(f"{what}_total_bytes")
    if used is None or not total:
        return known
    return max(known or 0.0, used / total)


def outcomes(limits: Limits, tally: Tally) -> tuple[LimitOutcome, ...]:
    """Return what came out against every limit at the end of a run."""
    return (*_ceilings(limits, tally), *_floors(limits, tally))


def _ceilings(limits: Limits, tally: Tally) -> Iterator[LimitOutcome]:
    """Give the limits that must not be exceeded; what nobody told, as of GPUs that there are not, exceeds nothing."""
    for name, got in (
        ("max_memory_ratio", tally.memory_ratio),
        ("max_gpu_memory_ratio", tally.gpu_memory_ratio),
        ("max_nodes_lost", float(len(tally.lost))),
    ):
        wanted = getattr(limits, name)
        if wanted is not None:
            yield LimitOutcome(name, float(wanted), got, got is None or got <= wanted)


def _floors(limits: Limits, tally: Tally) -> Iterator[LimitOutcome]:
    """Give the limits that must be reached; what could not be measured was not."""
    for name, got in (
        ("min_succeeded_ratio", tally.succeeded_ratio),
        ("min_cases_per_minute", tally.cases_per_minute),
        ("min_balance_ratio", tally.balance_ratio),
    ):
        wanted = getattr(limits, name)
        if wanted is not None:
            yield LimitOutcome(name, float(wanted), got, got is not None and got >= wanted)


def broken(limits: Limits, tally: Tally, planned: int | None) -> tuple[LimitOutcome, ...]:
    """Return the limits that cannot hold any more, while the run goes.

    Parameters
    ----------
    planned
        How many results will count, where that is known: too many failures among them cannot be made up for.
    """
    found = [outcome for outcome in _ceilings(limits, tally) if not outcome.held]
    if planned:
        best = (planned - (tally.tried - tally.succeeded)) / planned
        if best < limits.min_succeeded_ratio:
            found.append(LimitOutcome("min_succeeded_ratio", limits.min_succeeded_ratio, best, held=False))
    return tuple(found)
