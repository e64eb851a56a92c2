"""nbclient, taught to keep much output cheaply and to say what it did not keep."""

from __future__ import annotations

import json
from typing import Any

from nbclient import NotebookClient
from nbformat import NotebookNode, ValidationError
from nbformat.v4 import new_output
from traitlets import Integer


class Recorder(NotebookClient):
    """Executes cells and collects their output, at most `max_output_bytes` of it over all cells.

    Pieces of one stream that follow each other are collected in a list and joined once: stock nbclient makes an
    output of each and validates it, and joining them pairwise is quadratic.
    """

    max_output_bytes = Integer(0, help="Output kept over all cells, in bytes.")

    def __init__(self, notebook: NotebookNode, **options: Any) -> None:
        super().__init__(notebook, **options)
        #: The reply of the cell that failed last.
        self.failure: dict[str, Any] = {}
        self.clear_before_next_output = False
        self.on_cell_error = self._remember
        self._kept_before = 0
        self._kept = 0
        self._dropped: dict[str, int] = {}
        self._stream: NotebookNode | None = None
        self._pieces: list[str] = []

    def begin_cell(self) -> None:
        """Count for a new cell."""
        self._kept_before += self._kept
        self._kept = 0
        self._dropped = {}

    def settle(self) -> None:
        """Join the pieces of the stream that is being collected."""
        if self._stream is not None:
            self._stream["text"] = "".join(self._pieces)
        self._stream, self._pieces = None, []

    def cut_sentences(self, index: int) -> tuple[str, ...]:
        """Return what was not kept of cell `index`, which is the one that executed last."""
        limit = f"the {self.max_output_bytes} bytes that a run may keep"
        return tuple(
            f"Cell {index}: {size} bytes of {what} were cut, because they exceed {limit}."
            if what != "malformed output"
            else f"Cell {index}: {size} bytes of {what} were dropped, because a notebook cannot hold them."
            for what, size in self._dropped.items()
        )

    async def execute_recorded(self, cell: NotebookNode, cell_index: int) -> None:
        """Execute a cell; whatever happens, its output so far is in the notebook afterwards."""
        try:
            await self.async_execute_cell(cell, cell_index)
        finally:
            self.settle()

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """Keep the output that a message carries, as far as there is room."""
        if self.output_hook_stack.get(msg["parent_header"].get("msg_id")):
            return super().output(outs, msg, display_id, cell_index)
        if self.clear_before_next_output:
            self.clear_before_next_output = False
            self._clear(outs, cell_index)
        if msg["msg_type"] == "stream":
            return self._keep_stream(outs, msg["content"]["name"], msg["content"]["text"])
        self.settle()
        size = _size(msg["content"])
        # The error that ends a run is always kept.
        if msg["msg_type"] != "error" and size > self._room():
            self._drop("displayed data", size)
            return None
        return self._keep(outs, msg, display_id, cell_index)

    def clear_output(self, outs: list[NotebookNode], msg: dict[str, Any], cell_index: int) -> None:
        """Forget a cell's output, now or before the next."""
        self.settle()
        if self.output_hook_stack.get(msg["parent_header"].get("msg_id")) or msg["content"].get("wait"):
            super().clear_output(outs, msg, cell_index)
        else:
            self._clear(outs, cell_index)

    def _clear(self, outs: list[NotebookNode], cell_index: int) -> None:
        self.settle()
        outs[:] = []
        self._kept = 0
        self.clear_display_id_mapping(cell_index)

    def _keep(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        size = _size(msg["content"])
        try:
            kept = super().output(outs, msg, display_id, cell_index)
        except ValidationError:
            self._drop("malformed output", size)
            return None
        self._kept += size
        return kept

    def _keep_stream(self, outs: list[NotebookNode], name: str, text: str) -> NotebookNode | None:
        if self._stream is None or self._stream["name"] != name:
            self.settle()
            if outs and outs[-1]["output_type"] == "stream" and outs[-1]["name"] == name:
                self._stream, self._pieces = outs[-1], [outs[-1]["text"]]
        encoded = text.encode("utf-8", "surrogatepass")
        room = self._room()
        if len(encoded) > room:
            self._drop(name, len(encoded) - room)
            text = encoded[:room].decode("utf-8", "ignore")
        if text and self._stream is None:
            self._stream = new_output("stream", name=name, text="")
            outs.append(self._stream)
        if text:
            self._pieces.append(text)
            self._kept += min(len(encoded), room)
        return self._stream

    def _room(self) -> int:
        return max(0, self.max_output_bytes - self._kept_before - self._kept)

    def _drop(self, what: str, size: int) -> None:
        self._dropped[what] = self._dropped.get(what, 0) + size

    def _remember(self, execute_reply: dict[str, Any], **_: Any) -> None:
        self.failure = execute_reply["content"]


def _size(content: dict[str, Any]) -> int:
    """Return about how many bytes an output takes in the notebook."""
    data = content.get("data", {}) or {"": content.get("traceback", "")}
    return sum(len(value) if isinstance(value, str) else len(json.dumps(value)) for value in data.values())
