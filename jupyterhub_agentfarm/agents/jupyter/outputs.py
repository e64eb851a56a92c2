"""What code shows, kept within bounds: a transcript as in a terminal, and images."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Images of one call; more are left out, with a line in the transcript.
MAX_IMAGES = 8
#: Characters of all images' base64 together. An answer with them fits the event that MCP clients take: 1 MiB.
MAX_IMAGE_CHARACTERS = 500_000
_IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TEXT_TYPES = ("text/plain", "text/markdown", "text/latex", "text/html")
_MAX_NEWS = 4000
_MAX_DISPLAYS = 100
_MAX_EVALUE = 2000
_MAX_TRACEBACK = 6000
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")


@dataclass(frozen=True)
class Image:
    """An image that code has shown."""

    mime_type: str
    #: Base64.
    data: str


@dataclass(frozen=True)
class CodeError:
    """The exception that code has ended with."""

    ename: str
    evalue: str
    traceback: str


class BoundedText:
    """Text of which the beginning and the end are kept.

    Parameters
    ----------
    most
        Characters that are kept.
    """

    def __init__(self, most: int) -> None:
        self._head_most, self._tail_most = most - most // 2, most // 2
        self._head = self._tail = ""
        self.total = 0

    def add(self, text: str) -> None:
        """Add to the end."""
        self.total += len(text)
        room = self._head_most - len(self._head)
        if room > 0:
            self._head, text = self._head + text[:room], text[room:]
        if text:
            self._tail = (self._tail + text)[-self._tail_most :] if self._tail_most else ""

    @property
    def left_out(self) -> int:
        """Characters that were not kept."""
        return self.total - len(self._head) - len(self._tail)

    def __str__(self) -> str:
        """Return what is kept, and where how much is missing."""
        if not self.left_out:
            return self._head + self._tail
        return f"{self._head}\n[... {self.left_out} characters left out ...]\n{self._tail}"


class Outputs:
    """The outputs of one execution.

    Parameters
    ----------
    most
        Characters of the transcript that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._text = BoundedText(most)
        self._ends_line = True
        self._news = BoundedText(_MAX_NEWS)
        self._images: list[tuple[str, Image]] = []
        self._updated: dict[str, str] = {}
        self.images_left_out = 0
        self.error: CodeError | None = None
        #: Set when there is something that `news` has not given yet.
        self.changed = asyncio.Event()

    def add(self, kind: str, content: Mapping[str, Any]) -> None:
        """Add a message of the kernel; kinds that show nothing are passed over."""
        if kind == "stream":
            self._write(str(content["text"]))
        elif kind in ("display_data", "execute_result"):
            self._display(content)
        elif kind == "update_display_data":
            self._update(content)
        elif kind == "clear_output":
            self._text, self._ends_line = BoundedText(self._most), True
            self._images.clear()
        elif kind == "error":
            self.error = code_error(content)

    @property
    def truncated(self) -> bool:
        """Whether something is missing that the code has shown."""
        return bool(self._text.left_out or self.images_left_out)

    @property
    def images(self) -> list[Image]:
        """The images, in their order."""
        return [image for _, image in self._images]

    @property
    def characters(self) -> int:
        """Characters that the code has written, kept or not."""
        return self._text.total

    def transcript(self) -> str:
        """Return the text, with the newest state of what was updated at its end."""
        text = folded(str(self._text))
        for update in self._updated.values():
            text += ("" if text.endswith("\n") or not text else "\n") + update + "\n"
        return text

    def news(self) -> str:
        """Return what came since the last call, at most some thousand characters of it."""
        news, self._news = str(self._news), BoundedText(_MAX_NEWS)
        self.changed.clear()
        return without_escapes(news)

    def _write(self, text: str) -> None:
        if text:
            self._text.add(text)
            self._news.add(text)
            self._ends_line = text.endswith("\n")
            self.changed.set()

    def _write_line(self, text: str) -> None:
        self._write(("" if self._ends_line else "\n") + text + "\n")

    def _display(self, content: Mapping[str, Any]) -> None:
        data = content.get("data") or {}
        identity = str((content.get("transient") or {}).get("display_id", ""))
        kind = next((kind for kind in _IMAGE_TYPES if kind in data), None)
        if kind is not None:
            self._add_image(identity, Image(kind, "".join(str(data[kind]).split())))
        elif text := text_of(data):
            self._write_line(text)

    def _update(self, content: Mapping[str, Any]) -> None:
        data = content.get("data") or {}
        identity = str((content.get("transient") or {}).get("display_id", ""))
        for index, (known, _) in enumerate(self._images):
            if known == identity and (kind := next((kind for kind in _IMAGE_TYPES if kind in data), None)):
                del self._images[index]
                self._add_image(identity, Image(kind, "".join(str(data[kind]).split())))
                return
        if (text := text_of(data)) and (identity in self._updated or len(self._updated) < _MAX_DISPLAYS):
            self._updated[identity] = text[-_MAX_NEWS:]

    def _add_image(self, identity: str, image: Image) -> None:
        used = sum(len(other.data) for other in self.images)
        size = len(image.data) * 3 // 4
        if len(self._images) >= MAX_IMAGES or used + len(image.data) > MAX_IMAGE_CHARACTERS:
            self.images_left_out += 1
            self._write_line(f"[{image.mime_type} of {size} bytes left out: draw it smaller, or save it to a file]")
            return
        self._images.append((identity, image))
        self._write_line(f"[image {len(self._images)}: {image.mime_type}, {size} bytes]")


def text_of(data: Mapping[str, Any]) -> str:
    """Return the text among the representations of one output."""
    for kind in _TEXT_TYPES:
        if kind in data:
            return str(data[kind])
    return json.dumps(data["application/json"]) if "application/json" in data else ""


def code_error(content: Mapping[str, Any]) -> CodeError:
    """Return the exception of an `error` message or of a reply, within bounds."""
    lines = without_escapes("\n".join(map(str, content.get("traceback") or ()))).split("\n")
    traceback = BoundedText(_MAX_TRACEBACK)
    traceback.add("\n".join(line for line in lines if line.strip("-")))
    return CodeError(str(content.get("ename", "")), str(content.get("evalue", ""))[:_MAX_EVALUE], str(traceback))


def without_escapes(text: str) -> str:
    """Return `text` without what makes terminals colourful."""
    return _ESCAPES.sub("", text)


def folded(text: str) -> str:
    """Return `text` as a terminal would show it: without escapes, and of a line written anew only the newest state."""
    lines = without_escapes(text).replace("\r\n", "\n").split("\n")
    return "\n".join(next((part for part in reversed(line.split("\r")) if part), "") for line in lines)
