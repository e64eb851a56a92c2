"""Parameters in papermill's way: a cell of assignments after the cell tagged `parameters`.

The injected cell is tagged `injected-parameters`; one that an earlier run left behind is replaced. Without a cell
tagged `parameters` it takes the place of the earlier injected cell, or the top. Only Python is written.
"""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from ..errors import InvalidField

#: Python's parser refuses source that nests brackets much deeper than this.
MAX_DEPTH = 64


def inject(notebook: NotebookNode, parameters: Mapping[str, Any], language: str) -> None:
    """Put a cell that assigns `parameters` into `notebook`, in place. Without parameters nothing is changed.

    Raises
    ------
    InvalidField
        The kernel's `language` is not Python, a name is no Python identifier, or a value nests too deeply.
    """
    if not parameters:
        return
    if language.lower() != "python":
        raise InvalidField(
            "parameters", f"empty: they are written for Python only, and the kernel is {language}", "some"
        )
    cell = new_code_cell(source(parameters), metadata={"tags": ["injected-parameters"]})
    earlier = [index for index, other in enumerate(notebook.cells) if "injected-parameters" in _tags(other)]
    kept = [other for other in notebook.cells if "injected-parameters" not in _tags(other)]
    tagged = [index for index, other in enumerate(kept) if "parameters" in _tags(other)]
    place = tagged[0] + 1 if tagged else (earlier[0] if earlier else 0)
    notebook.cells = [*kept[:place], cell, *kept[place:]]


def source(parameters: Mapping[str, Any]) -> str:
    """Return Python source that assigns each parameter."""
    lines = [f"{_name(name)} = {_literal(value, f'parameters.{name}')}" for name, value in parameters.items()]
    return "\n".join(["# Parameters", *lines])


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _name(name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name) or unicodedata.normalize("NFKC", name) != name:
        raise InvalidField("parameters", "an object whose keys are Python identifiers", name)
    return name


def _literal(value: Any, where: str, depth: int = 0) -> str:
    if depth > MAX_DEPTH:
        raise InvalidField(where, f"nested at most {MAX_DEPTH} deep", "a deeper value")
    if isinstance(value, Mapping):
        pairs = (f"{key!r}: {_literal(item, where, depth + 1)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_literal(item, where, depth + 1) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)
