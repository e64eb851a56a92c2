"""How the farm held over the run: availability, losses, restarts, and whether it became slower or fuller."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..models import CaseResult
from .evidence import Evidence
from .robust import Trend, trend
from .timeline import Timeline, weighted_mean

#: A node whose time of start moved further than this was started again; less is its clock being set.
BOOT_MOVED_SECONDS = 60.0
#: Drifts are told when chance alone makes them less often than this …
DRIFT_P_VALUE = 0.01
#: … and when they come to this share over the whole run.
DRIFT_RATIO = 0.05


@dataclass(frozen=True)
class NodeStability:
    """How one node held."""

    node: str
    role: str
    #: Share of the observed time in which it was connected.
    availability_ratio: float | None
    #: Uptime at the end, in seconds.
    uptime_seconds: float | None
    #: When it was away: seconds since the start of the window, and for how long.
    losses: tuple[tuple[float, float], ...]
    #: Times at which the machine had been started anew, in seconds since the start of the window.
    restarts: tuple[float, ...]
    #: How often its server was started again.
    server_restarts: int
    clock_skew_seconds: float | None


@dataclass(frozen=True)
class Drift:
    """Something that changed steadily over the run."""

    what: str
    name: str
    #: Change over the whole run as a share of the median.
    change_ratio: float
    trend: Trend


@dataclass(frozen=True)
class Stability:
    """How the farm held."""

    nodes: tuple[NodeStability, ...]
    #: Share of the observed time of all nodes in which they were connected.
    availability_ratio: float | None
    node_hours: float
    losses: int
    lost_seconds: float
    #: When the service did not look, in seconds since the start of the window, and for how long.
    gaps: tuple[tuple[float, float], ...]
    drifts: tuple[Drift, ...]

    @property
    def troubled(self) -> list[NodeStability]:
        """The nodes of which there is something to tell."""
        return [
            node
            for node in self.nodes
            if node.losses or node.restarts or node.server_restarts or (node.availability_ratio or 0) < 1
        ]


def stability(evidence: Evidence) -> Stability:
    """Return how the farm held over the run."""
    nodes = tuple(_node(evidence, node.name, node.role) for node in evidence.nodes)
    lines = [evidence.timeline(name) for name in evidence.names]
    up = np.concatenate([*(line.of("up") for line in lines), np.empty(0)])
    seconds = np.concatenate([*(line.seconds for line in lines), np.empty(0)])
    start = evidence.window[0]
    return Stability(
        nodes=nodes,
        availability_ratio=weighted_mean(up, seconds),
        node_hours=float(seconds.sum()) / 3600,
        losses=sum(len(node.losses) for node in nodes),
        lost_seconds=sum(length for node in nodes for _, length in node.losses),
        gaps=tuple((begin - start, end - begin) for begin, end in evidence.gaps),
        drifts=tuple(_drifts(evidence)),
    )


def _node(evidence: Evidence, name: str, role: str) -> NodeStability:
    line, start = evidence.timeline(name), evidence.window[0]
    uptimes, skews = (_known(line, key)[1] for key in ("uptime_seconds", "clock_skew_seconds"))
    return NodeStability(
        node=name,
        role=role,
        availability_ratio=weighted_mean(line.of("up"), line.seconds),
        uptime_seconds=float(uptimes[-1]) if len(uptimes) else None,
        losses=tuple((begin - start, end - begin) for begin, end in evidence.absences(name)),
        restarts=tuple(at - start for at in restarts(line)),
        server_restarts=sum(event.kind == "server_restarted" and event.node == name for event in evidence.events),
        clock_skew_seconds=float(np.median(skews)) if len(skews) else None,
    )


def restarts(line: Timeline) -> list[float]:
    """Return when a machine was first seen after it had been started anew."""
    at, boots = _known(line, "boot_at")
    if not len(at):
        at, uptimes = _known(line, "uptime_seconds")
        boots = at - uptimes
    return [float(moment) for moment in at[1:][np.diff(boots) > BOOT_MOVED_SECONDS]]


def _known(line: Timeline, key: str) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(line.of(key))
    return line.at[known], line.of(key)[known]


def _drifts(evidence: Evidence) -> list[Drift]:
    """Return what grew or fell steadily: memory in use, and the durations of each case, on each node."""
    found = []
    for name in evidence.names:
        line = evidence.timeline(name)
        known = ~np.isnan(line.share("memory"))
        found.append(_drift("memory in use", name, line.at[known], line.share("memory")[known]))
    by_place: dict[tuple[str, str], list[CaseResult]] = {}
    for result in evidence.succeeded:
        if result.started_at is not None and result.duration_seconds is not None:
            by_place.setdefault((result.case, result.node), []).append(result)
    for (case, node), own in sorted(by_place.items()):
        if len({result.phase for result in own}) == 1:  # phases differ by what they are meant to
            own.sort(key=lambda result: result.started_at or 0.0)
            at = [result.started_at or 0.0 for result in own]
            found.append(_drift(f"duration of {case}", node, at, [result.duration_seconds or 0.0 for result in own]))
    return [drift for drift in found if drift is not None]


def _drift(
    what: str, name: str, at: Sequence[float] | np.ndarray, values: Sequence[float] | np.ndarray
) -> Drift | None:
    found = trend(at, values)  # type: ignore[arg-type]
    middle = statistics.median(values) if len(values) else 0.0
    if found is None or not middle:
        return None
    change = found.per_hour * (float(at[-1]) - float(at[0])) / 3600 / abs(middle)
    told = found.p_value < DRIFT_P_VALUE and abs(change) >= DRIFT_RATIO
    return Drift(what, name, change, found) if told else None
