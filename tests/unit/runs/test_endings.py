"""Every way in which a run can go wrong is a result with a reason, and leaves no process."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import pytest
from jupyter_server_process import Server, notebook
from waiting import eventually

from .conftest import MakeServer, processes_of, text_of

_SLEEP = "import time\nprint('begun', flush=True)\ntime.sleep(60)"
#: A cell that no interrupt ends.
_STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('begun', flush=True)\n"
    "end = time.monotonic() + 60\nwhile time.monotonic() < end: time.sleep(1)"
)
#: A child that is in the kernel's session and outlives an interrupt.
_CHILD = "import signal, subprocess\nchild = subprocess.Popen(['sleep', '300'], process_group=0)\n"


async def test_an_exception_ends_the_run_and_names_its_line(server: Server) -> None:
    """A cell's exception is the run's error, with the line of the cell; later cells do not execute."""
    run = await server.execute("def f(x):\n    return 1 / x", "print('before')\n\ny = f(0)", "print('never')")
    assert (run["state"], run["reason"], run["cells_done"], run["current_cell"]) == ("failed", "cell_error", 1, 1)
    error = run["error"]
    assert (error["cell"], error["line"], error["source_line"]) == (1, 3, "y = f(0)")
    assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
    assert not any("\x1b" in line for line in error["traceback"])
    assert run["detail"] == "Cell 1 raised ZeroDivisionError: division by zero"
    cells = (await server.notebook(run["id"]))["cells"]
    assert text_of(cells[1]) == "before\n"
    assert cells[1]["outputs"][-1]["ename"] == "ZeroDivisionError"
    assert cells[2]["outputs"] == []
    assert processes_of(run["id"]) == []


async def test_a_kernel_that_is_killed_ends_the_run_at_once(server: Server) -> None:
    """A kernel that kills itself ends the run within seconds, keeps earlier output and leaves no child."""
    run = await server.submit("print('kept')", _CHILD + "import os\nos.kill(os.getpid(), 9)", "1")
    began = time.monotonic()
    run = await server.ended(run["id"])
    assert time.monotonic() - began < 10
    assert (run["state"], run["reason"], run["cells_done"]) == ("failed", "kernel_died", 1)
    assert run["detail"] == "The kernel was ended by signal 9 while it executed cell 1."
    assert text_of((await server.notebook(run["id"]))["cells"][0]) == "kept\n"
    assert processes_of(run["id"]) == []


@pytest.mark.parametrize("source", [_CHILD + _SLEEP, _CHILD + _STUBBORN], ids=["interruptible", "stubborn"])
async def test_a_cell_that_takes_too_long_ends_the_run(server: Server, source: str) -> None:
    """A cell's limit ends the run, whether or not the kernel heeds the interrupt; its output is kept."""
    run = await server.execute("print('quick')", source, cell_timeout_seconds=2)
    assert (run["state"], run["reason"], run["cells_done"]) == ("failed", "cell_timeout", 1)
    assert run["detail"] == "Cell 1 took longer than 2 s."
    assert text_of((await server.notebook(run["id"]))["cells"][1]) == "begun\n"
    assert processes_of(run["id"]) == []


async def test_a_run_that_takes_too_long_ends(server: Server) -> None:
    """The limit of the whole run counts over all cells."""
    run = await server.execute(*["import time; time.sleep(1)"] * 20, timeout_seconds=8)
    assert (run["state"], run["reason"]) == ("failed", "run_timeout")
    assert 0 < run["cells_done"] < 9
    assert 8 <= run["duration_seconds"] < 18  # the cells take 20 s
    assert processes_of(run["id"]) == []


async def test_a_limit_shorter_than_the_kernels_start_ends_the_run(server: Server) -> None:
    """The limit of the whole run includes the start of the kernel, which is not left behind."""
    run = await server.execute("1", timeout_seconds=0.05)
    assert (run["reason"], run["cells_done"]) == ("run_timeout", 0)
    assert processes_of(run["id"]) == []


