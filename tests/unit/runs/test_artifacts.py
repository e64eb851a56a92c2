"""What a notebook leaves in its artifacts folder is told and handed out, and nothing else is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import aiohttp
import pytest
from jupyter_server_process import TOKEN, Server
from waiting import eventually

from jupyterhub_agentfarm.errors import NodeUnreachable, NotFoundError
from jupyterhub_agentfarm.runs.artifacts import Bounds, list_artifacts, open_artifact
from jupyterhub_agentfarm.runs.client import RunRefused, ServerRuns

from .conftest import MakeServer

WIDE = Bounds(100, 2**20)
WRITE = (
    "import os, pathlib\nhere = pathlib.Path(os.environ['AGENTFARM_ARTIFACTS'])\n"
    "(here / 'a b').mkdir()\n(here / 'a b' / 'x=1&y%2F.bin').write_bytes(bytes(range(256)) * 9000)\n"
    "(here / 'empty').touch()\n(here / 'out').symlink_to('/etc')\n(here / 'passwd').symlink_to('/etc/passwd')"
)


async def test_what_a_notebook_leaves_is_fetched(server: Server) -> None:
    """Through the client: the list with sizes and checksums, the bytes, and no way along a symbolic link."""
    run = await server.execute(WRITE)
    content = bytes(range(256)) * 9000
    async with aiohttp.ClientSession(headers={"Authorization": f"token {TOKEN}"}) as session:
        runs = ServerRuns(session, server.url, "n1")
        told = await runs.artifacts(run["id"])
        assert told["artifacts"] == [
            {"path": "a b/x=1&y%2F.bin", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
            {"path": "empty", "size_bytes": 0, "sha256": hashlib.sha256().hexdigest()},
        ]
        assert told["refused"] == ["out: it is a symbolic link.", "passwd: it is a symbolic link."]
        fetched = b"".join([chunk async for chunk in runs.artifact(run["id"], "a b/x=1&y%2F.bin")])
        assert fetched == content
        assert [chunk async for chunk in runs.artifact(run["id"], "empty")] == []
        for path in ("out/passwd", "passwd", "a b", "nothing", "../run.json", "a b/../empty", "a b/..", "/etc/passwd"):
            with pytest.raises(RunRefused) as caught:
                [chunk async for chunk in runs.artifact(run["id"], path)]
            assert caught.value.status == 404, path


async def test_a_run_without_artifacts(server: Server) -> None:
    """A notebook that leaves nothing has an empty list, and its folder is there for it."""
    run = await server.execute("import os\nassert os.listdir(os.environ['AGENTFARM_ARTIFACTS']) == []")
    assert run["state"] == "completed", run
    answer = await server.request("GET", f"{run['id']}/artifacts")
    assert answer.json() == {"artifacts": [], "refused": []}
    assert (await server.request("GET", f"{'0' * 16}/artifacts")).status_code == 404


async def test_artifacts_and_notebook_while_it_executes(server: Server) -> None:
    """What is there already can be fetched before the run has ended; the environment asked for does not win."""
    wait = "import time\nend = time.monotonic() + 20\nwhile not here.parent.joinpath('go').exists():\n"
    wait += "    assert time.monotonic() < end\n    time.sleep(0.02)"
    elsewhere = {"AGENTFARM_ARTIFACTS": "/tmp", "AGENTFARM_TASK_ID": "t1"}
    ask = "import os\nassert os.environ['AGENTFARM_TASK_ID'] == 't1'"
    run = await server.submit(WRITE, wait, ask, environment=elsewhere)
    await server.until(run["id"], lambda seen: seen["cells_done"] == 1, "the first cell has ended")
    async with aiohttp.ClientSession(headers={"Authorization": f"token {TOKEN}"}) as session:
        runs = ServerRuns(session, server.url, "n1")
        assert len((await runs.artifacts(run["id"]))["artifacts"]) == 2
        assert b"AGENTFARM_ARTIFACTS" in await runs.notebook(run["id"])
        (server.runs_directory / run["id"] / "go").touch()
        assert (await server.ended(run["id"]))["state"] == "completed"
        await runs.remove(run["id"])
        with pytest.raises(RunRefused):
            await runs.get(run["id"])
    assert not (server.runs_directory / run["id"]).exists()


async def test_bounds_of_a_server(make_server: MakeServer) -> None:
    """Files beyond the traits' number and size are named with the reason; those within are told."""
    server = await make_server(max_artifacts=3, max_artifact_bytes="1K")
    write = "import os\nos.chdir(os.environ['AGENTFARM_ARTIFACTS'])\n"
    write += "for name, size in dict(a=1000, b=100, c=10, d=1, e=1).items():\n    open(name, 'wb').write(bytes(size))"
    run = await server.execute(write)
    told = (await server.request("GET", f"{run['id']}/artifacts")).json()
    assert [each["path"] for each in told["artifacts"]] == ["a", "c", "d"]
    assert told["refused"] == ["b: a run keeps at most 1024 bytes.", "e: a run keeps at most 3 files."]


