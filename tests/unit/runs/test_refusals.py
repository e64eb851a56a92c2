"""Requests that are refused, before anything is executed."""

from __future__ import annotations

import errno
import json
import shutil
from typing import Any

import httpx
import pytest
from jupyter_server_process import Server, notebook

from jupyterhub_agentfarm.runs.handlers import MAX_BODY_BYTES, disk_reason

JSON = {"Content-Type": "application/json"}

_CODE = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"notebook": notebook("1"), "colour": "red"}, "colour"),
    "neither": ({}, "notebook must be given"),
    "both": ({"notebook": notebook("1"), "path": "a.ipynb"}, "absent when path is given"),
    "parent": ({"path": "../x.ipynb"}, "path must be a path relative"),
    "parent inside": ({"path": "a/../../x.ipynb"}, "path must be a path relative"),
    "absolute": ({"path": "/etc/passwd"}, "path must be a path relative"),
    "null character": ({"path": "a\0b"}, "path must be a path relative"),
    "root itself": ({"path": "."}, "path must be a path relative"),
    "by a link": ({"path": "link/x.ipynb"}, "path must be a path relative"),
    "missing file": ({"path": "missing.ipynb"}, "an existing notebook"),
    "no JSON": ({"path": "text.ipynb"}, "a readable file of JSON"),
    "hostile output": ({"notebook": notebook("1"), "output_path": "../out.ipynb"}, "output_path must be"),
    "output by a link": ({"notebook": notebook("1"), "output_path": "link/out.ipynb"}, "output_path must be"),
    "output elsewhere": ({"notebook": notebook("1"), "output_path": "no/out.ipynb"}, "output_path must be"),
    "output of another kind": ({"notebook": notebook("1"), "output_path": ".bashrc"}, "output_path must be"),
    "not a notebook": ({"notebook": {}}, "notebook must be"),
    "format of the future": ({"notebook": notebook("1") | {"nbformat": 9}}, "notebook must be"),
    "cells are a number": ({"notebook": notebook() | {"cells": 3}}, "notebook must be"),
    "cell is a string": ({"notebook": notebook() | {"cells": ["1"]}}, "notebook must be"),
    "cell of an unknown kind": ({"notebook": notebook() | {"cells": [_CODE | {"cell_type": "x"}]}}, "notebook must be"),
    "kernelspec is a string": ({"notebook": notebook(kernelspec="python3")}, "notebook must be"),
    "keyword": ({"notebook": notebook("1"), "parameters": {"class": 1}}, "Python identifiers"),
    "code as a name": ({"notebook": notebook("1"), "parameters": {"x = 1; y": 1}}, "Python identifiers"),
    "another spelling": ({"notebook": notebook("1"), "parameters": {"ﬁ": 1}}, "Python identifiers"),
    "timeout of zero": ({"notebook": notebook("1"), "timeout_seconds": 0}, "timeout_seconds must be"),
    "timeout as text": ({"notebook": notebook("1"), "cell_timeout_seconds": "1"}, "cell_timeout_seconds must be"),
    "endless timeout": ({"notebook": notebook("1"), "timeout_seconds": float("inf")}, "timeout_seconds must be"),
    "variable's name": ({"notebook": notebook("1"), "environment": {"a=b": ""}}, "environment must be"),
    "variable's value": ({"notebook": notebook("1"), "environment": {"a": 1}}, "environment.a must be"),
    "long name": ({"notebook": notebook("1"), "name": "x" * 201}, "name must be"),
    "another language": (
        {"notebook": notebook("1", kernelspec={"name": "fortran", "display_name": "F"}), "parameters": {"a": 1}},
        "written for Python, R, Julia, and the kernel is fortran",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _files(_shared_process: Server) -> None:
    root = _shared_process.root
    (root / "text.ipynb").write_text("not JSON")
    (root.parent / "x.ipynb").write_text(json.dumps(notebook("1")))
    (root / "link").symlink_to(root.parent)
    folder = _shared_process.folder / "kernels" / "fortran"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["true"], "display_name": "F", "language": "fortran"}')


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED)
async def test_a_request_is_refused(server: Server, body: dict[str, Any], message: str) -> None:
    """A request that cannot be carried out is a 400 that names the field, and no run is made."""
    before = len((await server.request("GET", "")).json()["runs"])
    answer = await server.request("POST", "", content=json.dumps(body), headers=JSON)
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid"), answer.text
    assert message in answer.json()["message"]
    assert set(answer.json()) == {"message", "reason"}
    assert len((await server.request("GET", "")).json()["runs"]) == before


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000], ids=["empty", "half", "list", "bytes", "deep"]
)
async def test_a_body_that_is_no_object_is_refused(server: Server, content: bytes) -> None:
    """A body that is not a JSON object is a 400."""
    answer = await server.request("POST", "", content=content, headers=JSON)
    assert (answer.status_code, answer.json()["reason"]) == (400, "invalid")


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}], ids=["none", "text"])
async def test_a_body_that_is_not_declared_as_json_is_refused(server: Server, headers: dict[str, str]) -> None:
    """A page of another site can send any other kind of body than JSON, so that is a 415 that says what to send."""
    answer = await server.request("POST", "", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (415, "content_type")
    assert "Content-Type: application/json" in answer.json()["message"]


async def test_a_body_is_bounded(server: Server) -> None:
    """A body beyond the limit is a 413 with the reason, whatever it holds."""
    answer = await server.request("POST", "", content=b" " * (MAX_BODY_BYTES + 1), headers=JSON)
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_large")
    assert (await server.request("GET", "")).status_code == 200


async def test_the_description_is_served(server: Server) -> None:
    """openapi.json names where the API is; without a token it is not shown."""
    url = server.runs_url().removesuffix("runs") + "openapi.json"
    async with server.client() as client:
        described = (await client.get(url)).json()
    assert described["openapi"] == "3.1.0"
    assert server.url.removesuffix("/").endswith(described["servers"][0]["url"].removesuffix("/agentfarm/api/v1"))
    async with httpx.AsyncClient() as nobody:
        assert (await nobody.get(url)).status_code == 403


async def test_a_run_that_does_not_exist(server: Server) -> None:
    """Every request for an unknown run is a 404 with a reason."""
    unknown = "0" * 16
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events"), ("GET", "/notebook")]:
        answer = await server.request(method, unknown + path)
        assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")


async def test_a_notebook_without_ids_or_of_an_old_format_is_taken(server: Server) -> None:
    """Missing and double ids are mended, an old format is converted, and stale outputs are not kept."""
    stale = {"output_type": "stream", "name": "stdout", "text": "stale"}
    cell = _CODE | {"source": ["pri", "nt(1)"], "outputs": [stale]}
    double = notebook() | {"nbformat_minor": 5, "cells": [cell, cell | {"id": "a"}, cell | {"id": "a"}]}
    old_cell = {"cell_type": "code", "input": "print(1)", "outputs": [], "language": "python", "metadata": {}}
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": [old_cell], "metadata": {}}]}
    for made in (double, old):
        answer = await server.request("POST", "", json={"notebook": made})
        run = await server.ended(answer.json()["id"])
        executed = await server.notebook(run["id"])
        assert run["state"] == "completed"
        assert {output["text"] for cell in executed["cells"] for output in cell["outputs"]} == {"1\n"}
        assert len({cell["id"] for cell in executed["cells"]}) == len(executed["cells"])


async def test_a_disk_that_fails_is_told(server: Server) -> None:
    """What the user's disk does not take is refused as that, and a notebook that is gone as not found."""
    run = await server.execute("1")
    shutil.rmtree(server.runs_directory / run["id"])
    for what in ("notebook", "results"):
        answer = await server.request("GET", f"{run['id']}/{what}")
        assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")
    away = server.runs_directory.with_name("away")
    server.runs_directory.rename(away)
    server.runs_directory.write_text("no folder")
    try:
        answer = await server.request("POST", "", json={"notebook": notebook("1")})
        assert (answer.status_code, answer.json()["reason"]) == (507, "disk")
    finally:
        server.runs_directory.unlink()
        away.rename(server.runs_directory)


def test_a_full_disk_has_a_reason_of_its_own() -> None:
    """Full, over quota and read only are told apart from every other failure of a disk."""
    assert disk_reason(OSError(errno.ENOSPC, "full")) == disk_reason(OSError(errno.EDQUOT, "quota")) == "no_space"
    assert disk_reason(OSError(errno.EIO, "broken")) == "disk"
