"""One way out for all commands.

On a terminal tables are drawn by rich; elsewhere they are columns separated by two spaces, so that ``awk`` and eyes
can read them. Control characters in data, which may come from a node or a user, are shown and never sent to the
terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from ..records import to_json


def clean(value: object) -> str:
    """Return `value` as text in which control characters are visible, so that no data can steer the terminal."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Output:
    """Writes data to stdout and messages to stderr.

    Parameters
    ----------
    stdout, stderr
        Default: those of the process at the time of the call.
    """

    def __init__(self, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr

    @property
    def is_terminal(self) -> bool:
        """Whether people read stdout."""
        return self.stdout.isatty()

    def json(self, value: Any) -> None:
        """Write `value`, records included, as indented JSON."""
        self.stdout.write(json.dumps(to_json(value), indent=2) + "\n")
        self.stdout.flush()

    def line(self, text: str) -> None:
        """Write one line of data."""
        self.stdout.write(text + "\n")
        self.stdout.flush()

    def note(self, text: str) -> None:
        """Say something about the data, on stderr."""
        self.stderr.write(text + "\n")
        self.stderr.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
        """Write a table; when there are no rows, say `empty` instead (on stderr: there is no data)."""
        cells = [[clean(cell) for cell in row] for row in rows]
        if not cells:
            self.note(empty)
        elif self.is_terminal:
            self._drawn(columns, cells)
        else:
            self._columns(columns, cells)

    def fields(self, values: Mapping[str, object]) -> None:
        """Write names and values, one a line."""
        width = max(len(name) for name in values) + 1
        for name, value in values.items():
            self.line(f"{name + ':':<{width}}  {clean(value)}".rstrip())

    def _columns(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(cell) for cell in column) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            self.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def _drawn(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=self.stdout).print(table)
