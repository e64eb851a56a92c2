"""What a task's server tells, taken for what it is: words of a user's server, which can say anything.

What is used of an answer is checked against a record here, once, and every text is cut to what is kept; the rest of an
answer is never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from ...errors import InvalidField
from ...records import from_json
from ...runs.client import FINAL_STATES
from ...runs.models import RunArtifact, State
from ..models import TaskError
from ..tasks.texts import plain

T = TypeVar("T")

_RUN_ID = re.compile("[0-9a-f]{16}")
_MOST_CELLS = 1_000_000
_NAME_CHARACTERS, _VALUE_CHARACTERS, _LINE_CHARACTERS = 200, 4000, 1000
_TRACEBACK_LINES, _TRACEBACK_CHARACTERS = 500, 64_000
_MOST_SENTENCES, _SENTENCE_CHARACTERS = 100, 1000
_MOST_ARTIFACTS = 10_000


@dataclass(frozen=True)
class ToldRun:
    """What of a run matters to its task."""

    id: str
    state: State
    cells_done: int
    cells_total: int
    kernel_name: str = ""
    current_cell: int | None = None
    reason: str | None = None
    detail: str | None = None
    error: TaskError | None = None
    cut: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether it is in a state that it does not leave."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class ToldArtifacts:
    """What a run left, and sentences about what is left out."""

    artifacts: tuple[RunArtifact, ...] = ()
    refused: tuple[str, ...] = ()


def told_run(answer: Mapping[str, Any]) -> ToldRun:
    """Return the run that a server tells of.

    Raises
    ------
    InvalidField
        It is none.
    """
    known = _known(ToldRun, answer)
    if isinstance(known.get("error"), Mapping):
        known["error"] = _known(TaskError, known["error"])
    run = from_json(ToldRun, known, "run")
    if not _RUN_ID.fullmatch(run.id):
        raise InvalidField("run.id", "16 hexadecimal digits", run.id)
    for name in ("cells_done", "cells_total", "current_cell"):
        _check_number(f"run.{name}", getattr(run, name))
    return replace(
        run,
        kernel_name=plain(run.kernel_name, _NAME_CHARACTERS),
        detail=None if run.detail is None else plain(run.detail, _VALUE_CHARACTERS),
        error=None if run.error is None else _error(run.error),
        cut=_sentences(run.cut),
    )


def told_artifacts(answer: Mapping[str, Any]) -> ToldArtifacts:
    """Return what a server tells that a run left.

    Raises
    ------
    InvalidField
        It tells something else.
    """
    told = from_json(ToldArtifacts, _known(ToldArtifacts, answer), "artifacts")
    if len(told.artifacts) > _MOST_ARTIFACTS:
        raise InvalidField("artifacts", f"at most {_MOST_ARTIFACTS} files", len(told.artifacts))
    return replace(told, refused=_sentences(told.refused))


def _known(record: type, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that an answer has; servers of other versions tell more, or less."""
    return {field.name: answer[field.name] for field in fields(record) if field.name in answer}


def _check_number(where: str, number: int | None) -> None:
    if number is not None and not 0 <= number <= _MOST_CELLS:
        raise InvalidField(where, f"a whole number from 0 to {_MOST_CELLS}", number)


def _sentences(told: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(plain(each, _SENTENCE_CHARACTERS) for each in told[:_MOST_SENTENCES])


def _error(error: TaskError) -> TaskError:
    """Return an error with all its texts cut; of a traceback the end is kept."""
    _check_number("run.error.cell", error.cell)
    _check_number("run.error.line", error.line)
    kept: list[str] = []
    left = _TRACEBACK_CHARACTERS
    for line in reversed(error.traceback[-_TRACEBACK_LINES:]):
        left -= min(len(line), _LINE_CHARACTERS)
        if left < 0:
            break
        kept.append(plain(line, _LINE_CHARACTERS))
    return replace(
        error,
        ename=plain(error.ename, _NAME_CHARACTERS),
        evalue=plain(error.evalue, _VALUE_CHARACTERS),
        source_line=None if error.source_line is None else plain(error.source_line, _LINE_CHARACTERS),
        traceback=tuple(reversed(kept)),
    )
