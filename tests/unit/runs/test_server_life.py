"""Runs and the life of their server: the queue, its idleness, its end and its restart."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from jupyter_server_process import Server, notebook
from waiting import eventually

from .conftest import MakeServer, processes_of, text_of

_SLEEP = "import time; time.sleep(60)"


async def _executing_second_cell(server: Server) -> str:
    """Return the id of a run that has ended one cell and executes another."""
    run = await server.submit("print('kept')", _SLEEP)
    await server.until(run["id"], lambda run: run["current_cell"] == 1, "its second cell executes")
    return str(run["id"])


async def test_more_runs_than_may_execute_are_queued(make_server: MakeServer) -> None:
    """Of five runs two execute at a time, in the order in which they came; a queued one can be cancelled."""
    server = await make_server(max_concurrent=2)
    gate = f"import pathlib, time\nwhile not pathlib.Path('{server.root / 'go'}').exists(): time.sleep(0.02)"
    submitted = [(await server.submit(gate))["id"] for _ in range(5)]
    states = [(await server.run(run_id))["state"] for run_id in submitted]
    assert states[2:] == ["queued"] * 3
    cancelled = (await server.request("POST", f"{submitted[2]}/cancel")).json()
    assert (cancelled["state"], cancelled["reason"], cancelled["started_at"]) == ("cancelled", "cancelled", None)
    for run_id in submitted[:2]:
        await server.until(run_id, lambda run: run["current_cell"] == 0, "it executes")
    assert [(await server.run(run_id))["state"] for run_id in submitted[3:]] == ["queued"] * 2
    (server.root / "go").touch()
    runs = [await server.ended(run_id) for run_id in submitted]
    assert [run["state"] for run in runs] == ["completed", "completed", "cancelled", "completed", "completed"]
    ends = sorted(run["ended_at"] for run in runs[:2])
    assert ends[0] <= runs[3]["started_at"] <= runs[4]["started_at"]


async def test_sigterm_still_stops_a_server_that_has_executed_notebooks(make_server: MakeServer) -> None:
    """After one run and during another, SIGTERM ends the server promptly, its kernels with it, and the run says why."""
    server = await make_server()
    assert (await server.execute("1"))["state"] == "completed"
    run_id = await _executing_second_cell(server)
    queued = json.loads((server.runs_directory / run_id / "run.json").read_text())["run"]
    assert queued["state"] == "executing"
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(server.process.wait, 15) == 0, server.log()[-2000:]
    run = json.loads((server.runs_directory / run_id / "run.json").read_text())["run"]
    assert (run["state"], run["reason"], run["cells_done"]) == ("failed", "server_stopped", 1)
    assert processes_of(run_id) == []
    kept = json.loads((server.runs_directory / run_id / "notebook.ipynb").read_text())
    assert text_of(kept["cells"][0]) == "kept\n"


async def test_a_killed_server_loses_no_finished_cell(make_server: MakeServer) -> None:
    """After SIGKILL and a restart the run is shown as stopped, with its partial notebook, events and key."""
    server = await make_server(max_concurrent=1)
    run_id = await _executing_second_cell(server)
    body = {"notebook": notebook("1"), "idempotency_key": "k"}
    queued = (await server.request("POST", "", json=body)).json()["id"]
    assert server.process is not None
    server.process.kill()
    await asyncio.to_thread(server.process.wait)
    await eventually(lambda: not processes_of(run_id), "the kernel has followed its server", timeout=15)
    server.start()
    await server.ready()
    run = await server.run(run_id)
    assert (run["state"], run["reason"], run["cells_done"]) == ("failed", "server_stopped", 1)
    assert run["ended_at"] is not None
    assert (await server.run(queued))["reason"] == "server_stopped"
    assert text_of((await server.notebook(run_id))["cells"][0]) == "kept\n"
    events = (await server.request("GET", f"{run_id}/events")).text
    assert events.count("event: cell_finished") == 1
    assert '"reason": "server_stopped"' in events.rstrip().splitlines()[-1]
    again = await server.request("POST", "", json=body)
    assert (again.status_code, again.json()["id"]) == (200, queued)


async def test_servers_that_share_a_directory_leave_each_other_alone(make_server: MakeServer, tmp_path: Path) -> None:
    """A second server with the same directory does not take the first one's executing run for an abandoned one."""
    shared = str(tmp_path / "shared")
    first = await make_server(directory=shared)
    gate = f"import pathlib, time\nwhile not pathlib.Path('{first.root / 'go'}').exists(): time.sleep(0.02)"
    run = await first.submit(gate)
    await first.until(run["id"], lambda run: run["current_cell"] == 0, "it executes")
    second = await make_server(directory=shared)
    assert (await second.request("GET", run["id"])).status_code == 404
    (first.root / "go").touch()
    assert (await first.ended(run["id"]))["state"] == "completed"


async def test_a_server_that_executes_is_not_idle(make_server: MakeServer) -> None:
    """A run that nobody follows keeps the server's last activity fresh, until it has ended."""
    server = await make_server()
    await server.submit("import time; time.sleep(60)")
    began = datetime.now().astimezone()

    async def status() -> dict[str, Any]:
        async with server.client() as client:
            answer = await client.get(f"{server.url}api/status", params={"no_track_activity": "1"})
            return dict(answer.json())

    async def active_later() -> bool:
        seen = datetime.fromisoformat((await status())["last_activity"])
        return (seen - began).total_seconds() > 4

    await eventually(active_later, "there is activity without any request", timeout=25, interval=0.1)


async def test_old_runs_are_pruned(make_server: MakeServer) -> None:
    """A run that ended longer ago than `keep` goes, with its folder, when another one is submitted."""
    server = await make_server(keep="500ms")
    old = await server.execute("1")
    ended = time.monotonic()
    await eventually(lambda: time.monotonic() > ended + 0.6, "half a second is over")
    await server.execute("2")
    assert (await server.request("GET", old["id"])).status_code == 404
    assert not (server.runs_directory / old["id"]).exists()


async def test_what_is_no_run_is_left_alone(make_server: MakeServer) -> None:
    """A folder that holds no run that can be read neither stops the server nor is removed."""
    server = await make_server()
    kept = await server.execute("1")
    server.stop()
    broken = server.runs_directory / "broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"run": {}, "server": "/", "idempotency_key": null}')
    server.start()
    await server.ready()
    assert [run["id"] for run in (await server.request("GET", "")).json()["runs"]] == [kept["id"]]
    assert broken.exists()
    assert server.runs_directory.stat().st_mode & 0o777 == 0o700