@pytest.mark.parametrize("source", [_SLEEP, _STUBBORN], ids=["interruptible", "stubborn"])
async def test_a_cancelled_run_ends_as_cancelled(server: Server, source: str) -> None:
    """Cancel interrupts the cell, kills a kernel that does not heed it, and the run ends as cancelled."""
    run = await server.submit(source, "print('never')")
    await server.until(run["id"], lambda run: run["current_cell"] == 0, "its cell executes")
    answer = await server.request("POST", f"{run['id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "executing")
    run = await server.ended(run["id"], timeout=15)
    assert (run["state"], run["reason"], run["cells_done"]) == ("cancelled", "cancelled", 0)
    assert processes_of(run["id"]) == []
    again = await server.request("POST", f"{run['id']}/cancel")
    assert again.json() == run


async def test_a_run_cancelled_at_its_start_leaves_no_kernel(server: Server) -> None:
    """A run that is cancelled while its kernel starts ends as cancelled, without a kernel."""
    run = await server.submit(_SLEEP)
    await server.request("POST", f"{run['id']}/cancel")
    run = await server.ended(run["id"])
    assert (run["state"], run["reason"]) == ("cancelled", "cancelled")
    assert processes_of(run["id"]) == []


async def test_what_a_notebook_leaves_running_is_ended_with_it(server: Server) -> None:
    """A process that a notebook has started does not outlive the run."""
    run = await server.execute(_CHILD + "print(child.pid)")
    assert run["state"] == "completed"
    assert processes_of(run["id"]) == []


async def test_a_kernel_that_does_not_exist(server: Server) -> None:
    """A run for a kernel that the server does not have says so."""
    run = await server.execute("1", kernel_name="cobol")
    assert (run["state"], run["reason"]) == ("failed", "kernel_not_found")
    assert run["detail"] == "There is no kernel named cobol on this server."


@pytest.mark.parametrize(
    ("program", "reason"), [(["/no/such/program"], "kernel_not_found"), ([sys.executable, "-c", "1"], "kernel_died")]
)
async def test_a_kernel_that_does_not_start(server: Server, program: list[str], reason: str) -> None:
    """A kernel whose program is missing, or ends at once, is a reason and not a hang."""
    folder = server.folder / "kernels" / "broken"
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"argv": [*program, "{connection_file}"], "display_name": "broken", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    run = await server.execute("1", kernel_name="broken")
    assert (run["state"], run["reason"]) == ("failed", reason), run["detail"]


async def test_output_that_does_not_arrive_is_no_success(make_server: MakeServer) -> None:
    """When the kernel's end of output never arrives, the run fails with output_lost and keeps what came."""
    server = await make_server(iopub_timeout=1)
    silence = (
        "print('heard', flush=True)\nimport ipykernel.kernelbase as base\nkernel = get_ipython().kernel\n"
        "send = kernel.session.send\n"
        "def mute(stream, kind, *args, **more):\n"
        "    content = args[0] if args else more.get('content')\n"
        "    kind_name = kind if isinstance(kind, str) else kind['msg_type']\n"
        "    if kind_name == 'status' and content['execution_state'] == 'idle':\n"
        "        return None\n"
        "    return send(stream, kind, *args, **more)\n"
        "kernel.session.send = mute"
    )
    run = await server.execute(silence)
    assert (run["state"], run["reason"]) == ("failed", "output_lost"), run
    assert text_of((await server.notebook(run["id"]))["cells"][0]) == "heard\n"
    assert processes_of(run["id"]) == []


async def test_a_cell_that_prints_without_end_is_ended_at_its_limit(server: Server) -> None:
    """A cell whose output comes without a pause cannot keep its limit from being noticed."""
    run = await server.execute("while True: print('again', flush=True)", cell_timeout_seconds=2)
    assert (run["state"], run["reason"]) == ("failed", "cell_timeout")
    assert run["duration_seconds"] < 15
    assert text_of((await server.notebook(run["id"]))["cells"][0]).startswith("again\nagain\n")
    assert processes_of(run["id"]) == []


async def test_a_message_that_never_arrives_is_said(server: Server) -> None:
    """Output that was lost between the kernel and the run is counted, for the cell where it was lost."""
    losing = (
        "kernel = get_ipython().kernel\nsend = kernel.session.send\n"
        "def lose(stream, kind, *args, **more):\n"
        "    if isinstance(kind, dict) and kind['content'].get('text') == 'secret\\n': return None\n"
        "    return send(stream, kind, *args, **more)\n"
        "kernel.session.send = lose"
    )
    run = await server.execute(losing, "print('secret', flush=True)\nprint('heard', flush=True)", "print('on')")
    assert run["state"] == "completed"
    assert run["cut"] == ["Cell 1: 1 message of the kernel never arrived; output is missing."]
    assert text_of((await server.notebook(run["id"]))["cells"][1]) == "heard\n"


async def test_an_output_that_no_notebook_can_hold_is_dropped_and_said(server: Server) -> None:
    """A malformed display does not end the run; the run says that it was dropped."""
    run = await server.execute("from IPython.display import display\ndisplay({'text/plain': 3}, raw=True)\nprint('on')")
    assert run["state"] == "completed", run
    assert len(run["cut"]) == 1
    assert "malformed output were dropped" in run["cut"][0]


async def test_a_full_output_folder_is_said(server: Server) -> None:
    """When the executed notebook cannot be written to its place, the run says so and its notebook is kept."""
    folder = server.root / "goes"
    folder.mkdir(exist_ok=True)
    run = await server.submit("print('kept')\nimport shutil; shutil.rmtree('goes')", output_path="goes/out.ipynb")
    run = await server.ended(run["id"])
    assert (run["state"], run["reason"], run["cells_done"]) == ("failed", "internal", 1)
    assert "output_path" in run["detail"]
    assert text_of((await server.notebook(run["id"]))["cells"][0]) == "kept\n"


async def test_two_runs_at_once(server: Server) -> None:
    """Two notebooks that wait for each other both end: they execute at the same time."""
    wait = (
        "import pathlib, time\npathlib.Path({mine!r}).touch()\nend = time.monotonic() + 20\n"
        "while not pathlib.Path({other!r}).exists():\n    assert time.monotonic() < end\n    time.sleep(0.02)"
    )
    first, second = await asyncio.gather(
        server.submit(wait.format(mine="a", other="b")), server.submit(wait.format(mine="b", other="a"))
    )
    for run in (first, second):
        assert (await server.ended(run["id"]))["state"] == "completed"


async def test_the_submitter_may_disappear(server: Server) -> None:
    """A run goes on when the connection that submitted it is closed before the answer."""
    name = f"orphan {time.monotonic()}"
    body = json.dumps({"notebook": notebook("print('done')"), "name": name}).encode()
    host, port = server.url.removeprefix("http://").split("/")[0].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST {server.runs_url().split(host + ':' + port)[1]} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}"
    )
    head += "\r\nContent-Type: application/json\r\nAuthorization: token a-token-of-the-tests"
    writer.write(f"{head}\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()

    async def found() -> dict[str, object] | None:
        runs = (await server.request("GET", "")).json()["runs"]
        return next((run for run in runs if run["name"] == name and run["ended_at"]), None)

    run = await eventually(found, "the run has ended", timeout=20)
    assert run["state"] == "completed"
