"""What code shows, kept within bounds, and what its kernel says, in every order."""

from __future__ import annotations

from typing import Any

import pytest

from jupyterhub_agentfarm.agents.jupyter import outputs as module
from jupyterhub_agentfarm.agents.jupyter.execution import Execution
from jupyterhub_agentfarm.agents.jupyter.kernel_messages import KernelMessage, decode, encode_request
from jupyterhub_agentfarm.agents.jupyter.outputs import BoundedText, Outputs, folded


def shown(outputs: Outputs, text: str) -> None:
    """Have code print something."""
    outputs.add("stream", {"name": "stdout", "text": text})


def image(data: str, display: str = "") -> dict[str, Any]:
    """Return what a plot shows."""
    return {"data": {"image/png": data, "text/plain": "<Figure>"}, "transient": {"display_id": display}}


@pytest.mark.parametrize("pieces", [["x" * 30], ["x"] * 30, ["x" * 7, "", "x" * 23]])
def test_bounded_text_keeps_both_ends(pieces: list[str]) -> None:
    """However it comes, beginning and end are kept, and the rest is counted."""
    text = BoundedText(10)
    for piece in pieces:
        text.add(piece)
    assert (text.left_out, str(text)) == (20, "xxxxx\n[... 20 characters left out ...]\nxxxxx")


def test_text_within_bounds_is_whole() -> None:
    """Nothing is marked where nothing is missing."""
    text = BoundedText(10)
    text.add("12345")
    text.add("67890")
    assert str(text) == "1234567890"


def test_a_line_that_is_written_anew_shows_its_newest_state() -> None:
    """Progress bars are one line, as in a terminal, and colours are gone."""
    assert folded("10%\r50%\r100%\ndone\r\n") == "100%\ndone\n"
    assert folded("\x1b[31mred\x1b[0m \x1b]0;title\x07text") == "red text"


def test_images_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are too many or too large are left out, with a line that says what to do."""
    monkeypatch.setattr(module, "MAX_IMAGES", 2)
    outputs = Outputs(1000)
    for _ in range(3):
        outputs.add("display_data", image("AAAA"))
    assert (len(outputs.images), outputs.images_left_out, outputs.truncated) == (2, 1, True)
    assert "image/png of 3 bytes left out: draw it smaller" in outputs.transcript()
    monkeypatch.setattr(module, "MAX_IMAGE_CHARACTERS", 3)
    outputs = Outputs(1000)
    outputs.add("display_data", image("AAAA"))
    assert outputs.images == []


def test_updates_replace_what_they_update() -> None:
    """An image is replaced; the newest of many updates of a text is at the end."""
    outputs = Outputs(1000)
    outputs.add("display_data", image("AAAA", "plot"))
    outputs.add("update_display_data", image("BBBB", "plot"))
    assert [one.data for one in outputs.images] == ["BBBB"]
    for step in range(5):
        outputs.add("update_display_data", {"data": {"text/plain": f"step {step}"}, "transient": {"display_id": "p"}})
    assert outputs.transcript().endswith("step 4\n")
    assert "step 3" not in outputs.transcript()


def test_cleared_output_is_gone() -> None:
    """Text and images of before are not shown."""
    outputs = Outputs(1000)
    shown(outputs, "before")
    outputs.add("display_data", image("AAAA"))
    outputs.add("clear_output", {"wait": False})
    shown(outputs, "after\n")
    assert (outputs.transcript(), outputs.images) == ("after\n", [])


def test_news_are_told_once_and_bounded() -> None:
    """Each piece is told once; a flood between two questions is told by its ends."""
    outputs = Outputs(1000)
    shown(outputs, "one\n")
    assert (outputs.news(), outputs.changed.is_set()) == ("one\n", False)
    shown(outputs, "x" * 100_000)
    assert len(outputs.news()) < 5000
    assert outputs.news() == ""


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"text/plain": "1", "text/html": "<b>1</b>"}, "1\n"),
        ({"text/markdown": "# a"}, "# a\n"),
        ({"application/json": {"a": 1}}, '{"a": 1}\n'),
        ({"application/x-unknown": "?"}, ""),
    ],
)
def test_the_plainest_form_is_shown(data: dict[str, Any], text: str) -> None:
    """Of several forms of a value the one that a model reads best is taken."""
    outputs = Outputs(1000)
    outputs.add("execute_result", {"data": data})
    assert outputs.transcript() == text


def message(kind: str, channel: str = "iopub", **content: Any) -> KernelMessage:
    """Return a message of the kernel."""
    return KernelMessage(channel, kind, "request", content)


@pytest.mark.parametrize("idle_first", [True, False])
async def test_an_execution_ends_with_reply_and_idle(*, idle_first: bool) -> None:
    """Whichever comes first, the end is the second."""
    execution = Execution(Outputs(100))
    last = [
        message("status", execution_state="idle"),
        message("execute_reply", "shell", status="ok", execution_count=3),
    ]
    execution.take(message("status", execution_state="busy"))
    for one in last if idle_first else reversed(last):
        assert not execution.ended.done()
        execution.take(one)
    ended = await execution.ended
    assert (ended.status, ended.execution_count) == ("ok", 3)


async def test_a_reply_without_the_end_of_output_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel's output does not end, the reply counts, with a word about it."""
    monkeypatch.setattr("jupyterhub_agentfarm.agents.jupyter.execution._PUBLISHED_SECONDS", 0.01)
    execution = Execution(Outputs(100))
    execution.take(message("execute_reply", "shell", status="error", ename="E", evalue="v", traceback=["t"]))
    ended = await execution.ended
    assert (ended.status, ended.detail) == ("error", "some of the output may be missing")
    assert execution.outputs.error is not None
    assert (execution.outputs.error.ename, execution.outputs.error.traceback) == ("E", "t")


async def test_an_execution_ends_once() -> None:
    """What comes after the end changes nothing."""
    execution = Execution(Outputs(100))
    execution.end("kernel_died", "it died")
    execution.end("server_lost", "gone")
    execution.take(message("stream", text="late"))
    assert (await execution.ended).status == "kernel_died"
    assert execution.outputs.transcript() == ""


def test_frames_there_and_back() -> None:
    """A request in a frame is the request, with its channel; what is no frame is refused."""
    identity, frame = encode_request("shell", "execute_request", {"code": "é"}, "session")
    found = decode(frame)
    assert (found.channel, found.kind, found.parent, found.content) == ("shell", "execute_request", "", {"code": "é"})
    assert identity.encode() in frame
    for wrong in (b"", b"\x00" * 100, b"\xff" * 64, b"text"):
        with pytest.raises((ValueError, KeyError)):
            decode(wrong)
