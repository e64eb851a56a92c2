"""Parameters become source of R and Julia that means the same."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.runs.parameters import inject, source

HARD = 'a"b\\c$(1)`d`\t\né\U0001f600 %s'
VALUES = {"n": 3, "x": 2.5, "big": 2**53, "yes": True, "no": False, "none": None, "s": HARD, "l": [1, [2, "b"], {}]}
languages = pytest.mark.parametrize("language", ["R", "julia"])


def test_r() -> None:
    """Every kind of value has its form in R, and strings are ASCII."""
    parameters = VALUES | {"d": {"a b": 1, "c": [None]}, "i": math.inf, "m": -math.inf, "nan": math.nan}
    assert source(parameters, "R").splitlines() == [
        "# Parameters",
        "n = 3",
        "x = 2.5",
        "big = 9007199254740992",
        "yes = TRUE",
        "no = FALSE",
        "none = NULL",
        r's = "a\"b\\c$(1)`d`\u0009\u000a\u00e9\U0001f600 %s"',
        'l = list(1, list(2, "b"), list())',
        'd = list("a b" = 1, "c" = list(NULL))',
        "i = Inf",
        "m = -Inf",
        "nan = NaN",
    ]


def test_julia() -> None:
    """Every kind of value has its form in Julia, and nothing in a string is interpolated."""
    parameters = VALUES | {"d": {"a b": 1, "c": [None]}, "i": math.inf, "m": -math.inf, "nan": math.nan, "e": 1e300}
    assert source(parameters, "julia").splitlines() == [
        "# Parameters",
        "n = 3",
        "x = 2.5",
        "big = 9007199254740992",
        "yes = true",
        "no = false",
        "none = nothing",
        r's = "a\"b\\c\$(1)`d`\u0009\u000a\u00e9\U0001f600 %s"',
        'l = [1, [2, "b"], Dict()]',
        'd = Dict("a b" => 1, "c" => [nothing])',
        "i = Inf",
        "m = -Inf",
        "nan = NaN",
        "e = 1e+300",
    ]


@pytest.mark.parametrize(
    ("language", "name"),
    [
        *(("R", name) for name in ("", "1a", "a b", "_a", ".1", "if", "...", "a;b", "TRUE", "NA_real_", "a\n", "é")),
        *(("julia", name) for name in ("", "1a", "a b", "end", "a.b", "_", "__", "a;b", "a\n", "é")),
        ("Python", "a-b"),
    ],
)
def test_a_name_cannot_carry_code(language: str, name: str) -> None:
    """What is no plain identifier of the language is refused, with the language's name."""
    with pytest.raises(InvalidField, match=f"(?i){language} identifiers"):
        source({name: 1}, language)


@pytest.mark.parametrize(
    ("language", "value"),
    [("R", "a\0b"), ("R", "\ud800"), ("R", 2**53 + 1), ("R", {"": 1}), ("julia", "\udfff")],
)
def test_what_a_language_cannot_hold_is_refused(language: str, value: Any) -> None:
    """A value that would arrive as another one is refused by name."""
    with pytest.raises(InvalidField, match="parameters"):
        source({"x": value}, language)


@languages
def test_deep_values_are_refused(language: str) -> None:
    """The parser's own limit is never met."""
    value: Any = 1
    for _ in range(100):
        value = [value]
    with pytest.raises(InvalidField, match=r"parameters\.x must be nested at most"):
        source({"x": value}, language)


@languages
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_strings_stay_strings(language: str, text: str) -> None:
    """Whatever a text holds, its literal is one line of ASCII between quotes, with no bare quote or dollar inside."""
    literal = source({"x": text}, language).split("\n", 1)[1].removeprefix("x = ")
    assert literal.isascii()
    assert literal.isprintable()
    assert json.loads(literal.replace("\\$", "$").replace("\\U", "\\\\U")) is not None
    inner = literal[1:-1].replace("\\\\", "")
    assert '"' not in inner.replace('\\"', "")
    assert language != "julia" or "$" not in inner.replace("\\$", "")


def test_another_language_is_refused() -> None:
    """For a kernel whose language nobody knows how to write, the refusal names those that are written."""
    notebook = new_notebook(cells=[new_code_cell("p")])
    with pytest.raises(InvalidField, match="Python, R, Julia, and the kernel is fortran"):
        inject(notebook, {"x": 1}, "fortran")
    inject(notebook, {"x": 1}, "R")
    assert notebook.cells[0].source == "# Parameters\nx = 1"


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
nested = st.recursive(numbers | texts | st.booleans(), lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="Rscript is not installed")
@settings(max_examples=8, deadline=None)
@given(st.lists(nested, min_size=1, max_size=8))
def test_r_reads_what_was_written(values: list[Any]) -> None:
    """R itself parses the source and has numbers that are equal, texts that are the same characters, and lists."""
    text = source({"x": values}, "R")
    checks = "\n".join(_r_check(value, f"x[[{index}]]") for index, value in enumerate(values, 1))
    ran = subprocess.run(["Rscript", "-"], input=f"{text}\n{checks}\n", capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{text}\n{checks}\n{ran.stderr}"


def _r_check(value: Any, place: str) -> str:
    if isinstance(value, list):
        inner = [_r_check(item, f"{place}[[{index}]]") for index, item in enumerate(value, 1)]
        return "\n".join([f"stopifnot(is.list({place}), length({place}) == {len(value)})", *inner])
    if isinstance(value, str):
        codes = ", ".join(str(ord(character)) for character in value)
        return f"stopifnot(identical(as.numeric(utf8ToInt({place})), as.numeric(c({codes}))))"
    if isinstance(value, bool):
        return f"stopifnot(identical({place}, {str(value).upper()}))"
    return f"stopifnot({place} == {value!r})"
