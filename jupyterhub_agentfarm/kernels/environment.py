"""Which environment variables are read while modules are imported.

What a module keeps of them when it is imported, a fork cannot change any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self


class _Watched(dict[bytes, bytes]):
    """The environment's own dict, which notes the names that it is asked for."""

    def __init__(self, data: dict[bytes, bytes], names: set[str]) -> None:
        super().__init__(data)
        self._names = names

    def _note(self, name: Any) -> None:
        self._names.add(os.fsdecode(name))

    def __getitem__(self, name: bytes) -> bytes:
        self._note(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._note(name)
        return super().__contains__(name)


class ReadNames:
    """While this context is open, it collects the names of the variables that are read through `os.environ`.

    Reading them all at once, as a copy does, names none.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        environment: Any = os.environ
        environment._data = _Watched(environment._data, self._names)  # noqa: SLF001 - nothing public tells
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        environment: Any = os.environ
        environment._data = dict(environment._data)  # noqa: SLF001

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)
