"""Which line of a cell failed, by what its kernel tells: each language has its own way to say so, or none.

A kernel tells of all its cells in the same words. So a line is taken only where the cell itself fits what is told; of
the calls that lead to the failure the outermost one in the cell counts, as it does for IPython.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

#: Longer calls say no more about where they are.
_MOST_CHARACTERS = 500
_PARSE = re.compile(r"Error in parse\(text = x, srcfile = src\): <text>:(\d{1,9}):\d+: ")
_FRAME = re.compile(r"^\d+\. (.*?)(?: {3}# at line (\d{1,9}) of file <text>)?$", re.MULTILINE)
_CALL = re.compile(r"Error in (.*?)(?: :|:) ", re.DOTALL)
_NAME = re.compile(r"""(?:object|function) ['"\u2018\u201c]([\w.]+)['"\u2019\u201d]""")


def failing_line(lines: Sequence[str], execution_count: int | None, value: str, traceback: str) -> int | None:
    """Return the line of a cell, from 1, at which it failed; None where that is not known.

    Parameters
    ----------
    lines
        The cell's.
    execution_count
        Its number among all that the kernel has executed.
    value, traceback
        What the kernel tells of the error, without terminal colours.
    """
    for told in _told(lines, execution_count, value, traceback):
        if told is not None and 0 < told <= len(lines):
            return told
    return None


def _told(lines: Sequence[str], count: int | None, value: str, traceback: str) -> Iterator[int | None]:
    """Give the lines that may be meant, the surest first."""
    yield _number(re.search(rf"Cell In\[{count}\], line (\d{{1,9}})", traceback))  # IPython's outermost frame is first
    yield _number(re.search(rf"top-level scope\s+@ (?:\w+ )?In\[{count}\]:(\d{{1,9}})", traceback))  # Julia's is last
    yield _number(_PARSE.match(value))
    for frame in _FRAME.finditer(traceback):  # R's, of which the first is the cell's own
        yield _line_of_call(lines, frame[1], _number(frame, 2))
    if (call := _CALL.match(value)) is not None:
        yield _line_of_call(lines, call[1], None)
    if (name := _NAME.search(value)) is not None:
        yield _only_line(line for line, text in enumerate(lines, 1) if name[1] in re.findall(r"[\w.]+", text))


def _number(found: re.Match[str] | None, group: int = 1) -> int | None:
    return int(found[group]) if found is not None and found[group] else None


def _line_of_call(lines: Sequence[str], call: str, told: int | None) -> int | None:
    """Return the line that holds a call as R writes it: the one that is told if it does, else the only one."""
    wanted = _plain(call[:_MOST_CHARACTERS].partition("\n")[0])
    found = [line for line, text in enumerate(lines, 1) if wanted and wanted in _plain(text)]
    return told if told in found else _only_line(iter(found))


def _only_line(found: Iterator[int]) -> int | None:
    first = next(found, None)
    return first if next(found, None) is None else None


def _plain(code: str) -> str:
    """Return code without what R changes when it writes a call: spaces and the kind of quotes."""
    return re.sub(r"\s", "", code).replace("'", '"')
