"""How numbers, instants and names are written for people."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence

#: Stands for what is not known.
UNKNOWN = "\N{EN DASH}"
ROLE_TITLES = {"microserver": "Microservers", "gpuserver": "GPU servers"}
_NO_BREAK = "\N{NO-BREAK SPACE}"


def plural(number: int, word: str) -> str:
    """Return "1 node", "2 nodes"."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return "n1, n2 and n3", or "n1, n2, n3, n4, n5 and 7 more"."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def seconds_text(seconds: float | None) -> str:
    """Return a duration: "0.35 s", "42 s", "7 min 30 s", "4 h 5 min", "3 d 2 h"."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    if round(seconds) < 120:
        return f"{seconds:.0f} s"
    for unit, size, part, part_size in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if unit == "d" or round(seconds / part_size) * part_size < {"min": 7200, "h": 172800}[unit]:
            whole, rest = divmod(round(seconds / part_size), size // part_size)
            return f"{whole} {unit}" + (f" {rest} {part}" if rest and whole < 100 else "")
    raise AssertionError("the last unit takes everything")


def clock_text(seconds: float) -> str:
    """Return an instant of a run as the time since its start: "0:00:12", "13:05:00"."""
    whole = round(seconds)
    sign, whole = ("-" if whole < 0 else ""), abs(whole)
    return f"{sign}{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def number_text(value: float | None) -> str:
    """Return a figure: thousands apart, three digits that matter below a hundred, four from there on."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"


def percent_text(ratio: float | None) -> str:
    """Return a share of 0-1 as percent, with a decimal where it would be lost: "98 %", "99.5 %", "> 99.9 %"."""
    if ratio is None:
        return UNKNOWN
    if 0 < ratio < 0.0005:
        return f"<{_NO_BREAK}0.1{_NO_BREAK}%"
    if 0.9995 <= ratio < 1:  # nearly all is not all
        return f">{_NO_BREAK}99.9{_NO_BREAK}%"
    percent = 100 * ratio
    edge = 0 < abs(percent) < 2 or 98 < percent < 100
    digits = 1 if edge and round(percent, 1) != round(percent) else 0
    return f"{percent:.{digits}f}{_NO_BREAK}%"


def change_text(ratio: float | None) -> str:
    """Return a relative change with its sign: "+3.2 %", and with a minus sign "-12 %"."""
    if ratio is None:
        return UNKNOWN
    digits = 0 if abs(ratio) >= 0.095 else 1
    return f"{100 * ratio:+.{digits}f}{_NO_BREAK}%".replace("-", "\N{MINUS SIGN}")


def bytes_text(value: float | None) -> str:
    """Return an amount of memory: "24 GiB", "512 MiB"."""
    if value is None:
        return UNKNOWN
    unit, size = ("GiB", 2**30) if abs(value) >= 2**30 else ("MiB", 2**20)
    return f"{value / size:.3g}{_NO_BREAK}{unit}"


def energy_text(joules: float | None) -> str:
    """Return an energy: "3.2 J", "42 kJ", "1.5 kWh" (1 kWh = 3.6 MJ)."""
    if joules is None:
        return UNKNOWN
    if joules >= 3.6e5:
        return f"{number_text(joules / 3.6e6)}{_NO_BREAK}kWh"
    for unit, size in (("kJ", 1e3), ("J", 1.0), ("mJ", 1e-3)):
        if joules >= size or unit == "mJ":
            return f"{joules / size:.3g}{_NO_BREAK}{unit}"
    raise AssertionError("the last unit takes everything")


def tiny_text(ratio: float) -> str:
    """Return a small share as percent with two digits that matter, without exponents: "0.13 %", "0.0054 %"."""
    percent = 100 * ratio
    digits = max(0, 1 - math.floor(math.log10(percent))) if percent > 0 else 0
    return f"{percent:.{min(digits, 9)}f}{_NO_BREAK}%"


def p_text(p_value: float | None) -> str:
    """Return a p-value: "p = 0.03", "p < 0.001"."""
    if p_value is None:
        return UNKNOWN
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def when(at: float | None) -> str:
    """Return an instant in UTC."""
    if at is None:
        return UNKNOWN
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def label(name: str) -> str:
    """Return the name of a figure: "train_samples_per_second" → "train samples/s"."""
    text = name.replace("_per_second", "/s").replace("_per_minute", "/min")
    text = text.replace("_gflops", " GFLOP/s").replace("_tflops", " TFLOP/s")
    return text.replace("_ratio", " (share)").replace("_bytes", " (bytes)").replace("_", " ")
