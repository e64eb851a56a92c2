"""From a kernel's error reply to :class:`~.models.CellError`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode

from .failing_line import failing_line
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
    traceback = _COLOUR.sub("", "\n".join(map(str, reply.get("traceback") or [])))[-_MAX_TRACEBACK_CHARACTERS:]
    value = _COLOUR.sub("", str(reply.get("evalue", ""))).strip()[:_MAX_VALUE_CHARACTERS]
    lines = cell.source.splitlines()
    line = failing_line(lines, cell.get("execution_count"), value, traceback)
    return CellError(
        cell=index,
        line=line,
        source_line=_text(lines, line)[:_MAX_LINE_CHARACTERS] or None,
        ename=str(reply.get("ename", ""))[:_MAX_NAME_CHARACTERS],
        evalue=value,
        traceback=_last_lines(traceback),
    )


def _text(lines: list[str], line: int | None) -> str:
    """Return the text of a line; of one that is not known the first that says something."""
    return lines[line - 1] if line is not None else next((text for text in lines if text.strip()), "")


def _last_lines(traceback: str) -> tuple[str, ...]:
    lines = traceback.splitlines()[-_MAX_TRACEBACK_LINES:]
    return tuple(line[:_MAX_LINE_CHARACTERS] for line in lines)
