"""From a request to what is executed: every check that can be made before a kernel starts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbformat import NotebookNode

from ..errors import InvalidField
from .models import RunRequest
from .notebooks import parse_notebook
from .parameters import inject

_MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class Plan:
    """How a notebook is executed."""

    kernel_name: str
    working_directory: Path
    environment: Mapping[str, str]
    timeout_seconds: float | None
    cell_timeout_seconds: float | None
    output_path: Path | None


@dataclass(frozen=True)
class Site:
    """What the server says about itself."""

    root: Path
    kernel_specs: KernelSpecManager
    default_kernel_name: str


def prepare(request: RunRequest, site: Site) -> tuple[Plan, NotebookNode]:
    """Return the plan for `request` and its notebook, parameters injected. Reads files; not for an event loop.

    Raises
    ------
    InvalidField
        The request cannot be carried out; the field says why.
    """
    _check(request)
    notebook, folder = _notebook(request, site.root)
    kernel_name = request.kernel_name or _named_kernel(notebook) or site.default_kernel_name
    if request.parameters:
        inject(notebook, request.parameters, _language(site.kernel_specs, kernel_name))
    plan = Plan(
        kernel_name=kernel_name,
        working_directory=folder,
        environment=dict(request.environment),
        timeout_seconds=request.timeout_seconds,
        cell_timeout_seconds=request.cell_timeout_seconds,
        output_path=None if request.output_path is None else _output_path(site.root, request.output_path),
    )
    return plan, notebook


def contained(root: Path, relative: str, field: str) -> Path:
    """Return `relative` below `root`, symbolic links resolved.

    Raises
    ------
    InvalidField
        The path is absolute or leads out of `root`.
    """
    wanted = "a path relative to the server's root directory, and inside it"
    if not relative or "\0" in relative or Path(relative).is_absolute():
        raise InvalidField(field, wanted, relative)
    root = root.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root) or path == root:
        raise InvalidField(field, wanted, relative)
    return path


def _check(request: RunRequest) -> None:
    if (request.notebook is None) == (request.path is None):
        given = "none" if request.path is None else "both"
        raise InvalidField("notebook", "given when path is not, and absent when path is given", given)
    for field in ("timeout_seconds", "cell_timeout_seconds"):
        seconds = getattr(request, field)
        if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
            raise InvalidField(field, "a positive number of seconds", seconds)
    for field in ("name", "idempotency_key"):
        if len(getattr(request, field) or "") > _MAX_NAME_CHARACTERS:
            raise InvalidField(field, f"at most {_MAX_NAME_CHARACTERS} characters", getattr(request, field))
    for name, value in request.environment.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidField("environment", "an object whose keys are names of variables", name)
        if "\0" in value:
            raise InvalidField(f"environment.{name}", "text without a null character", "one that has it")


def _notebook(request: RunRequest, root: Path) -> tuple[NotebookNode, Path]:
    if request.path is None:
        return parse_notebook(request.notebook, "notebook"), root
    path = contained(root, request.path, "path")
    if not path.is_file():
        raise InvalidField("path", "an existing notebook", request.path)
    try:
        data: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise InvalidField("path", "a readable file of JSON", request.path) from exc
    return parse_notebook(data, "path"), path.parent


def _output_path(root: Path, relative: str) -> Path:
    path = contained(root, relative, "output_path")
    if path.suffix != ".ipynb" or path.is_dir() or not path.parent.is_dir():
        raise InvalidField("output_path", "a name that ends in .ipynb, in an existing folder", relative)
    return path


def _named_kernel(notebook: NotebookNode) -> str | None:
    name = notebook.metadata.get("kernelspec", {}).get("name")
    return name if isinstance(name, str) else None


def _language(specs: KernelSpecManager, kernel_name: str) -> str:
    try:
        return str(specs.get_kernel_spec(kernel_name).language)
    except NoSuchKernel:
        return "python"  # the run itself fails with kernel_not_found, which says more
