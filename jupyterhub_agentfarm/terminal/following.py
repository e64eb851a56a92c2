"""Following a benchmark run: its events become bars and lines, its end becomes sentences.

The events are those of ``GET /services/benchmark/api/v1/runs/{id}/events``: ``run`` with the whole view, ``result`` of
a case on a node, ``progress`` within a case, ``event`` for what happened to the run, ``sample``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from .output import clean
from .progress import Bars
from .quantities import duration
from .run_progress import RunProgress, tallied

#: States in which a run goes on.
GOING = ("starting", "running")
#: Outcomes that do not make a run a failure: a notebook may skip itself, as without torch.
_GOOD = ("succeeded", "skipped")
#: Events that the bars show anyway.
_SHOWN_BY_BARS = ("run_started", "phase_ended")
_WORDS = {
    "phase_started": "phase {detail} begins",
    "node_lost": "{node} is lost: {detail}",
    "node_back": "{node} is back",
    "server_restarted": "the server on {node} was started anew: {detail}",
    "service_gap": "the benchmark service was away{seconds}: nothing was sampled meanwhile",
    "drained": "{node} is drained for the run",
    "limit_exceeded": "a limit is exceeded: {detail}",
    "cancelled": "cancelled: {detail}",
}


class RunFollower:
    """Shows a run by streams of its events, which may end early: the next one begins with the whole view.

    Parameters
    ----------
    bars
        Where progress is shown.
    clock
        Gives seconds since the epoch.
    """

    def __init__(self, bars: Bars, clock: Callable[[], float] = time.time) -> None:
        self._bars, self._clock = bars, clock
        self._run: RunProgress | None = None
        self._said: set[tuple[float, str, str]] = set()

    async def follow(self, events: AsyncIterator[tuple[str, Any]]) -> dict[str, Any] | None:
        """Show events; return the view at the run's end, or None when the stream ended before the run did."""
        async for event, data in events:
            if event == "run":
                self._take_view(data)
                if data["state"] not in GOING:
                    return dict(data)
            elif self._run is not None:
                self._take(self._run, event, data)
        return None

    def _take_view(self, view: Mapping[str, Any]) -> None:
        run = self._run = RunProgress(view)
        for event in view.get("events") or ():
            self._say(event)
        text = "done" if view["state"] not in GOING else view["detail"] if view["state"] == "starting" else "running"
        for node in run.nodes:
            self._show(run, node, text)
        self._show_run(run)

    def _take(self, run: RunProgress, event: str, data: Any) -> None:
        if event == "result":
            run.take_result(data)
            self._show(run, data["node"], f"{data['case']}: {data['outcome']}")
        elif event == "progress":
            self._show(run, data["node"], progress_text(data))
        elif event == "event":
            run.take_event(data)
            self._say(data)
        self._show_run(run)

    def _show(self, run: RunProgress, node: str, text: str) -> None:
        if node in run.nodes:  # those that take no part have results too: skipped
            self._bars.show(node, run.done[node], run.total(node), text)

    def _show_run(self, run: RunProgress) -> None:
        """Show how far the whole run is, once its nodes are at work."""
        now = self._clock()
        ratio, left = run.ratio(now), run.remaining_seconds(now)
        if run.view["state"] != "running" or ratio is None or left is None:
            return
        text = ", ".join(part for part in (run.phase, f"about {duration(left)} left") if part)
        percent = int(100 * ratio)
        self._bars.show(f"suite {run.view['suite']}", percent, 100, text, f"{percent} %")

    def _say(self, event: Mapping[str, Any]) -> None:
        """Write a line about what happened, once."""
        key = (event["at"], event["kind"], event["node"])
        if event["kind"] in _SHOWN_BY_BARS or key in self._said:
            return
        self._said.add(key)
        at = time.strftime("%H:%M:%S", time.localtime(event["at"]))
        self._bars.say(clean(f"{at} {event_text(event)}"))


def event_text(event: Mapping[str, Any]) -> str:
    """Return what happened in words."""
    seconds = "" if event.get("seconds") is None else f" for {duration(event['seconds'])}"
    words = _WORDS.get(event["kind"], "{kind} {node} {detail}")
    facts = {**event, "seconds": seconds, "kind": event["kind"].replace("_", " ")}
    return words.format(**facts).strip().rstrip(":").rstrip()


