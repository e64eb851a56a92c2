"""Tables, quantities and progress."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.terminal.output import Output, clean
from jupyterhub_agentfarm.terminal.progress import Lines, bars
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
        progress.show("soak", 7, None, "")
        progress.say("[b]hello[/b]")
    assert "micro-1" in err.getvalue()
    assert "1/3" in err.getvalue()
    assert "7 done" in err.getvalue()
    assert "[b]hello[/b]" in err.getvalue()


def test_lines_elsewhere() -> None:
    """Elsewhere whatever is done is a line at once, another text only after a while, and nothing is repeated."""
    now = 100.0
    err = io.StringIO()
    progress = Lines(Output(io.StringIO(), err), clock=lambda: now)
    for text in ("digits", "digits", "digits cell 2"):
        progress.show("micro-1", 1, 3, text)
    now += 10
    for _ in range(2):
        progress.show("micro-1", 1, 3, "digits cell 9")
    progress.show("micro-1", 2, 3, "")
    progress.show("gpu-1", 7, None, "digits")
    for percent in (40, 41, 42):
        progress.show("suite soak", percent, 100, "about 2m left", f"{percent} %")
    progress.say("hello")
    assert err.getvalue().splitlines() == [
        "micro-1: 1/3 digits",
        "micro-1: 1/3 digits cell 9",
        "micro-1: 2/3",
        "gpu-1: 7 done digits",
        "suite soak: 40 % about 2m left",
        "hello",
    ]
