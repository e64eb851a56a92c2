"""Parameters in papermill's way: a cell of assignments after the cell tagged `parameters`.

The injected cell is tagged `injected-parameters`; one that an earlier run left behind is replaced. Without a cell
tagged `parameters` it takes the place of the earlier injected cell, or the top. Which languages can be written is in
:mod:`.literals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from ..errors import InvalidField
from .literals import LANGUAGES


def inject(notebook: NotebookNode, parameters: Mapping[str, Any], language: str) -> None:
    """Put a cell that assigns `parameters` into `notebook`, in place. Without parameters nothing is changed.

    Raises
    ------
    InvalidField
        Nobody knows how to write the kernel's `language`, a name is no identifier of it, or a value cannot be written.
    """
    if not parameters:
        return
    cell = new_code_cell(source(parameters, language), metadata={"tags": ["injected-parameters"]})
    earlier = [index for index, other in enumerate(notebook.cells) if "injected-parameters" in _tags(other)]
    kept = [other for other in notebook.cells if "injected-parameters" not in _tags(other)]
    tagged = [index for index, other in enumerate(kept) if "parameters" in _tags(other)]
    place = tagged[0] + 1 if tagged else (earlier[0] if earlier else 0)
    notebook.cells = [*kept[:place], cell, *kept[place:]]


def source(parameters: Mapping[str, Any], language: str = "python") -> str:
    """Return source in `language` that assigns each parameter.

    Raises
    ------
    InvalidField
        As :func:`inject`.
    """
    writer = LANGUAGES.get(language.lower())
    if writer is None:
        known = ", ".join(each.name for each in LANGUAGES.values())
        raise InvalidField("parameters", f"empty: they are written for {known}, and the kernel is {language}", "some")
    return "\n".join(["# Parameters", *(writer.assignment(name, value) for name, value in parameters.items())])


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))
