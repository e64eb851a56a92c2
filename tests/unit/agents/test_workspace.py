"""Files of a real Jupyter server's workspace."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator

import pytest
from jupyter_server_process import TOKEN, Server

from jupyterhub_agentfarm.agents.jupyter import workspace
from jupyterhub_agentfarm.agents.jupyter.server_api import JupyterServer, open_session
from jupyterhub_agentfarm.errors import ConflictError, InvalidField, NotFoundError, ServerUnreachable


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that all tests share."""
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def server(process: Server) -> AsyncIterator[JupyterServer]:
    """The server as its user reaches it."""
    await process.ready()
    async with open_session() as session:
        yield JupyterServer(session, process.url, "", TOKEN)


async def test_text_is_written_and_read_in_parts(process: Server, server: JupyterServer) -> None:
    """Folders on its way are made, characters are counted and not bytes, and a part says where the next begins."""
    entry = await workspace.write_file(server, "/one/two/notes é.txt", "äöü" * 10, "utf-8")
    assert (entry.path, entry.type, entry.size_bytes) == ("one/two/notes é.txt", "file", 60)
    assert (process.root / "one" / "two" / "notes é.txt").read_text() == "äöü" * 10
    part = await workspace.read_file(server, "one/two/notes é.txt", 3, 4)
    assert (part.content, part.offset, part.total, part.next_offset) == ("äöüä", 3, 30, 7)
    rest = await workspace.read_file(server, "one/two/notes é.txt", 7, 100)
    assert (len(rest.content), rest.next_offset) == (23, None)


async def test_bytes_stay_bytes(process: Server, server: JupyterServer) -> None:
    """What is no UTF-8 is read in base64, and its offsets are bytes."""
    data = bytes(range(256))
    await workspace.write_file(server, "data.bin", base64.b64encode(data).decode(), "base64")
    assert (process.root / "data.bin").read_bytes() == data
    part = await workspace.read_file(server, "data.bin", 250, 10)
    assert (part.encoding, base64.b64decode(part.content), part.next_offset) == ("base64", data[250:], None)


async def test_a_folder_is_listed(server: JupyterServer) -> None:
    """Folders come first, each by name."""
    for name in ("list/b.txt", "list/a.txt", "list/z/c.txt"):
        await workspace.write_file(server, name, "x", "utf-8")
    listed = await workspace.list_files(server, "list")
    assert [(entry.path, entry.type) for entry in listed] == [
        ("list/z", "directory"),
        ("list/a.txt", "file"),
        ("list/b.txt", "file"),
    ]
    assert {"list"} <= {entry.path for entry in await workspace.list_files(server, "")}


async def test_a_notebook_is_read_as_the_file_it_is(server: JupyterServer) -> None:
    """Its JSON is given, so that a model can write it back."""
    text = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    await workspace.write_file(server, "book.ipynb", text, "utf-8")
    assert (await workspace.read_file(server, "book.ipynb", 0, 1000)).content == text


async def test_what_cannot_be(server: JupyterServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused with the path or the limit."""
    await workspace.write_file(server, "file.txt", "x" * 100, "utf-8")
    with pytest.raises(NotFoundError, match=r"no file or folder 'no/such\.txt' in the workspace of the default server"):
        await workspace.read_file(server, "no/such.txt", 0, 1)
    with pytest.raises(InvalidField, match="path of a file; list_files"):
        await workspace.read_file(server, "", 0, 1)
    with pytest.raises(InvalidField, match="path of a folder"):
        await workspace.list_files(server, "file.txt")
    with pytest.raises(InvalidField, match=r"without '\.\.'"):
        await workspace.list_files(server, "a/../../b")
    with pytest.raises(ConflictError, match=r"file\.txt is a file, not a folder"):
        await workspace.write_file(server, "file.txt/below.txt", "x", "utf-8")
    with pytest.raises(InvalidField, match="base64"):
        await workspace.write_file(server, "x", "%", "base64")
    with pytest.raises(InvalidField, match="path of a file"):
        await workspace.write_file(server, "/", "x", "utf-8")
    monkeypatch.setattr(workspace, "MAX_WRITE_BYTES", 10)
    monkeypatch.setattr(workspace, "MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidField, match="at most 10 bytes"):
        await workspace.write_file(server, "x", "é" * 6, "utf-8")
    with pytest.raises(InvalidField, match="at most 10 bytes"):
        await workspace.read_file(server, "file.txt", 0, 1)
    with pytest.raises(ServerUnreachable, match="the server 'gone' does not answer"):
        await workspace.list_files(JupyterServer(server.session, "http://127.0.0.1:1/", "gone", TOKEN), "")
