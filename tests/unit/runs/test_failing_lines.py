"""The line of a cell that failed, in kernels of other languages than Python."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import start_new_async_kernel
from nbformat.v4 import new_code_cell

from jupyterhub_agentfarm.runs.failing_line import failing_line
from jupyterhub_agentfarm.runs.failure import cell_error
from jupyterhub_agentfarm.runs.models import CellError

JULIA = "boom\n\nStacktrace:\n [1] error(s::String)\n   @ Base ./error.jl:35\n [2] f()\n   @ Main ./In[3]:2\n"
JULIA_TOP = JULIA + " [3] top-level scope\n   @ In[4]:3"
no_r = pytest.mark.skipif("ir" not in KernelSpecManager().find_kernel_specs(), reason="R's IRkernel is not installed")


R_CELLS = {
    "x <- 1\n\nf <- function(n) stop('boom')\nf(3)\n": 4,
    "x <- 1\ny <- undefined_thing + 1\n": 2,
    "x <- 1\ny <- (2 +\n\nz 3\n": 4,
    "f <- function() {\n  stop('deep')\n}\nfor (i in 1:2)\n  f()\n": 5,
    "1\nlog(-1, base='a')": 2,
    "\n# load\nlibrary(nosuch)": 3,
    "x <- 1\nlapply(1:2, function(i) {\n if (i == 2) stop('in lambda')\n i})": 2,
    "x <- 1\nif (x > 0) {\n  stop('here')\n}": 3,
}


@no_r
async def test_the_line_that_failed_in_r() -> None:
    """What R tells of a failure leads to the line of the cell that it is about, as IPython's traceback does."""
    errors = [error async for error in _r_errors(R_CELLS)]
    assert [error.line for error in errors] == list(R_CELLS.values()), errors
    assert [error.source_line for error in errors] == [
        source.splitlines()[line - 1] for source, line in R_CELLS.items()
    ]
    assert all(error.evalue.startswith("Error in ") for error in errors)


async def _r_errors(sources: Iterable[str]) -> AsyncIterator[CellError]:
    """Give the errors that cells end with in a kernel of R's."""
    kernel, client = await start_new_async_kernel(kernel_name="ir")
    try:
        for index, source in enumerate(sources):
            reply = {"status": "aborted"}
            while reply["status"] == "aborted":  # for a while after an error it takes nothing
                reply = (await client.execute_interactive(source, output_hook=lambda _: None, timeout=60))["content"]
            yield cell_error(index, new_code_cell(source, execution_count=reply["execution_count"]), reply)
    finally:
        client.stop_channels()
        await kernel.shutdown_kernel(now=True)


@pytest.mark.parametrize(("count", "line"), [(4, 3), (3, None)])
def test_the_line_that_failed_in_julia(count: int, line: int | None) -> None:
    """Julia names the cell's own line last; what it tells of another cell is none of this one's."""
    assert failing_line(["f()", "", "f()"], count, "boom", JULIA_TOP) == line


@pytest.mark.parametrize(
    ("source", "reply", "begins"),
    [
        ("\n  echo a\nfalse", {"ename": "", "evalue": "1", "traceback": []}, "  echo a"),
        ("f()\nf()", {"ename": "ERROR", "evalue": "Error in f(): x", "traceback": ["1. f()"]}, "f()"),
        ("g()", {"ename": "ERROR", "evalue": "Error", "traceback": ["1. f()   # at line 99 of file <text>"]}, "g()"),
        ("", {"ename": "E", "evalue": "", "traceback": ["Cell In[7], line 9"]}, None),
    ],
)
def test_a_line_that_is_not_told_is_not_guessed(source: str, reply: dict[str, object], begins: str | None) -> None:
    """Then the error has no line, and shows how the cell begins."""
    error = cell_error(2, new_code_cell(source, execution_count=7), reply)
    assert (error.cell, error.line, error.source_line) == (2, None, begins)


@given(st.lists(st.text()), st.one_of(st.none(), st.integers()), st.text(), st.text())
def test_whatever_is_told_the_line_is_one_of_the_cell(lines: list[str], count: int | None, value: str, tb: str) -> None:
    """A kernel is a program of somebody's, and may tell anything."""
    line = failing_line(lines, count, value, tb)
    assert line is None or 1 <= line <= len(lines)
