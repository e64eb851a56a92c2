"""When a kernel may be forked, and the words for why it was not."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What a fork can stand for: ``python OPTIONS -m ipykernel_launcher ARGUMENTS``.
_PROGRAM = "ipykernel_launcher"
#: Variables that count when a process starts and never again: for the dynamic loader, Python, the C library, and the
#: libraries that make their threads when they are loaded.
_AT_START = (
    *("LD_*", "PYTHON*", "MALLOC_*", "GLIBC_*", "LANG", "LANGUAGE", "LC_*"),
    *("*_NUM_THREADS", "OMP_*", "KMP_*", "GOMP_*", "MKL_*", "OPENBLAS_*", "GOTO_*", "BLIS_*"),
)
#: The parts of a launch that a fork understands.
_OPTIONS = {"env", "cwd", "independent", "stdin", "stdout", "stderr", "extra_arguments", "kernel_id"}

#: Every reason for a cold start, so that each can be counted from zero.
REASONS = (
    *("disabled", "program", "interpreter", "options", "environment"),
    *("starting", "ended", "packages", "failed", "unsupported"),
)


class Cold(Exception):
    """A kernel is not forked but started.

    Parameters
    ----------
    reason
        One of :data:`REASONS`.
    detail
        What exactly, for the log.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        assert reason in REASONS
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


@dataclass(frozen=True)
class Program:
    """A kernel's command line, taken apart."""

    #: The interpreter and its options: what a zygote is started with.
    interpreter: tuple[str, ...]
    #: What the kernel's application gets.
    arguments: tuple[str, ...]


def program(command: Sequence[str]) -> Program:
    """Return the parts of a command line that starts ipykernel in the interpreter of this process.

    Raises
    ------
    Cold
        It starts something else.
    """
    words = [os.path.expanduser(word) for word in command]  # noqa: PTH111 - as jupyter_client does, for any word
    if not is_ipykernel(words):
        raise Cold("program", "it is not ipykernel")
    at = words.index("-m")
    if not all(word.startswith("-") for word in words[1:at]):
        raise Cold("program", f"options of Python that have values: {' '.join(words[1:at])}")
    if not _is_ours(words[0]):
        raise Cold("interpreter", words[0])
    return Program(tuple(words[:at]), tuple(words[at + 2 :]))


def is_ipykernel(command: Sequence[str]) -> bool:
    """Return whether a command line starts ipykernel, in whichever Python."""
    words = list(command)
    at = words.index("-m") if "-m" in words else 0
    return at > 0 and words[at + 1 : at + 2] == [_PROGRAM]


def _is_ours(executable: str) -> bool:
    """Return whether this is our interpreter: one of the same folder, since a venv's is a link to another's."""
    theirs, ours = Path(executable), Path(sys.executable)
    return theirs == ours or (theirs.parent == ours.parent and theirs.resolve() == ours.resolve())


def check_options(options: Mapping[str, Any]) -> None:
    """Raise Cold unless a fork can do all that a launch asks for."""
    unknown = sorted(name for name, value in options.items() if name not in _OPTIONS and value is not None)
    if unknown:
        raise Cold("options", ", ".join(unknown))
    if options.get("independent"):
        raise Cold("options", "the kernel is to outlive its server")
    streams = {name: options.get(name) for name in ("stdin", "stdout", "stderr")}
    for name, stream in streams.items():
        if stream is not None and not hasattr(stream, "fileno") and not (isinstance(stream, int) and stream >= 0):
            raise Cold("options", f"{name} is a pipe")


def check_environment(wanted: Mapping[str, str], zygote: Mapping[str, str], read_at_import: Iterable[str]) -> None:
    """Raise Cold unless the variables that a fork cannot give effect to are those of the zygote.

    Parameters
    ----------
    wanted
        The kernel's environment.
    zygote
        The environment that the zygote was started with.
    read_at_import
        The variables that it has read while it imported.
    """
    fixed = set(read_at_import)
    for name in sorted({*wanted, *zygote}):
        counts = name in fixed or any(fnmatch.fnmatchcase(name, pattern) for pattern in _AT_START)
        if counts and wanted.get(name) != zygote.get(name):
            raise Cold("environment", name)
    if any(not entry.startswith("/") for entry in wanted.get("PYTHONPATH", "/").split(os.pathsep)):
        raise Cold("environment", "PYTHONPATH is relative to the kernel's directory")
