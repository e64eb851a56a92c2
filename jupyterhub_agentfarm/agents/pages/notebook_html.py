"""A notebook as an HTML document, made in a process of its own.

A notebook comes from an agent: it is nothing to trust. Markdown and highlighting can keep a processor busy for ever,
and hold Python's lock while they do; so this runs as a child without the service's secrets, with bounded memory, and is
killed when it takes too long. :mod:`.rendering` is its parent. Towards each other they write a length (8 bytes, network
order) and as many bytes; the child's answer begins with one more byte, `DOCUMENT` or `REFUSAL`.

Nothing of a notebook is taken out of the document: it is shown under a policy in which no script runs and nothing is
loaded. What is left out is what is too large to be looked at, and what needs scripts.
"""

from __future__ import annotations

import html
import resource
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

DOCUMENT, REFUSAL = b"\x00", b"\x01"
LENGTH = struct.Struct("!Q")

#: The most text, and the largest image, of one output; and the most of all outputs together.
TEXT_BYTES = 300_000
IMAGE_BYTES = 5 * 2**20
ALL_BYTES = 16 * 2**20
#: Address space of the child.
MEMORY_BYTES = 2**30

_NEEDS_SCRIPTS = ("application/javascript", "application/vnd.jupyter.widget-view+json")


class _Allowance:
    """What outputs may still take."""

    def __init__(self) -> None:
        self._left = ALL_BYTES

    def take(self, size: int, most: int) -> bool:
        """Whether `size` bytes may be shown; they are then used up."""
        allowed = size <= most and size <= self._left
        if allowed:
            self._left -= size
        return allowed


def _cut(text: str, allowance: _Allowance) -> str:
    if allowance.take(len(text), TEXT_BYTES):
        return text
    shown = TEXT_BYTES // 3 if allowance.take(2 * TEXT_BYTES // 3, TEXT_BYTES) else 0
    note = f"\n… {len(text) - 2 * shown:,} characters are not shown here; they are in the notebook …\n"
    return text[:shown] + note + (text[-shown:] if shown else "")


def _note(text: str) -> dict[str, Any]:
    return {"text/html": f'<p class="left-out">{html.escape(text)}</p>'}


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str) else len(str(value))


def _shorten_data(data: dict[str, Any], allowance: _Allowance) -> dict[str, Any]:
    """Return a bundle of representations without those that are too large."""
    kept = {}
    for kind, value in data.items():
        if kind in _NEEDS_SCRIPTS:
            continue
        if kind == "text/plain":
            kept[kind] = _cut(str(value), allowance) if len(data) == 1 else str(value)[:TEXT_BYTES]
        elif allowance.take(_size(value), IMAGE_BYTES if kind.startswith("image/") else TEXT_BYTES):
            kept[kind] = value
    if kept:
        return kept
    scripts = any(kind in _NEEDS_SCRIPTS for kind in data)
    return _note(
        "An output that needs scripts is not shown here: open the notebook in JupyterLab."
        if scripts
        else "An output is too large to be shown here; it is in the notebook."
    )


def _shorten(output: Any, allowance: _Allowance) -> None:
    if output.output_type == "stream":
        output.text = _cut(output.text, allowance)
    elif output.output_type == "error":
        output.traceback = [_cut(line, allowance) for line in output.traceback[:200]]
    else:
        output.data = _shorten_data(output.data, allowance)


def _prepare(notebook: Any) -> None:
    """Number the cells, so that the page can point at them, and shorten what is too large."""
    allowance = _Allowance()
    for index, cell in enumerate(notebook.cells):
        cell.id = str(index)
        cell.source = _cut(cell.source, allowance)
        cell.attachments = {}
        for output in cell.get("outputs", ()):
            _shorten(output, allowance)


def body(text: str) -> str:
    """Return the notebook `text` as the inside of a document's body.

    Raises
    ------
    Exception
        Whatever nbformat and nbconvert raise for what is no notebook.
    """
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.reads(text, as_version=4)
    _prepare(notebook)
    exporter = HTMLExporter(template_name="basic")
    made, _ = exporter.from_notebook_node(notebook)
    return str(made)


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the next piece, or None at the end."""
    head = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    while (piece := read_frame(stream)) is not None:
        yield piece


def main() -> None:
    """Answer every notebook that arrives at stdin, until it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing else may get between the answers
    for piece in _pieces(sys.stdin.buffer):
        try:
            kind, made = DOCUMENT, body(piece.decode()).encode()
        except Exception as exc:  # noqa: BLE001 - a notebook can be wrong in every way, and the next one may be good
            kind, made = REFUSAL, f"{type(exc).__name__}: {exc}"[:1000].encode(errors="replace")
        answers.write(LENGTH.pack(len(made) + 1) + kind + made)
        answers.flush()


if __name__ == "__main__":
    main()
