"""What modules do while they are imported: what of the process's identity they read, and whom they import.

A module that reads a variable of the environment then has kept what it found: in a process that was forked later, for
somebody else, it would be wrong. Whoever imported something from such a module may have kept that as well.
"""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any, Self

#: What stands for reading all of the environment.
EVERYTHING = "*"
#: Functions of `os` whose answers differ between forked processes, and what stands for calling one.
IDENTITY = {
    "@account": ("getuid", "geteuid", "getgid", "getegid", "getgroups", "getlogin"),
    "@process": ("getpid", "getppid"),
    "@directory": ("getcwd", "getcwdb"),
    "@random": ("urandom", "getrandom"),
}


def executing_module(frame: FrameType | None) -> str | None:
    """Return the module whose body is being executed, the innermost one; None: none is being imported."""
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            name = str(frame.f_globals.get("__name__"))
            return None if name == "__main__" else name
        frame = frame.f_back
    return None


class Recording:
    """Records for as long as it is entered. One at a time: it changes what all of the process sees.

    Only what Python reads is seen. What a library reads by itself, as OpenBLAS does, is not.

    Parameters
    ----------
    identity
        Record calls of :data:`IDENTITY` too. Modules may keep the functions that do so.
    """

    def __init__(self, *, identity: bool) -> None:
        #: Modules that read a variable while they were imported, by the variable's name.
        self.reads: dict[str, set[str]] = {}
        #: Modules that a module imported from, by its name.
        self.imports: dict[str, set[str]] = {}
        self._names = IDENTITY if identity else {}
        self._functions: dict[str, Callable[..., Any]] = {}
        self._import = builtins.__import__
        self._environment = type(os.environ)

    def __enter__(self) -> Self:
        """Begin."""
        for environment in (os.environ, os.environb):
            environment.__class__ = _noting(self._environment, self._note_read)
        for mark, names in self._names.items():
            for name in names:
                self._functions[name] = getattr(os, name)
                setattr(os, name, self._noted(mark, self._functions[name]))
        builtins.__import__ = self._noted_import  # type: ignore[assignment]
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _raised: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End."""
        builtins.__import__ = self._import
        for name, function in self._functions.items():
            setattr(os, name, function)
        for environment in (os.environ, os.environb):
            environment.__class__ = self._environment

    def _note_read(self, name: str) -> None:
        module = executing_module(sys._getframe(2))  # noqa: SLF001 - as warnings do
        if module is not None:
            self.reads.setdefault(name, set()).add(module)

    def _noted(self, mark: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            self._note_read(mark)
            return function(*arguments)

        return noted

    def _noted_import(
        self, name: str, namespace: Any = None, inner: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        found = self._import(name, namespace, inner, fromlist, level)
        importer = executing_module(sys._getframe(1))  # noqa: SLF001 - as warnings do
        if importer is not None:
            self.imports.setdefault(importer, set()).update(_imported(found, name, fromlist, level))
        return found


def _noting(environment: type, note: Callable[[str], None]) -> Any:
    class Noting(environment):
        """The environment; who reads it is noted."""

        def __getitem__(self, key: str | bytes) -> Any:
            note(os.fsdecode(key))
            return super().__getitem__(key)

        def __iter__(self) -> Iterator[Any]:
            note(EVERYTHING)
            return iter(super().__iter__())

    return Noting


def _imported(found: Any, name: str, fromlist: Any, level: int) -> Iterator[str]:
    """Yield the names of the modules that an import statement took something from."""
    base = found.__name__ if fromlist or level else name
    yield base
    for part in fromlist or ():
        if f"{base}.{part}" in sys.modules:
            yield f"{base}.{part}"


def kept_apart(roots: set[str], imports: Mapping[str, set[str]], modules: list[str]) -> set[str]:
    """Return those of `modules` that cannot be imported without importing one of `roots`, these among them."""
    apart = set(roots)
    while True:
        more = {
            module
            for module in modules
            if module not in apart
            and (module.rpartition(".")[0] in apart or not apart.isdisjoint(imports.get(module, ())))
        }
        if not more:
            return apart.intersection(modules)
        apart |= more
