"""What the recorder keeps of a cell's output."""

from __future__ import annotations

import time
from typing import Any

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from jupyterhub_agentfarm.runs.recorder import Recorder


class Cell:
    """A cell that gets messages as from a kernel."""

    def __init__(self, max_output_bytes: int = 10**9) -> None:
        self.cell = new_code_cell("code", metadata={"execution": {}})
        self.recorder = Recorder(new_notebook(cells=[self.cell]), max_output_bytes=max_output_bytes)
        self.recorder.begin_cell()

    def send(self, kind: str, **content: Any) -> None:
        """Give the recorder a message."""
        header = {"msg_type": kind}
        message = {"msg_type": kind, "header": header, "parent_header": {"msg_id": "1"}, "content": content}
        self.recorder.process_message(message, self.cell, 0)

    def texts(self) -> list[tuple[str, str]]:
        """Return the streams kept."""
        self.recorder.settle()
        return [(output["name"], output["text"]) for output in self.cell.outputs if output["output_type"] == "stream"]


def test_a_hundred_thousand_pieces_become_one_output_in_linear_time() -> None:
    """100,000 messages of one stream are one output, and 8 times as many take about 8 times the computing time."""

    def seconds(count: int) -> float:
        cell = Cell()
        began = time.process_time()
        for number in range(count):
            cell.send("stream", name="stdout", text=f"line {number:>90}\n")
        assert cell.texts() == [("stdout", "".join(f"line {number:>90}\n" for number in range(count)))]
        return time.process_time() - began

    few, many = (min(seconds(count) for _ in range(3)) for count in (12_500, 100_000))
    assert many < 25 * few


def test_streams_keep_their_order() -> None:
    """Pieces are joined only while nothing of another kind comes between."""
    cell = Cell()
    for name, text in [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]:
        cell.send("stream", name=name, text=text)
    cell.send("display_data", data={"text/plain": "e"}, metadata={})
    cell.send("stream", name="stdout", text="f")
    assert cell.texts() == [("stdout", "ab"), ("stderr", "c"), ("stdout", "d"), ("stdout", "f")]


@pytest.mark.parametrize("wait", [True, False])
def test_cleared_output_is_gone_and_makes_room(wait: bool) -> None:
    """Output that the notebook clears does not count: a progress display may go on for ever."""
    cell = Cell(max_output_bytes=10)
    for number in range(50):
        cell.send("stream", name="stdout", text=f"{number:>8}")
        cell.send("clear_output", wait=wait)
    cell.send("stream", name="stdout", text="end")
    assert cell.texts() == [("stdout", "end")]
    assert cell.recorder.cut_sentences(0) == ()


def test_a_character_is_not_cut_in_two() -> None:
    """A stream is cut between characters, and the bytes that are missing are counted."""
    cell = Cell(max_output_bytes=4)
    cell.send("stream", name="stdout", text="ä€ab")
    cell.send("stream", name="stderr", text="more")
    assert cell.texts()[0] == ("stdout", "ä")
    assert [sentence.split(" were")[0] for sentence in cell.recorder.cut_sentences(0)] == [
        "Cell 0: 3 bytes of stdout",
        "Cell 0: 4 bytes of stderr",
    ]


def test_a_display_is_kept_or_cut_whole_and_an_error_always_kept() -> None:
    """A display that does not fit is left out, a smaller one still fits, and the error is kept."""
    cell = Cell(max_output_bytes=100)
    cell.send("display_data", data={"text/plain": "x" * 101}, metadata={})
    cell.send("display_data", data={"application/json": {"a": 1}}, metadata={})
    cell.send("error", ename="E", evalue="v", traceback=["t" * 1000])
    assert [output["output_type"] for output in cell.cell.outputs] == ["display_data", "error"]
    assert "101 bytes of displayed data were cut" in cell.recorder.cut_sentences(0)[0]


def test_a_display_can_be_updated() -> None:
    """An update changes the display it names, also when stream pieces were joined before it."""
    cell = Cell()
    cell.send("stream", name="stdout", text="a")
    cell.send("stream", name="stdout", text="b")
    for kind, text in [("display_data", "old"), ("update_display_data", "new")]:
        cell.send(kind, data={"text/plain": text}, metadata={}, transient={"display_id": "d"})
    assert [output.get("data", {}).get("text/plain") for output in cell.cell.outputs] == [None, "new"]
