"""Tables, quantities, progress and the following of runs."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.terminal.following import failure, follow, summary, verdict
from jupyterhub_agentfarm.terminal.output import Output, clean
from jupyterhub_agentfarm.terminal.progress import bars
from jupyterhub_agentfarm.terminal.quantities import age, duration, number, share, size


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (1023, "1023"), (1024, "1.0K"), (10 * 2**20, "10M"), (1.5 * 2**30, "1.5G")],
)  # fmt: skip
def test_size(value: float | None, text: str) -> None:
    """Sizes have at most four digits and a unit; unknown is no 0."""
    assert size(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d")])
def test_duration(seconds: float, text: str) -> None:
    """Durations are in their largest sensible unit."""
    assert (duration(seconds), age(0.0, seconds)) == (text, text)


def test_unknown() -> None:
    """What is not known is a dash."""
    assert [share(None), number(None), age(None, 0.0)] == ["-", "-", "-"]


@given(st.text())
def test_clean_text_is_printable(text: str) -> None:
    """No text leaves a control character to the terminal, and printable text is unchanged."""
    assert clean(text).isprintable()
    assert not text.isprintable() or clean(text) == text


def test_a_table_on_a_terminal() -> None:
    """Rich draws the table; markup in data is data."""
    out = Terminal()
    Output(out, out).table(("NAME", "DETAIL"), [("a", "[red]x[/red]")], "nothing")
    assert "[red]x[/red]" in out.getvalue()
    assert "─" in out.getvalue()


def test_bars_on_a_terminal() -> None:
    """Bars show name, count and text; what is said stays above them."""
    err = Terminal()
    with bars(Output(io.StringIO(), err)) as progress:
        progress.show("micro-1", 1, 3, "digits")
        progress.say("[b]hello[/b]")
    assert "micro-1" in err.getvalue()
    assert "1/3" in err.getvalue()
    assert "[b]hello[/b]" in err.getvalue()


def test_lines_elsewhere() -> None:
    """Elsewhere every change is one line, and what did not change is not repeated."""
    err = io.StringIO()
    with bars(Output(io.StringIO(), err)) as progress:
        for _ in range(2):
            progress.show("micro-1", 1, 3, "digits")
        progress.show("micro-1", 2, 3, "")
        progress.say("hello")
    assert err.getvalue() == "micro-1: 1/3 digits\nmicro-1: 2/3\nhello\n"


def run_view(**changes: Any) -> dict[str, Any]:
    """Return a run of two cases on one node, another node left out."""
    plain = {
        "id": "r1", "suite": "smoke", "state": "completed", "detail": "", "started_at": 10.0, "ended_at": 73.0,
        "definition": {"cases": [{"name": "digits"}, {"name": "torch"}]},
        "nodes": [{"name": "a", "skipped": ""}, {"name": "b", "skipped": "it is draining"}],
        "results": [
            {"node": "a", "case": "digits", "outcome": "succeeded", "reason": ""},
            {"node": "a", "case": "torch", "outcome": "skipped", "reason": "torch is not installed"},
        ],
    }  # fmt: skip
    return plain | changes


def test_verdict() -> None:
    """A line per node, and a line for each case that did not succeed."""
    assert verdict(run_view()) == [
        "a: 1 skipped, 1 succeeded of 2 cases",
        "  torch skipped: torch is not installed",
        "b: took no part: it is draining",
    ]
    assert summary(run_view()) == "run r1 of suite smoke: completed in 63s"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"state": "failed", "detail": "no server"}, "run r1 of suite smoke: failed in 63s (no server)"),
        ({"results": [{"node": "a", "case": "digits", "outcome": "lost", "reason": "gone"}]}, "digits on a lost: gone"),
        (
            {"results": [{"node": "a", "case": "t", "outcome": "skipped", "reason": ""}]},
            "no case succeeded on any node",
        ),
        ({"results": []}, "no case succeeded on any node"),
    ],
)
def test_failure(changes: dict[str, Any], why: str | None) -> None:
    """A run fails by its state, by a case that failed, or when nothing succeeded; a skipped case is none."""
    assert failure(run_view(**changes)) == why


async def test_follow() -> None:
    """Events become bars, and the last view is the answer."""

    async def events() -> AsyncIterator[tuple[str, Any]]:
        yield "run", run_view(state="running", results=[])
        yield "progress", {"node": "a", "case": None, "phase": "starting"}
        yield "progress", {"node": "a", "case": "digits", "cells_done": 1, "cells_total": 4}
        yield "result", {"node": "a", "case": "digits", "outcome": "succeeded"}
        yield "sample", []
        yield "run", run_view()

    err = io.StringIO()
    with bars(Output(io.StringIO(), err)) as progress:
        view = await follow(events(), progress)
    assert view == run_view()
    assert err.getvalue().splitlines() == [
        "a: 0/2 running",
        "a: 0/2 starting",
        "a: 0/2 digits cell 1/4",
        "a: 1/2 digits: succeeded",
        "a: 2/2 done",
    ]


async def test_follow_of_a_lost_stream() -> None:
    """A stream that ends before the run did gives nothing, so that the caller asks again."""

    async def events() -> AsyncIterator[tuple[str, Any]]:
        yield "run", run_view(state="running", results=[])

    with bars(Output(io.StringIO(), io.StringIO())) as progress:
        assert await follow(events(), progress) is None
