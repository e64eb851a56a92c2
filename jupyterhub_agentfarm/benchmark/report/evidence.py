"""What a report is made from, and the questions that several parts of it ask of it; each is answered once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..models import BenchmarkRun, CaseResult, EventKind, Phase, RunEvent, RunNode, Sample
from .timeline import Interval, Timeline, merged, timelines

#: Outcomes that count as not delivered, and what is told besides.
FAULTS = ("failed", "timed_out", "lost", "cancelled")
#: Outcomes of cases that nothing was asked of a node for.
NOT_TRIED = ("skipped", "cancelled")


@dataclass(frozen=True)
class Evidence:
    """One run, with everything that was recorded of it."""

    run: BenchmarkRun
    results: Sequence[CaseResult] = ()
    samples: Sequence[Sample] = field(default=(), repr=False)
    events: Sequence[RunEvent] = ()

    @cached_property
    def counted(self) -> list[CaseResult]:
        """The results that count: those of warm-ups do not."""
        return [result for result in self.results if not result.warm_up]

    @cached_property
    def tried(self) -> list[CaseResult]:
        """The results of cases that were asked of a node."""
        return [result for result in self.counted if result.outcome not in NOT_TRIED]

    @cached_property
    def succeeded(self) -> list[CaseResult]:
        """The successes that count."""
        return [result for result in self.counted if result.outcome == "succeeded"]

    @cached_property
    def nodes(self) -> tuple[RunNode, ...]:
        """The nodes that took part."""
        return self.run.taking_part

    @cached_property
    def names(self) -> list[str]:
        """The names of the nodes that took part."""
        return [node.name for node in self.nodes]

    @cached_property
    def _endings(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        found: dict[str, list[tuple[float, bool]]] = {}
        for result in self.tried:
            at = ended_at(result)
            known = self.window[1] if at is None else at  # a case that was never begun is missed at the end
            found.setdefault(result.node, []).append((known, result.outcome == "succeeded"))
        return {name: (np.array([a for a, _ in own]), np.array([g for _, g in own])) for name, own in found.items()}

    def endings(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return when each case that a node was asked for ended, and whether it succeeded."""
        return self._endings.get(name, (np.empty(0), np.empty(0, bool)))

    def names_of(self, role: str) -> list[str]:
        """Return the nodes of a role that took part."""
        return [node.name for node in self.nodes if node.role == role]

    @cached_property
    def window(self) -> Interval:
        """From the first case to the end of the last: until then the farm only starts servers."""
        ends = [end for result in self.results if (end := ended_at(result)) is not None]
        ends += [event.at for event in self.events if event.kind == "phase_ended"]
        instants = [sample.at for sample in self.samples]
        begins = [result.started_at for result in self.results if result.started_at is not None]
        start = self.run.started_at or min(begins, default=min(instants, default=self.run.created_at))
        if self.run.going or not ends:
            ends += [self.run.ended_at or max(instants, default=start)]
        return start, max(start, *ends)

    @property
    def seconds(self) -> float:
        """How long the window is."""
        return self.window[1] - self.window[0]

    def measured_seconds(self, names: Sequence[str]) -> float:
        """Return for how long cases were counted on any of some nodes: the time of the phases they take part in."""
        wanted = set(names)
        return sum(time.seconds for time in self.phases if wanted.intersection(time.phase.nodes)) or self.seconds

    def per_minute(self, number: int, names: Sequence[str]) -> float | None:
        """Return so many successes of some nodes per minute; None where nothing was measured."""
        seconds = self.measured_seconds(names)
        return 60 * number / seconds if seconds > 0 and self.results else None

    @cached_property
    def timelines(self) -> Mapping[str, Timeline]:
        """The samples of each node in the window; all of its samples where none fall in it."""
        made = timelines(self.samples, self.run.sample_interval_seconds)
        cut = {name: line.within(*self.window) for name, line in made.items()}
        return {name: line if len(line.at) else made[name] for name, line in cut.items()}

    def timeline(self, name: str) -> Timeline:
        """Return the samples of a node, which may be none."""
        return self.timelines.get(name) or Timeline(name, np.empty(0), 1.0, {})

    @cached_property
    def busy(self) -> Mapping[str, list[Interval]]:
        """When at least one case was being executed on each node."""
        times: dict[str, list[Interval]] = {name: [] for name in self.names}
        for result in self.results:
            if (time := interval_of(result)) is not None:
                times.setdefault(result.node, []).append(time)
        return {name: merged(own) for name, own in times.items()}

    def absences(self, name: str) -> list[Interval]:
        """Return when a node was not connected: from events, or from its samples where no event tells."""
        return self._absences.get(name, [])

    @cached_property
    def _absences(self) -> Mapping[str, list[Interval]]:
        told: dict[str, list[tuple[float, bool]]] = {}
        for event in self.events:
            if event.kind in ("node_lost", "node_back"):
                told.setdefault(event.node, []).append((event.at, event.kind == "node_back"))
        return {name: _away(told.get(name) or self._seen(name), self.window[1]) for name in self.names}

    def _seen(self, name: str) -> list[tuple[float, bool]]:
        line = self.timeline(name)
        return [(float(at), bool(up)) for at, up in zip(line.at, line.of("up") > 0, strict=True)]

    @cached_property
    def machines(self) -> list[list[str]]:
        """Nodes that are one machine under several names, as in the demo."""
        found: dict[object, list[str]] = {}
        for node in self.nodes:
            if boot := facts_of(node).get("boot_id"):
                found.setdefault(boot, []).append(node.name)
        return [names for names in found.values() if len(names) > 1]

    def sharers(self, name: str) -> int:
        """Return under how many names a node's machine takes part."""
        return next((len(names) for names in self.machines if name in names), 1)

    @cached_property
    def phases(self) -> list[PhaseTime]:
        """The phases that began, with their times."""
        made = [self._phase_time(phase) for phase in self.run.phases or (_only_phase(self),)]
        return [phase for phase in made if phase is not None]

    def _phase_time(self, phase: Phase) -> PhaseTime | None:
        own = [result for result in self.results if result.phase in (phase.name, "")]
        begins = [result.started_at for result in own if result.started_at is not None]
        ends = [end for result in own if (end := ended_at(result)) is not None]
        start = min(self._told("phase_started", phase) or begins, default=None)
        end = max(self._told("phase_ended", phase) or ends, default=self.window[1])
        return None if start is None else PhaseTime(phase, start, max(start, end))

    def _told(self, kind: EventKind, phase: Phase) -> list[float]:
        """Return when a phase began or ended; more than once where the service was started again in it."""
        return [event.at for event in self.events if (event.kind, event.detail) == (kind, phase.name)]

    @cached_property
    def gaps(self) -> list[Interval]:
        """When the service did not look: no node has a sample then."""
        looked = np.unique(np.concatenate([line.at for line in self.timelines.values()] or [np.empty(0)]))
        interval = next((line.interval_seconds for line in self.timelines.values()), 1.0)
        return Timeline("", looked, interval, {}).gaps()

    @cached_property
    def simulated(self) -> bool:
        """Whether GPUs of nodes that took part are simulated."""
        return any(simulated_gpus(node.about) for node in self.nodes)


