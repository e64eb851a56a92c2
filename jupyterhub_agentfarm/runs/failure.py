"""From a kernel's error reply to :class:`~.models.CellError`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode

from .models import CellError

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MAX_NAME_CHARACTERS = 200
_MAX_VALUE_CHARACTERS = 4_000
_MAX_LINE_CHARACTERS = 1_000
_MAX_TRACEBACK_LINES = 500
_MAX_TRACEBACK_CHARACTERS = 64_000


def cell_error(index: int, cell: NotebookNode, reply: Mapping[str, Any]) -> CellError:
    """Return the error that `cell` ended with.

    Parameters
    ----------
    index
        The cell's index in the notebook.
    cell
        The cell, executed.
    reply
        Content of the kernel's `execute_reply` with status `error`.
    """
    traceback = _COLOUR.sub("", "\n".join(map(str, reply.get("traceback") or [])))
    line = _line(traceback, cell.get("execution_count"))
    lines = cell.source.splitlines()
    return CellError(
        cell=index,
        line=line,
        source_line=lines[line - 1][:_MAX_LINE_CHARACTERS] if line is not None and 0 < line <= len(lines) else None,
        ename=str(reply.get("ename", ""))[:_MAX_NAME_CHARACTERS],
        evalue=_COLOUR.sub("", str(reply.get("evalue", "")))[:_MAX_VALUE_CHARACTERS],
        traceback=_last_lines(traceback),
    )


def _last_lines(traceback: str) -> tuple[str, ...]:
    lines = traceback[-_MAX_TRACEBACK_CHARACTERS:].splitlines()[-_MAX_TRACEBACK_LINES:]
    return tuple(line[:_MAX_LINE_CHARACTERS] for line in lines)


def _line(traceback: str, execution_count: int | None) -> int | None:
    """Return the line of the cell that IPython's traceback names first, which is the outermost frame's."""
    match = re.search(rf"Cell In\[{execution_count}\], line (\d{{1,9}})", traceback)
    return int(match[1]) if match else None
