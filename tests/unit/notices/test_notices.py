"""The server's extension answers the notice that noded wrote, and asking is no activity of the user."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from jupyter_server_process import TOKEN, Server

NOTICE = {"message": "gpu01 is drained (kernel upgrade)", "at": 1.0, "deadline_at": 2.0}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server with a private directory."""
    made = Server(tmp_path)
    (tmp_path / "private").mkdir()
    made.start(AGENTFARM_SERVER_DIR=str(tmp_path / "private"))
    try:
        await made.ready()
        yield made
    finally:
        made.stop()


async def test_notices(server: Server, tmp_path: Path) -> None:
    """None, one, none again; what is no notice is none; nobody without a token gets an answer."""
    url = f"{server.url}agentfarm/api/v1/notices"
    path = tmp_path / "private" / "notice.json"
    async with server.client() as client:
        assert (await client.get(url)).json() == {"notices": []}
        path.write_text(json.dumps(NOTICE))
        assert (await client.get(url)).json() == {"notices": [NOTICE]}
        for bad in ("", "[]", '{"message": 1}', json.dumps(NOTICE | {"html": "x"})):
            path.write_text(bad)
            assert (await client.get(url)).json() == {"notices": []}
        path.unlink()
        answer = await client.get(url)
        assert (answer.json(), answer.headers["Cache-Control"]) == ({"notices": []}, "no-store")
    async with httpx.AsyncClient() as nobody:
        assert (await nobody.get(url)).status_code == 403


async def test_asking_is_no_activity(server: Server) -> None:
    """The time of the last activity does not move by asking, and moves by other requests."""
    headers = {"Authorization": f"token {TOKEN}"}
    async with httpx.AsyncClient(headers=headers) as client:

        async def last_activity() -> str:
            return str((await client.get(f"{server.url}api/status?no_track_activity=1")).json()["last_activity"])

        before = await last_activity()
        for _ in range(3):
            await client.get(f"{server.url}agentfarm/api/v1/notices")
        assert await last_activity() == before
        await client.get(f"{server.url}api/contents")
        assert await last_activity() != before
