"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.report.wording import (
    bytes_text,
    change_text,
    clock_text,
    energy_text,
    label,
    listed,
    number_text,
    p_text,
    percent_text,
    plural,
    seconds_text,
    tiny_text,
)


def plain(text: str) -> str:
    """Return a text with ordinary spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1234, "0.12 s"),
        (4, "4.0 s"),
        (42.4, "42 s"),
        (119.4, "119 s"),
        (450, "7 min 30 s"),
        (3600, "60 min"),
        (14_700, "4 h 5 min"),
        (7199.6, "2 h"),
        (266_400, "3 d 2 h"),
        (None, "\N{EN DASH}"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    """A duration has two units at most, and no part of a whole one."""
    assert seconds_text(seconds) == text


@given(st.floats(0, 1e8))
def test_durations_never_have_a_part_as_large_as_the_next_unit(seconds: float) -> None:
    """There is no "60 s" or "24 h" after a larger unit."""
    words = seconds_text(seconds).split()
    if len(words) == 4:
        assert float(words[2]) < {"s": 60, "min": 60, "h": 24}[words[3]]


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0.5, "50 %"),
        (0, "0 %"),
        (1, "100 %"),
        (0.995, "99.5 %"),
        (0.99997, "> 99.9 %"),
        (0.00001, "< 0.1 %"),
        (0.003, "0.3 %"),
    ],
)
def test_nearly_all_is_not_all(ratio: float, text: str) -> None:
    """What is not all is never written as 100 %, and what is not nothing never as 0 %."""
    assert plain(percent_text(ratio)) == text


@given(st.floats(0, 1))
def test_percent_is_exact_at_the_ends(ratio: float) -> None:
    """100 % and 0 % are said of exactly these."""
    text = plain(percent_text(ratio))
    assert (text == "100 %") == (ratio == 1)
    assert (text == "0 %") == (ratio == 0)


def test_other_texts() -> None:
    """Figures, changes, sizes, energies, p-values, instants and lists."""
    assert [number_text(value) for value in (12_345.6, 227.61, 57.07, 0.58751, 0)] == [
        "12,346",
        "227.6",
        "57.1",
        "0.588",
        "0",
    ]
    assert [plain(change_text(value)) for value in (0.032, -0.28, 0.0)] == ["+3.2 %", "\N{MINUS SIGN}28 %", "+0.0 %"]
    assert [plain(bytes_text(value)) for value in (24 * 2**30, 512 * 2**20)] == ["24 GiB", "512 MiB"]
    assert [plain(energy_text(value)) for value in (0.0571, 3.2, 42_000, 3.6e6)] == [
        "57.1 mJ",
        "3.2 J",
        "42 kJ",
        "1 kWh",
    ]
    assert [plain(tiny_text(value)) for value in (0.0013, 5.4e-05, 0)] == ["0.13 %", "0.0054 %", "0 %"]
    assert [p_text(value) for value in (0.0004, 0.034, 1.0)] == ["p < 0.001", "p = 0.034", "p = 1"]
    assert [clock_text(value) for value in (12, 46_800, -3)] == ["0:00:12", "13:00:00", "-0:00:03"]
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(list("abcdefgh")) == "a, b, c, d, e and 3 more"
    assert (listed([]), listed(["a"]), plural(1, "node"), plural(2000, "node")) == ("", "a", "1 node", "2,000 nodes")
    assert [label(name) for name in ("tokens_per_second", "gemm_gflops", "gpu_ratio")] == [
        "tokens/s",
        "gemm GFLOP/s",
        "gpu (share)",
    ]
