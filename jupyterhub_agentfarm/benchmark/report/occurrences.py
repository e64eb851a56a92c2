"""What happened in a run and when: the table of events, and the marks in plots over time, numbered alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..models import RunEvent
from .evidence import Evidence
from .wording import plural, seconds_text

#: Kinds that are marked in plots, the most telling first: with too many marks the last kinds are left out.
_MARKED = ("node_lost", "service_gap", "limit_exceeded", "cancelled", "drained", "server_restarted", "node_back")
MAX_MARKS = 24
#: As many events the table has; the rest is in the JSON.
MAX_LISTED = 200
_TEXTS = {
    "run_started": "the run started",
    "phase_started": "phase {detail} began",
    "phase_ended": "phase {detail} ended",
    "node_lost": "{node} was lost",
    "node_back": "{node} was back",
    "server_restarted": "the server on {node} was started again",
    "service_gap": "the benchmark service went on",
    "drained": "{node} was drained for the run",
    "limit_exceeded": "a limit was exceeded",
    "cancelled": "the run was cancelled",
}
#: Kinds whose detail is in their text, or says the same.
_DETAIL_IN_TEXT = ("phase_started", "phase_ended", "service_gap")
#: Kinds that end what they tell the length of.
_ENDS = ("node_back", "service_gap", "phase_ended")


@dataclass(frozen=True)
class Occurrence:
    """Something that happened."""

    number: int
    #: Seconds since the start of the window.
    at_seconds: float
    kind: str
    node: str
    #: In words.
    text: str
    #: How long it took, where that is known.
    seconds: float | None
    marked: bool


def occurrences(evidence: Evidence) -> list[Occurrence]:
    """Return what happened in the order of time; losses from the samples where the run recorded no events."""
    events = sorted(evidence.events or _seen(evidence), key=lambda event: event.at)
    kinds = _marked_kinds(events)
    return [_occurrence(evidence, number, event, kinds) for number, event in enumerate(events, start=1)]


def _seen(evidence: Evidence) -> Iterator[RunEvent]:
    for name in evidence.names:
        for begin, end in evidence.absences(name):
            yield RunEvent(begin, "node_lost", name, "seen in its samples", end - begin)
    for begin, end in evidence.gaps:
        yield RunEvent(end, "service_gap", seconds=end - begin)


def _marked_kinds(events: list[RunEvent]) -> set[str]:
    kinds: set[str] = set()
    for kind in _MARKED:
        if sum(event.kind in (*kinds, kind) for event in events) > MAX_MARKS and kinds:
            break
        kinds.add(kind)
    return kinds


def _occurrence(evidence: Evidence, number: int, event: RunEvent, kinds: set[str]) -> Occurrence:
    text = _TEXTS.get(event.kind, event.kind).format(node=event.node or "a node", detail=event.detail)
    if event.detail and event.kind not in _DETAIL_IN_TEXT:
        text += f": {event.detail}"
    if event.seconds is not None:
        text += f", {'after' if event.kind in _ENDS else 'for'} {seconds_text(event.seconds)}"
    at_seconds = event.at - evidence.window[0]
    return Occurrence(number, at_seconds, event.kind, event.node, text, event.seconds, event.kind in kinds)


def left_out(found: list[Occurrence]) -> str:
    """Return a sentence about the events that the table has no room for; "" when it has."""
    rest = len(found) - MAX_LISTED
    return f"{plural(rest, 'further event')} are in the JSON report." if rest > 0 else ""