@dataclass(frozen=True)
class PhaseTime:
    """A phase and when it was."""

    phase: Phase
    started_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended_at - self.started_at


def _away(told: Iterable[tuple[float, bool]], end: float) -> list[Interval]:
    """Return the times in which something was not there, which is told at instants, until `end`."""
    found: list[Interval] = []
    since: float | None = None
    for at, there in sorted(told):
        if not there and since is None:
            since = at
        elif there and since is not None:
            found.append((since, at))
            since = None
    return found if since is None else [*found, (since, max(since, end))]


def _only_phase(evidence: Evidence) -> Phase:
    """Return the phase that a run without phases is as a whole."""
    return Phase(name="", nodes=tuple(evidence.names))


def ended_at(result: CaseResult) -> float | None:
    """Return when a case ended, as far as that is known."""
    if result.ended_at is not None or result.started_at is None or result.duration_seconds is None:
        return result.ended_at
    return result.started_at + result.duration_seconds


def interval_of(result: CaseResult) -> Interval | None:
    """Return from when to when a case was executed, as far as that is known."""
    end = ended_at(result)
    return None if result.started_at is None or end is None else (result.started_at, end)


def facts_of(node: RunNode) -> Mapping[str, object]:
    """Return the facts that a node told of itself; none where it did not."""
    facts = node.about.get("facts")
    return facts if isinstance(facts, Mapping) else {}


def gpus_of(about: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the GPUs of a node as it was at the start."""
    gpus = about.get("gpus")
    return [gpu for gpu in gpus if isinstance(gpu, Mapping)] if isinstance(gpus, list | tuple) else []


def simulated_gpus(about: Mapping[str, object]) -> int:
    """Return how many GPUs of a node are simulated."""
    return sum(bool(gpu.get("simulated")) for gpu in gpus_of(about))


def by_node(results: Iterable[CaseResult]) -> dict[str, list[CaseResult]]:
    """Return results by node."""
    found: dict[str, list[CaseResult]] = {}
    for result in results:
        found.setdefault(result.node, []).append(result)
    return found
