"""Following a benchmark run: its events become bars, its end becomes sentences.

The events are those of ``GET /services/benchmark/api/v1/runs/{id}/events``: ``run`` with the whole view, ``result`` of
a case on a node, ``progress`` within a case.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

from .output import clean
from .progress import Bars
from .quantities import duration

#: States in which a run goes on.
GOING = ("starting", "running")
#: Outcomes that do not make a run a failure: a notebook may skip itself, as without torch.
_GOOD = ("succeeded", "skipped")


async def follow(events: AsyncIterator[tuple[str, Any]], bars: Bars) -> dict[str, Any] | None:
    """Show a run's events as bars and return its view at the end; None when the stream ended before the run did."""
    view: dict[str, Any] = {}
    done: dict[str, set[str]] = {}
    async for event, data in events:
        if event == "run":
            view = data
            for result in view["results"]:
                done.setdefault(result["node"], set()).add(result["case"])
            _show_nodes(view, done, bars)
            if view["state"] not in GOING:
                return view
        elif event == "result":
            done.setdefault(data["node"], set()).add(data["case"])
            bars.show(data["node"], len(done[data["node"]]), _total(view), f"{data['case']}: {data['outcome']}")
        elif event == "progress":
            bars.show(data["node"], len(done.get(data["node"], ())), _total(view), progress_text(data))
    return None


def _show_nodes(view: Mapping[str, Any], done: Mapping[str, set[str]], bars: Bars) -> None:
    """Show a bar for every node that takes part."""
    for node in view["nodes"]:
        if not node["skipped"]:
            cases = done.get(node["name"], set())
            text = (
                "done" if view["state"] not in GOING else view["detail"] if view["state"] == "starting" else "running"
            )
            bars.show(node["name"], len(cases), _total(view), text)


def _total(view: Mapping[str, Any]) -> int:
    return len((view.get("definition") or {}).get("cases") or ())


def progress_text(progress: Mapping[str, Any]) -> str:
    """Return what a node is doing, in a few words."""
    if progress.get("case") is None:
        return " ".join(str(progress[key]) for key in ("phase", "detail") if progress.get(key))
    cells = f" cell {progress['cells_done']}/{progress['cells_total']}" if progress.get("cells_total") else ""
    return f"{progress['case']}{cells}"


def verdict(view: Mapping[str, Any]) -> list[str]:
    """Return a line per node, and one for every case that did not succeed."""
    lines = []
    for node in view["nodes"]:
        name = node["name"]
        if node["skipped"]:
            lines.append(f"{name}: took no part: {node['skipped']}")
            continue
        results = [result for result in view["results"] if result["node"] == name]
        counts = Counter(result["outcome"] for result in results)
        counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no results"
        lines.append(f"{name}: {counted} of {_total(view)} cases")
        lines += [
            f"  {result['case']} {result['outcome']}: {result['reason']}".rstrip(": ")
            for result in results
            if result["outcome"] != "succeeded"
        ]
    return [clean(line) for line in lines]


def summary(view: Mapping[str, Any]) -> str:
    """Return what came out of a run, in a sentence."""
    took = ""
    if view.get("started_at") and view.get("ended_at"):
        took = f" in {duration(view['ended_at'] - view['started_at'])}"
    detail = f" ({view['detail']})" if view["state"] != "completed" and view["detail"] else ""
    return clean(f"run {view['id']} of suite {view['suite']}: {view['state']}{took}{detail}")


def failure(view: Mapping[str, Any]) -> str | None:
    """Return why a run counts as failed, or None when it went well."""
    if view["state"] != "completed":
        return summary(view)
    bad = [result for result in view["results"] if result["outcome"] not in _GOOD]
    if bad:
        first = bad[0]
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        return clean(f"{first['case']} on {first['node']} {first['outcome']}{more}: {first['reason']}")
    if not any(result["outcome"] == "succeeded" for result in view["results"]):
        return "no case succeeded on any node"
    return None
