"""Parameters become Python source that means the same."""

from __future__ import annotations

import json
import keyword
import math
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.runs.literals import Language
from jupyterhub_agentfarm.runs.parameters import inject, source

MAX_DEPTH = Language.max_depth

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()))
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.dictionaries(names, values))
def test_values_round_trip(parameters: dict[str, Any]) -> None:
    """Executing the injected source gives every parameter its value, also as it comes through JSON and UTF-8."""
    parameters = json.loads(json.dumps(parameters))
    text = source(parameters)
    space: dict[str, Any] = {"__builtins__": {"float": float}}
    exec(text.encode(), space)  # noqa: S102 - what a kernel does with it
    assert repr({name: space[name] for name in parameters}) == repr(parameters)


@given(st.text(max_size=12))
def test_a_name_cannot_carry_code(name: str) -> None:
    """Whatever text is given as a name, it is refused or becomes exactly one assignment to it."""
    try:
        text = source({name: 1})
    except InvalidField:
        return
    space: dict[str, Any] = {"__builtins__": {}}
    exec(text, space)  # noqa: S102
    assert {key: value for key, value in space.items() if key != "__builtins__"} == {name: 1}


def test_the_depth_is_limited() -> None:
    """The deepest value that is taken compiles; a deeper one is refused."""
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    compile(source({"x": value}), "cell", "exec")
    with pytest.raises(InvalidField, match=r"parameters\.x must be nested at most"):
        source({"x": [value]})


def test_infinity_and_no_number() -> None:
    """Numbers that Python has no literal for are written as calls."""
    assert source({"a": math.inf, "b": -math.inf, "c": math.nan}).splitlines()[1:] == [
        'a = float("inf")',
        'b = float("-inf")',
        'c = float("nan")',
    ]


def _cell(text: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(text, metadata={"tags": list(tags)})


@pytest.mark.parametrize(
    ("cells", "order"),
    [
        ([_cell("a"), _cell("b")], ["new", "a", "b"]),
        ([_cell("a"), _cell("p", "parameters"), _cell("b")], ["a", "p", "new", "b"]),
        ([_cell("a"), _cell("p", "parameters"), _cell("old", "injected-parameters")], ["a", "p", "new"]),
        ([_cell("a"), _cell("old", "injected-parameters"), _cell("b")], ["a", "new", "b"]),
        ([_cell("old", "injected-parameters"), _cell("a"), _cell("p", "parameters")], ["a", "p", "new"]),
        ([], ["new"]),
    ],
)
def test_where_the_cell_goes(cells: list[nbformat.NotebookNode], order: list[str]) -> None:
    """The cell follows the tagged one, takes the place of an earlier injected one, or is the first."""
    notebook = new_notebook(cells=cells)
    inject(notebook, {"x": 1}, "python")
    assert ["new" if "x = 1" in cell.source else cell.source for cell in notebook.cells] == order
    nbformat.validate(notebook)


def test_without_parameters_nothing_changes() -> None:
    """An empty set of parameters leaves the notebook as it is, in any language."""
    notebook = new_notebook(cells=[_cell("p", "parameters")])
    inject(notebook, {}, "fortran")
    assert [cell.source for cell in notebook.cells] == ["p"]
