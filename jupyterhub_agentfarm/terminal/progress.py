"""Progress of work that takes a while: bars on a terminal, a line per change elsewhere. Both go to stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from .output import Output, clean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bars(Protocol):
    """Bars by name."""

    def show(self, name: str, done: int, total: int, text: str) -> None:
        """Set the bar `name` to `done` of `total`, with a text behind it."""

    def say(self, text: str) -> None:
        """Write a line that stays, above the bars."""


@contextmanager
def bars(output: Output) -> Iterator[Bars]:
    """Show bars for as long as the block runs."""
    if not output.stderr.isatty():
        yield _Lines(output)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.fields[text]}", markup=False)
    with Progress(*columns, text, console=Console(file=output.stderr)) as progress:
        yield _Drawn(progress)


class _Lines:
    """A line whenever something changed."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last: dict[str, tuple[int, int, str]] = {}

    def show(self, name: str, done: int, total: int, text: str) -> None:
        """Write the state, unless it is the one written last."""
        if self._last.get(name) != (done, total, text):
            self._last[name] = (done, total, text)
            self._output.note(f"{clean(name)}: {done}/{total} {clean(text)}".rstrip())

    def say(self, text: str) -> None:
        """Write a line."""
        self._output.note(text)


class _Drawn:
    """Bars of rich."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, name: str, done: int, total: int, text: str) -> None:
        """Move the bar."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(clean(name), total=total, text="")
        self._progress.update(self._tasks[name], completed=done, total=total, text=clean(text))

    def say(self, text: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)
