"""Notebooks in and out of JSON."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

import nbformat
from nbformat import NotebookNode, ValidationError

from ..errors import ConflictError, InvalidField
from .models import RESULT_MIME

_MALFORMED = (ValidationError, KeyError, TypeError, AttributeError, ValueError)


def parse_notebook(data: object, field: str) -> NotebookNode:
    """Return decoded JSON as a valid notebook of the newest format, without the outputs it came with.

    Parameters
    ----------
    data
        What `json.loads` gave.
    field
        Where `data` comes from, for messages.

    Raises
    ------
    InvalidField
        `data` is not a notebook.
    """
    if not isinstance(data, dict) or not all(isinstance(data.get(key), int) for key in ("nbformat", "nbformat_minor")):
        raise InvalidField(field, "a notebook: a JSON object with nbformat and nbformat_minor", data)
    notebook: NotebookNode
    try:
        notebook = nbformat.versions[data["nbformat"]].to_notebook_json(data, minor=data["nbformat_minor"])
        notebook = nbformat.convert(notebook, 4)
        _give_ids(notebook)
        notebook = nbformat.v4.upgrade(notebook) if notebook.nbformat_minor < 5 else notebook
        nbformat.validate(notebook)
    except _MALFORMED as exc:
        raise InvalidField(field, f"a valid notebook ({_first_line(exc)})", data) from exc
    _clear_outputs(notebook)
    return notebook


def executes(cell: NotebookNode) -> bool:
    """Return whether nbclient gives `cell` to the kernel."""
    tags = cell.metadata.get("tags", [])
    return cell.cell_type == "code" and bool(cell.source.strip()) and "skip-execution" not in tags


def to_bytes(notebook: NotebookNode) -> bytes:
    """Return `notebook` as JSON."""
    # A lone surrogate is a legal output of a cell and cannot be encoded: escape all, as JSON may.
    return json.dumps(notebook, indent=1, ensure_ascii=True).encode("ascii")


def results(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """Return the objects that the cells published as :data:`~.models.RESULT_MIME`, merged in order.

    Raises
    ------
    ConflictError
        A cell published something that is not a JSON object.
    """
    merged: dict[str, Any] = {}
    for index, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            if RESULT_MIME not in output.get("data", {}):
                continue
            value = output["data"][RESULT_MIME]
            if not isinstance(value, dict):
                raise ConflictError(f"Cell {index} published a result that is not a JSON object.")
            merged.update(value)
    return merged


def _give_ids(notebook: NotebookNode) -> None:
    """Give a unique id to every cell that lacks one; the validator would warn, and later refuse."""
    if notebook.nbformat_minor < 5:
        return
    seen: set[str] = set()
    for cell in notebook.cells:
        if not isinstance(cell.get("id"), str) or cell["id"] in seen:
            cell["id"] = secrets.token_hex(4)
        seen.add(cell["id"])


def _clear_outputs(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