async def test_a_token_for_each_request(server: Server) -> None:
    """The client asks for its headers anew each time; a refusal carries status and message, a lost server does not."""
    run = await server.execute("1")
    tokens = ["wrong", TOKEN]

    async def headers() -> dict[str, str]:
        return {"Authorization": f"token {tokens.pop(0) if len(tokens) > 1 else tokens[0]}"}

    async with aiohttp.ClientSession() as session:
        runs = ServerRuns(session, server.url, "n1", headers)
        with pytest.raises(RunRefused) as caught:
            await runs.get(run["id"])
        assert caught.value.status == 403
        assert (await runs.get(run["id"]))["id"] == run["id"]
        with pytest.raises(NodeUnreachable, match="node n1"):
            await ServerRuns(session, "http://127.0.0.1:9/", "n1").get(run["id"])


def test_pipes_devices_and_depth(tmp_path: Path) -> None:
    """What is no regular file is left out without being opened, and so is what nobody could name or reach."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "line\nfeed").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    deep = tmp_path.joinpath(*["d"] * 40)
    deep.mkdir(parents=True)
    (deep / "file").touch()
    told = list_artifacts(tmp_path, WIDE)
    assert told.artifacts == ()
    assert len(told.refused) == 4
    with pytest.raises(NotFoundError):
        open_artifact(tmp_path, "pipe")


def test_a_folder_that_becomes_a_link(tmp_path: Path) -> None:
    """A link in the place of a folder that was told is not followed."""
    (tmp_path / "own" / "in").mkdir(parents=True)
    (tmp_path / "own" / "in" / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("not mine")
    assert [each.path for each in list_artifacts(tmp_path / "own", WIDE).artifacts] == ["in/file"]
    (tmp_path / "own" / "in").rename(tmp_path / "own" / "was")
    (tmp_path / "own" / "in").symlink_to(tmp_path / "other")
    with pytest.raises(NotFoundError):
        open_artifact(tmp_path / "own", "in/file")


def test_many_refusals_are_cut(tmp_path: Path) -> None:
    """A notebook that makes thousands of links gets a hundred sentences."""
    for number in range(300):
        (tmp_path / f"l{number}").symlink_to("/etc/passwd")
    assert len(list_artifacts(tmp_path, WIDE).refused) == 100


async def test_a_file_that_shrinks_is_not_taken_for_whole(make_server: MakeServer) -> None:
    """A file cut short while it is sent ends the connection: the client says that it was lost."""
    server = await make_server()
    run = await server.execute(
        "import os\nos.chdir(os.environ['AGENTFARM_ARTIFACTS'])\nopen('f', 'wb').truncate(2**26)"
    )
    path = server.runs_directory / run["id"] / "artifacts" / "f"
    async with aiohttp.ClientSession(headers={"Authorization": f"token {TOKEN}"}, read_bufsize=2**16) as session:
        runs = ServerRuns(session, server.url, "n1")
        stream = runs.artifact(run["id"], "f")
        await anext(stream)
        os.truncate(path, 10)
        with pytest.raises(NodeUnreachable):
            async for _ in stream:
                pass
    await eventually(lambda: "Uncaught" not in server.log(), "nothing is logged as a fault")
