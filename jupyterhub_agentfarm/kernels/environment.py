"""Which environment variables modules read and write while they are imported.

What a module keeps of them when it is imported, a fork cannot change any more; what it sets, a fork has to set again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self


class _Watched(dict[bytes, bytes]):
    """The environment's own dict, which notes the names that it is asked for.

    A copy, like a look at all items, lists the names and asks for each of them in that order: that asks for none. What
    stops on the way, or asks for others in between, has asked for those.
    """

    def __init__(self, data: dict[bytes, bytes], names: set[str]) -> None:
        super().__init__(data)
        self._names = names
        self._listed: list[bytes] = []
        self._copied = 0

    def settled(self) -> dict[bytes, bytes]:
        """Return the environment's plain dict, when all that was asked for is noted."""
        self._settle()
        return dict(self.items())

    def _settle(self) -> None:
        """Note what was asked for in the order of a list that was not finished."""
        self._names.update(map(os.fsdecode, self._listed[: self._copied]))
        self._listed, self._copied = [], 0

    def _note(self, name: Any) -> None:
        self._settle()
        self._names.add(os.fsdecode(name))

    def __iter__(self) -> Iterator[bytes]:
        self._settle()
        self._listed = list(super().__iter__())
        return iter(self._listed)

    def __getitem__(self, name: bytes) -> bytes:
        if self._listed and name == self._listed[self._copied]:
            self._copied += 1
            if self._copied == len(self._listed):
                self._listed, self._copied = [], 0
        else:
            self._note(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._note(name)
        return super().__contains__(name)


class Watched:
    """While this context is open, it collects what is read and written through `os.environ`.

    Attributes
    ----------
    read
        Names of variables. Reading them all at once, as a copy does, names none.
    written
        Variables that were set, with their values, and removed, with None.
    """

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.written: dict[str, str | None] = {}
        self._before: dict[str, str] = {}

    def __enter__(self) -> Self:
        environment: Any = os.environ
        self._before = dict(environment)
        environment._data = _Watched(environment._data, self.read)  # noqa: SLF001 - nothing public tells
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        environment: Any = os.environ
        environment._data = environment._data.settled()  # noqa: SLF001
        after = dict(environment)
        names = {*self._before, *after}
        self.written = {name: after.get(name) for name in names if after.get(name) != self._before.get(name)}
