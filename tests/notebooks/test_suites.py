"""The shipped suites and the notebooks fit together."""

from __future__ import annotations

import ast
from itertools import takewhile
from pathlib import Path

import nbformat
import pytest

from jupyterhub_agentfarm.benchmark.suites import Suite, read_suite

from .conftest import NOTEBOOKS, REPOSITORY, RESULT_TYPE, parameters_of

FILES = sorted((REPOSITORY / "benchmark" / "suites").glob("*.toml"))
SUITES = [read_suite(path) for path in FILES]
NO_BENCHMARKS = {"first_server.ipynb", "reference_agent.ipynb"}


def names_used(name: str) -> set[str]:
    """Return the names that a notebook's cells read, other than the tagged one."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code" and "parameters" not in c.metadata.get("tags", [])]
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def test_all_the_shipped_suites_are_there() -> None:
    """Each is in a file of its name."""
    wanted = {"contention", "io", "ml", "scaling", "scaling-strong", "smoke", "soak"}
    assert {suite.name for suite in SUITES} == wanted == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_operator_can_read_it(path: Path) -> None:
    """Its head says what it is for, how long it takes and how it is started."""
    head = "\n".join(takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    assert f"agentfarm benchmark run {path.stem}" in head
    assert any(word in head for word in ("minute", "hours"))


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_every_parameter_is_in_its_notebook(suite: Suite) -> None:
    """A case gives only parameters that its notebook's tagged cell has, with values of the same kind."""
    for case in suite.cases:
        assert suite.notebook_path(case) == NOTEBOOKS / case.notebook
        defaults = parameters_of(case.notebook)
        assert set(case.parameters) <= set(defaults), case.name
        assert {type(defaults[key]) for key in case.parameters} >= {type(value) for value in case.parameters.values()}


@pytest.mark.parametrize("name", sorted({case.notebook for suite in SUITES for case in suite.cases}))
def test_every_parameter_matters(name: str) -> None:
    """What a notebook's tagged cell names is read by a later cell."""
    assert not set(parameters_of(name)) - names_used(name)


def test_every_benchmark_notebook_is_in_a_suite() -> None:
    """A notebook that displays a result record is a case of `ml` or of `io`; the tour and the agent are not."""
    with_result = {path.name for path in NOTEBOOKS.glob("*.ipynb") if RESULT_TYPE in path.read_text()}
    assert with_result == {case.notebook for suite in SUITES if suite.name in {"ml", "io"} for case in suite.cases}
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} - with_result == NO_BENCHMARKS
