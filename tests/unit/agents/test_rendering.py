"""Notebooks as documents: what is shown, what is left out, and what happens with those that cannot be shown."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

import nbformat
import pytest
import pytest_asyncio
from waiting import eventually

from jupyterhub_agentfarm.agents.pages import notebook_html, rendering
from jupyterhub_agentfarm.agents.pages.rendering import NotRendered, Renderer
from jupyterhub_agentfarm.errors import TooMany

v4 = nbformat.v4

pytestmark = pytest.mark.asyncio(loop_scope="module")


def text_of(*cells: Any) -> str:
    """Return a notebook of these cells."""
    return nbformat.writes(v4.new_notebook(cells=list(cells)))


def with_output(*outputs: Any) -> str:
    """Return a notebook of one cell with these outputs."""
    return text_of(v4.new_code_cell("1", outputs=list(outputs), execution_count=1))


def display(**data: Any) -> Any:
    """Return an output of these representations; `__` in a name stands for the slash, `_` for a hyphen."""
    named = {name.replace("__", "/").replace("_", "-"): value for name, value in data.items()}
    return v4.new_output("display_data", data=named)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def renderer() -> AsyncIterator[Renderer]:
    """A renderer; its child takes a while to start, so it is for all tests."""
    made = Renderer()
    yield made
    await made.aclose()


async def test_a_notebook_becomes_a_document_once(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same content is rendered once; the document has what was written and what was computed."""
    notebook = text_of(
        v4.new_markdown_cell("# Title"),
        v4.new_code_cell(
            "x", outputs=[v4.new_output("stream", name="stdout", text="\x1b[31mprinted")], execution_count=3
        ),
    ).encode()
    name, document = await renderer.document(notebook, "ada")
    text = document.decode()
    for part in (">Title<", 'id="cell-id=1"', '<span class="ansi-red-fg">printed</span>', "[3]"):
        assert part in text
    monkeypatch.setattr(renderer, "_make", None)
    assert await renderer.document(notebook, "ada") == (name, document)


async def test_the_child_has_no_secrets(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that reads notebooks is not given the service's token."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "the-secret")
    await renderer.aclose()
    await renderer.document(text_of(v4.new_markdown_cell("secrets?")).encode(), "ada")
    child = renderer._child
    assert child is not None
    with open(f"/proc/{child.pid}/environ") as environment:  # noqa: ASYNC230, PTH123 - it is memory
        assert "the-secret" not in environment.read()


@pytest.mark.parametrize("content", [b"\xff", b"no json", b"{}", b'{"cells": 3, "nbformat": 4}', b"[]"])
async def test_what_is_no_notebook_is_refused(renderer: Renderer, content: bytes) -> None:
    """Whatever it is, the next notebook is rendered by the same child."""
    with pytest.raises(NotRendered, match="no notebook that can be shown"):
        await renderer.document(content, "ada")
    child = renderer._child
    await renderer.document(text_of(v4.new_markdown_cell(f"after {content!r}")).encode(), "ada")
    assert renderer._child is child


async def test_a_notebook_that_takes_too_long_is_given_up(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is killed at the deadline, and the next notebook gets a new one."""
    await renderer.document(text_of(v4.new_markdown_cell("before")).encode(), "ada")
    child = renderer._child
    monkeypatch.setattr(renderer, "_seconds", 0.5)
    endless = text_of(v4.new_markdown_cell("[" * 200_000)).encode()
    with pytest.raises(NotRendered, match="takes too long"):
        await renderer.document(endless, "ada")
    assert child is not None
    assert child.returncode is not None
    monkeypatch.undo()
    await renderer.document(text_of(v4.new_markdown_cell("next")).encode(), "ada")


async def test_a_notebook_that_needs_too_much_memory_is_given_up(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: a document that does not fit is refused, whether the child survives it or not."""
    many = b'{"cells":[' + b"{}," * 18_000_000 + b'{}],"nbformat":4,"nbformat_minor":5,"metadata":{}}'
    with pytest.raises(NotRendered):
        await renderer.document(many, "ada")
    monkeypatch.setattr(rendering, "MAX_NOTEBOOK_BYTES", 10)
    with pytest.raises(NotRendered, match="too much for a page"):
        await renderer.document(many, "ada")


async def test_the_cache_is_bounded(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document that was not asked for the longest goes first; the newest stays however large it is."""
    monkeypatch.setattr(renderer, "_made", OrderedDict())
    notebooks = [text_of(v4.new_markdown_cell(f"number {number}")).encode() for number in range(3)]
    size = len((await renderer.document(notebooks[0], "ada"))[1])
    monkeypatch.setattr(rendering, "CACHE_BYTES", 2 * size + size // 2)
    names = [(await renderer.document(notebook, "ada"))[0] for notebook in (notebooks[1], notebooks[0], notebooks[2])]
    assert list(renderer._made) == names[1:]
    monkeypatch.setattr(rendering, "CACHE_BYTES", 1)
    assert list(renderer._made) != [(await renderer.document(notebooks[1], "ada"))[0]]
    assert len(renderer._made) == 1


async def test_one_user_holds_nobody_up(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one user one is made and one waits, a third is refused; another's comes next, and what is made is at hand."""
    made, end = list[str](), asyncio.Event()

    async def slow(notebook: bytes) -> bytes:
        made.append(notebook.decode())
        await end.wait()
        return notebook

    there = text_of(v4.new_markdown_cell("there")).encode()
    ready = await renderer.document(there, "ada")
    monkeypatch.setattr(renderer, "_make", slow)
    async with asyncio.TaskGroup() as group:
        for user, name in (("ada", "a1"), ("ada", "a2"), ("bob", "b1")):
            group.create_task(renderer.document(name.encode(), user))
            await eventually(lambda user=user: user in renderer._turns._lines, "it waits for its turn")
        await eventually(lambda: renderer._turns._lines["ada"].length == 2, "both of one user are there")
        with pytest.raises(TooMany, match="2 notebooks are becoming pages for you already"):
            await renderer.document(b"a3", "ada")
        assert await renderer.document(there, "ada") == ready
        end.set()
    assert made == ["a1", "b1", "a2"]


async def test_long_outputs_are_cut_in_the_middle() -> None:
    """The beginning and the end of a long text are shown, and how much is not."""
    shown = notebook_html.body(with_output(v4.new_output("stream", name="stdout", text=f"first{'x' * 900_000}last")))
    assert len(shown) < 300_000
    for part in ("first", "last", "characters are not shown here"):
        assert part in shown


async def test_large_and_scripted_outputs_are_named_instead() -> None:
    """What is too large or needs scripts leaves a note, unless there is another representation of it."""
    large = "x" * 400_000
    shown = notebook_html.body(
        with_output(
            display(text__html=large),
            display(application__javascript="run()"),
            display(text__html=f"<b>{large}</b>", text__plain="in words"),
        )
    )
    assert "too large to be shown" in shown
    assert "needs scripts" in shown
    assert "in words" in shown
    assert "run()" not in shown


async def test_all_outputs_together_are_bounded() -> None:
    """A thousand outputs that are each allowed do not make a document of a thousand times their size."""
    image = "A" * 1_000_000
    shown = notebook_html.body(with_output(*[display(image__png=image) for _ in range(40)]))
    assert len(shown) < 20_000_000
    assert "too large to be shown" in shown
