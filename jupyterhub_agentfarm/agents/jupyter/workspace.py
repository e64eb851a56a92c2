"""Files of a server's workspace, through Jupyter's contents API."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import ConflictError, InvalidField, NotFoundError
from .server_api import JupyterServer, quoted

#: The most of a file that is written at once, in bytes.
MAX_WRITE_BYTES = 2 * 2**20
#: The largest file of which a part is read: the server sends a file whole.
MAX_FILE_BYTES = 32 * 2**20
MAX_PATH_CHARACTERS = 1000
_FILE_SECONDS = 60.0

Encoding = Literal["utf-8", "base64"]


@dataclass(frozen=True)
class FileEntry:
    """A file or folder."""

    path: str
    #: "file", "directory" or "notebook".
    type: str
    size_bytes: int | None
    modified: str


@dataclass(frozen=True)
class FilePart:
    """A part of a file: characters of a text, or bytes in base64."""

    path: str
    encoding: Encoding
    content: str
    #: Where the part begins, and how long the whole is: characters, or bytes.
    offset: int
    total: int

    @property
    def next_offset(self) -> int | None:
        """Where to read on; None at the end."""
        size = len(self.content) if self.encoding == "utf-8" else len(base64.b64decode(self.content))
        return self.offset + size if self.offset + size < self.total else None


class IsFolder(InvalidField):
    """A folder is asked for its content.

    Parameters
    ----------
    path
        Of the folder.
    """

    def __init__(self, path: str) -> None:
        super().__init__("path", "the path of a file; list_files shows a folder", path)


async def list_files(server: JupyterServer, path: str) -> list[FileEntry]:
    """Return what a folder holds, folders first.

    Raises
    ------
    InvalidField
        It is a file.
    NotFoundError
        It is not there.
    """
    model = await _get(server, path, content="1")
    if model["type"] != "directory":
        raise InvalidField("path", "the path of a folder; read_file reads a file", path)
    entries = [_entry(item) for item in model["content"]]
    return sorted(entries, key=lambda entry: (entry.type != "directory", entry.path))


async def read_file(server: JupyterServer, path: str, offset: int, most: int) -> FilePart:
    """Return a part of a file: text where it is UTF-8, else base64.

    Raises
    ------
    InvalidField
        It is a folder, or too large.
    NotFoundError
        It is not there.
    """
    about = await _get(server, path, content="0")
    if about["type"] == "directory":
        raise IsFolder(path)
    if (about.get("size") or 0) > MAX_FILE_BYTES:
        raise InvalidField(
            "path", f"a file of at most {MAX_FILE_BYTES} bytes: read parts of it with execute_code", path
        )
    model = await _get(server, path, content="1", type="file", format="base64")
    data = base64.b64decode(model["content"])
    try:
        text = data.decode()
    except UnicodeDecodeError:
        part = base64.b64encode(data[offset : offset + most]).decode()
        return FilePart(path, "base64", part, offset, len(data))
    return FilePart(path, "utf-8", text[offset : offset + most], offset, len(text))


async def write_file(server: JupyterServer, path: str, content: str, encoding: Encoding) -> FileEntry:
    """Write a file, in place of the one that is there; folders on its way are made.

    Raises
    ------
    InvalidField
        It is too long, or no base64.
    """
    size = len(content.encode()) if encoding == "utf-8" else _decoded_size(content)
    if size > MAX_WRITE_BYTES:
        raise InvalidField(
            "content", f"at most {MAX_WRITE_BYTES} bytes: write larger files with execute_code", f"{size} bytes"
        )
    checked = _checked(path)
    if not checked:
        raise InvalidField("path", "the path of a file", path)
    await _make_folders(server, checked)
    form = "text" if encoding == "utf-8" else "base64"
    body = {"type": "file", "format": form, "content": content}
    return _entry(await server.request("PUT", f"contents/{quoted(checked)}", body, seconds=_FILE_SECONDS))


async def _make_folders(server: JupyterServer, path: str) -> None:
    folders = path.split("/")[:-1]
    for depth in range(len(folders), 0, -1):
        if await _is_folder(server, "/".join(folders[:depth])):
            break
    else:
        depth = 0
    for length in range(depth + 1, len(folders) + 1):
        await server.request("PUT", f"contents/{quoted('/'.join(folders[:length]))}", {"type": "directory"})


async def _is_folder(server: JupyterServer, path: str) -> bool:
    try:
        model = await _get(server, path, content="0")
    except NotFoundError:
        return False
    if model["type"] != "directory":
        raise ConflictError(f"{path} is a file, not a folder")
    return True


async def _get(server: JupyterServer, path: str, **query: str) -> dict[str, Any]:
    """Return the model of a file or folder."""
    checked = _checked(path)
    try:
        model: dict[str, Any] = await server.request(
            "GET", f"contents/{quoted(checked)}", query=query, seconds=_FILE_SECONDS
        )
    except NotFoundError as exc:
        raise NotFoundError(f"there is no file or folder {path!r} in the workspace of {server.label}") from exc
    return model


def _entry(model: dict[str, Any]) -> FileEntry:
    return FileEntry(model["path"], model["type"], model.get("size"), str(model.get("last_modified") or ""))


def _checked(path: str) -> str:
    """Return the path of a file or folder below the workspace's root."""
    clean = path.strip("/")
    if len(path) > MAX_PATH_CHARACTERS or "\0" in path or ".." in clean.split("/"):
        raise InvalidField("path", "a path below the workspace's root, without '..'", path)
    return "" if clean == "." else clean.removeprefix("./")


def _decoded_size(content: str) -> int:
    try:
        return len(base64.b64decode(content, validate=True))
    except binascii.Error as exc:
        raise InvalidField("content", "base64, as `encoding` says", content) from exc
