"""How far a benchmark run is and how long it will still take, from its view and what happened since.

A phase with a duration ends when that has passed. One with repetitions takes as many rounds of all cases; a case takes
as long as it took on average so far. What cannot be said yet is None, never a guess.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any


def tallied(view: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return how many results a run has by phase, node, case, warm-up and outcome, and the seconds they took.

    The view has only the newest results, but all of them added up; a service of an earlier version has all results.
    """
    if view.get("outcomes") is not None:
        return list(view["outcomes"])
    return [{**result, "results": 1, "seconds": result.get("duration_seconds")} for result in view["results"]]


class RunProgress:
    """What is known of a run that goes.

    Parameters
    ----------
    view
        The run as ``GET runs/{id}`` answers it.
    """

    def __init__(self, view: Mapping[str, Any]) -> None:
        self.view = view
        self.nodes = {node["name"]: node for node in view["nodes"] if not node["skipped"]}
        definition = view.get("definition") or {}
        self.cases = [case["name"] for case in definition.get("cases") or ()]
        self.phases: list[Mapping[str, Any]] = list(definition.get("phases") or ()) or [
            {"name": "", "nodes": list(self.nodes), "repetitions": 1}
        ]
        self.began: dict[str, float] = {}
        self._ended: set[str] = set()
        #: Results by phase and node, and by node.
        self._results: Counter[tuple[str, str]] = Counter()
        self.done: Counter[str] = Counter()
        self._seconds: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for row in tallied(view):
            self._count(row, row["results"], row["seconds"])
        for event in view.get("events") or ():
            self.take_event(event)

    def take_result(self, result: Mapping[str, Any]) -> None:
        """Count a result."""
        self._count(result, 1, result.get("duration_seconds"))

    def _count(self, row: Mapping[str, Any], results: int, seconds: float | None) -> None:
        self._results[row.get("phase") or "", row["node"]] += results
        self.done[row["node"]] += results
        if row["outcome"] == "succeeded" and seconds is not None:
            sums = self._seconds[row["case"]]
            sums[0] += seconds
            sums[1] += results

    def take_event(self, event: Mapping[str, Any]) -> None:
        """Take in that a phase began or ended."""
        if event["kind"] == "phase_started":
            self.began[event["detail"]] = event["at"]
        elif event["kind"] == "phase_ended":
            self._ended.add(event["detail"])

    # ---- how much there is ----

    def total(self, node: str) -> int | None:
        """Return how many results a node will have; None where phases go on for a time."""
        units = [self._units(phase, node) for phase in self.phases if node in phase["nodes"]]
        return None if None in units else sum(unit or 0 for unit in units)

    def _units(self, phase: Mapping[str, Any], node: str) -> int | None:
        if phase.get("duration_seconds") is not None or phase.get("repetitions") is None:
            return None
        lanes = (phase.get("concurrency") or 1) * max(1, self.nodes.get(node, {}).get("gpus") or 0)
        return lanes * self._rounds(phase) * len(self.cases)

    @staticmethod
    def _rounds(phase: Mapping[str, Any]) -> int:
        return int(phase["repetitions"]) + int(phase.get("warm_up") or 0)

    # ---- how long it takes ----

    def remaining_seconds(self, now: float) -> float | None:
        """Return how long the phases will still go on, as far as that can be said."""
        each = [self._remaining(phase, now) for phase in self.phases if phase["name"] not in self._ended]
        return None if None in each else sum(seconds or 0.0 for seconds in each)

    def _remaining(self, phase: Mapping[str, Any], now: float) -> float | None:
        duration = phase.get("duration_seconds")
        if duration is not None:
            began = self.began.get(phase["name"])
            return float(duration) if began is None else max(0.0, began + duration - now)
        sums = [self._seconds[case] for case in self.cases]
        if not all(count for _, count in sums):
            return None
        whole = sum(seconds / count for seconds, count in sums) * self._rounds(phase)
        return whole * (1 - self._share(phase))

    def _share(self, phase: Mapping[str, Any]) -> float:
        """Return how far the slowest node is with a phase that has repetitions."""
        shares = [
            min(1.0, self._results[phase["name"], node] / units)
            for node in phase["nodes"]
            if (units := self._units(phase, node))
        ]
        return min(shares, default=1.0)

    def ratio(self, now: float) -> float | None:
        """Return which part of the run is over, by time."""
        remaining, started = self.remaining_seconds(now), self.view.get("started_at")
        if remaining is None or started is None:
            return None
        passed = max(0.0, now - started)
        return passed / (passed + remaining) if passed + remaining else 1.0

    @property
    def phase(self) -> str:
        """The phase that goes on, as in "phase 2 of 3, scale-4"; "" where there is one only."""
        if len(self.phases) < 2 or not self.began:
            return ""
        names = [phase["name"] for phase in self.phases]
        now = [name for name in names if name in self.began]
        name = next((name for name in now if name not in self._ended), now[-1] if now else names[0])
        return f"phase {names.index(name) + 1} of {len(names)}, {name}"