async def follow(events: AsyncIterator[tuple[str, Any]], bars: Bars) -> dict[str, Any] | None:
    """Show a run's events as bars and return its view at the end; None when the stream ended before the run did."""
    return await RunFollower(bars).follow(events)


def progress_text(progress: Mapping[str, Any]) -> str:
    """Return what a node is doing, in a few words."""
    if progress.get("case") is None:
        return " ".join(str(progress[key]) for key in ("phase", "detail") if progress.get(key))
    cells = f" cell {progress['cells_done']}/{progress['cells_total']}" if progress.get("cells_total") else ""
    return f"{progress['case']}{cells}"


def verdict(view: Mapping[str, Any]) -> list[str]:
    """Return a line per node and for what did not succeed there, and one per limit."""
    lines, run = [], RunProgress(view)
    for node in view["nodes"]:
        if node["skipped"]:
            lines.append(f"{node['name']}: took no part: {node['skipped']}")
        else:
            lines += _node_lines(node["name"], run)
    lines += [limit_text(limit) for limit in view.get("limits") or ()]
    return [clean(line) for line in lines]


def _node_lines(name: str, run: RunProgress) -> list[str]:
    counts: Counter[str] = Counter()
    bad: Counter[tuple[str, str]] = Counter()
    for row in tallied(run.view):
        if row["node"] == name:
            counts[row["outcome"]] += row["results"]
            if row["outcome"] != "succeeded":
                bad[row["case"], row["outcome"]] += row["results"]
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no results"
    total = run.total(name)
    return [
        f"{name}: {counted}" + ("" if total is None else f" of {total} cases"),
        *(
            f"  {_bad_text(run.view, name, key)}" + (f" ({times} times)" if times > 1 else "")
            for key, times in bad.items()
        ),
    ]


def _bad_text(view: Mapping[str, Any], node: str, key: tuple[str, str]) -> str:
    """Return what a case came to, with the reason of one of its results that the view still has."""
    found = (one for one in view["results"] if (one["node"], one["case"], one["outcome"]) == (node, *key))
    return f"{key[0]} {key[1]}: {next(found, {'reason': ''})['reason']}".rstrip(": ")


def limit_text(limit: Mapping[str, Any]) -> str:
    """Return what came out against a limit."""
    got = "it could not be measured" if limit["got"] is None else f"it was {limit['got']:.4g}"
    return f"limit {limit['name']} {limit['wanted']:.4g}: {'held' if limit['held'] else 'broken'}, {got}"


def summary(view: Mapping[str, Any]) -> str:
    """Return what came out of a run, in a sentence."""
    took = ""
    if view.get("started_at") and view.get("ended_at"):
        took = f" in {duration(view['ended_at'] - view['started_at'])}"
    passed = {True: ", passed", False: ", not passed"}.get(view.get("passed"), "")  # type: ignore[arg-type]
    passed = passed if view["state"] == "completed" else ""
    detail = f" ({view['detail']})" if view["state"] != "completed" and view["detail"] else ""
    return clean(f"run {view['id']} of suite {view['suite']}: {view['state']}{took}{passed}{detail}")


def failure(view: Mapping[str, Any]) -> str | None:
    """Return why a run counts as failed, or None when it went well."""
    if view["state"] != "completed":
        return summary(view)
    broken = [limit for limit in view.get("limits") or () if not limit["held"]]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return clean(f"{limit_text(broken[0])}{more}")
    counted = [row for row in tallied(view) if not row.get("warm_up")]
    bad = [row for row in counted if row["outcome"] not in _GOOD]
    if bad and not view.get("passed"):  # the suite's limits may allow some
        others = sum(row["results"] for row in bad) - 1
        first, outcome = bad[0], bad[0]["outcome"].replace("_", " ")
        reason = _bad_text(view, first["node"], (first["case"], first["outcome"])).partition(": ")[2]
        more = f" and {others} more" if others else ""
        return clean(f"{first['case']} on {first['node']} {outcome}{more}: {reason}".rstrip(": "))
    if not any(row["outcome"] == "succeeded" for row in counted):
        return "no case succeeded on any node"
    return None if view.get("passed") is not False else summary(view)
