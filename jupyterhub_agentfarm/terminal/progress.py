"""Progress of work that takes a while: bars on a terminal, lines elsewhere. Both go to stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from .output import Output, clean

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Elsewhere than on a terminal, a text that changes is written again after so many seconds at the earliest.
LINE_SECONDS = 10.0


class Bars(Protocol):
    """Bars by name."""

    def show(self, name: str, done: int, total: int | None, text: str, count: str = "") -> None:
        """Set the bar `name` to `done` of `total`, or of nobody knows how many, with a text behind it.

        `count` is shown instead of the two numbers.
        """

    def say(self, text: str) -> None:
        """Write a line that stays, above the bars."""


@contextmanager
def bars(output: Output) -> Iterator[Bars]:
    """Show bars for as long as the block runs."""
    if not output.stderr.isatty():
        yield Lines(output)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        TextColumn("{task.fields[count]}", markup=False, justify="right"),
        TimeElapsedColumn(),
    )
    text = TextColumn("{task.fields[text]}", markup=False)
    with Progress(*columns, text, console=Console(file=output.stderr)) as progress:
        yield _Drawn(progress)


class Lines:
    """A line whenever something is done; what else changes is told once in a while.

    Parameters
    ----------
    output
        Where to write.
    clock
        Gives seconds.
    """

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output, self._clock = output, clock
        self._last: dict[str, tuple[str, str, float]] = {}

    def show(self, name: str, done: int, total: int | None, text: str, count: str = "") -> None:
        """Write the state at once when something was done; another text, or a `count` that only time moves, later."""
        shown, now = count or _count(done, total), self._clock()
        last_shown, last_text, at = self._last.get(name, ("", "", float("-inf")))
        changed = (shown, text) != (last_shown, last_text)
        if changed and (now - at >= LINE_SECONDS or (shown != last_shown and not count)):
            self._last[name] = (shown, text, now)
            self._output.note(f"{clean(name)}: {shown} {clean(text)}".rstrip())

    def say(self, text: str) -> None:
        """Write a line."""
        self._output.note(text)


def _count(done: int, total: int | None) -> str:
    return f"{done} done" if total is None else f"{done}/{total}"


class _Drawn:
    """Bars of rich."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, name: str, done: int, total: int | None, text: str, count: str = "") -> None:
        """Move the bar."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(clean(name), total=total, text="", count="")
        count = count or _count(done, total)
        self._progress.update(self._tasks[name], completed=done, total=total, text=clean(text), count=count)

    def say(self, text: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)
