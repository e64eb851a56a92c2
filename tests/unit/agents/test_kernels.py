"""Kernels of a real Jupyter server: executing, streaming, every way in which it ends, and the connections."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_server_process import TOKEN, Server
from traitlets.config import Config
from waiting import eventually

from jupyterhub_agentfarm.agents.jupyter.execution import Ended
from jupyterhub_agentfarm.agents.jupyter.kernels import Kernels, kernel_name
from jupyterhub_agentfarm.agents.jupyter.outputs import Outputs
from jupyterhub_agentfarm.agents.jupyter.server_api import JupyterServer
from jupyterhub_agentfarm.errors import (
    ConflictError,
    InvalidField,
    KernelBusy,
    NotFoundError,
    ServerRefused,
    ServerUnreachable,
)


@pytest.fixture(scope="module")
def _process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def kernels() -> AsyncIterator[Kernels]:
    """The service's kernels."""
    made = Kernels()
    await made.open()
    yield made
    await made.aclose()


@pytest.fixture
async def server(_process: Server, kernels: Kernels) -> JupyterServer:
    """A server that all tests share."""
    await _process.ready()
    return JupyterServer(kernels.session, _process.url, "", TOKEN)


@pytest.fixture
async def own_server(tmp_path: Path, kernels: Kernels) -> AsyncIterator[tuple[Server, JupyterServer]]:
    """A server of the test's own, which it may kill."""
    process = Server(tmp_path)
    process.start()
    await process.ready()
    yield process, JupyterServer(kernels.session, process.url, "own", TOKEN)
    process.stop()


def frame_of(kind: str, content: Any, parent: str) -> bytes:
    """Return the frame of a message on iopub that answers a request."""
    bodies = ({"msg_type": kind}, {"msg_id": parent}, {}, content)
    parts = [b"iopub", *(json.dumps(body).encode() for body in bodies)]
    offsets = list(itertools.accumulate(map(len, parts), initial=8 * (len(parts) + 2)))
    return b"".join(number.to_bytes(8, "little") for number in (len(offsets), *offsets)) + b"".join(parts)


async def run(
    kernels: Kernels, server: JupyterServer, code: str, name: str = "main", seconds: float = 20, most: int = 10_000
) -> tuple[Ended, Outputs]:
    """Execute code in a named kernel."""
    outputs = Outputs(most)
    connection = await kernels.connection(server, name)
    return await connection.execute(code, seconds, outputs), outputs


async def test_a_named_kernel_keeps_its_state(kernels: Kernels, server: JupyterServer) -> None:
    """Two calls of one name share variables, another name has its own; JupyterLab sees both by name."""
    await run(kernels, server, "x = 41", "state")
    ended, outputs = await run(kernels, server, "x + 1", "state")
    assert (ended.status, outputs.transcript()) == ("ok", "42\n")
    _, outputs = await run(kernels, server, "print('x' in globals())", "other")
    assert outputs.transcript() == "False\n"
    names = {session["name"] for session in await kernels.sessions(server)}
    assert {"state", "other"} <= names
    assert "state" in {kernel_name(session) for session in await kernels.sessions(server)}


async def test_state_outlives_the_connection(server: JupyterServer, kernels: Kernels) -> None:
    """Another connection, as after a restart of the service, finds the same kernel."""
    await run(kernels, server, "x = 'kept'", "kept")
    later = Kernels()
    await later.open()
    _, outputs = await run(later, JupyterServer(later.session, server.url, "", TOKEN), "print(x)", "kept")
    await later.aclose()
    assert outputs.transcript() == "kept\n"


async def test_output_is_there_while_the_code_goes_on(kernels: Kernels, server: JupyterServer) -> None:
    """What is printed can be read before the end, in the order of stdout and stderr."""
    connection = await kernels.connection(server, "stream")
    outputs = Outputs(1000)
    code = "import sys, time\nprint('one', flush=True)\nprint('two', file=sys.stderr)\ntime.sleep(30)"
    running = asyncio.ensure_future(connection.execute(code, 60, outputs))
    news = ""
    while "two" not in news:
        await asyncio.wait_for(outputs.changed.wait(), 20)
        news += outputs.news()
    assert news == "one\ntwo\n"
    assert not running.done()
    await kernels.act(server, "stream", "interrupt")
    assert (await running).status == "error"
    assert outputs.error is not None
    assert outputs.error.ename == "KeyboardInterrupt"


async def test_an_image_comes_as_an_image(kernels: Kernels, server: JupyterServer) -> None:
    """Its base64 is given, and the transcript says where it was."""
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    code = f"import base64\nfrom IPython.display import Image, display\ndisplay(Image(base64.b64decode({png!r})))"
    _, outputs = await run(kernels, server, "print('before', end='')\n" + code)
    (image,) = outputs.images
    assert (image.mime_type, image.data) == ("image/png", png)
    assert outputs.transcript() == "before\n[image 1: image/png, 72 bytes]\n"


async def test_an_exception_is_a_value(kernels: Kernels, server: JupyterServer) -> None:
    """Name, value and a traceback without escapes, which has the failing line."""
    ended, outputs = await run(kernels, server, "def f():\n    return 1 / 0\nf()")
    assert ended.status == "error"
    assert outputs.error is not None
    assert (outputs.error.ename, outputs.error.evalue) == ("ZeroDivisionError", "division by zero")
    assert "return 1 / 0" in outputs.error.traceback
    assert "\x1b" not in outputs.error.traceback


async def test_a_long_output_is_kept_in_part(kernels: Kernels, server: JupyterServer) -> None:
    """Beginning and end stay, and what is missing is counted; nothing is lost of what is kept."""
    _, outputs = await run(kernels, server, "for i in range(100_000): print(i)", most=1000)
    assert outputs.truncated
    assert outputs.transcript().startswith("0\n1\n2\n")
    assert outputs.transcript().endswith("99998\n99999\n")
    assert "characters left out" in outputs.transcript()
    assert len(outputs.transcript()) < 1100


async def test_code_that_takes_too_long_is_interrupted(kernels: Kernels, server: JupyterServer) -> None:
    """The time is over: the code ends, the kernel stays with what it had."""
    ended, outputs = await run(kernels, server, "y = 7\nimport time\ntime.sleep(60)", seconds=1)
    assert ended.status == "timeout"
    assert ended.detail.startswith("the code did not end within 1 s and was interrupted")
    assert outputs.error is None
    _, outputs = await run(kernels, server, "y")
    assert outputs.transcript() == "7\n"


async def test_code_that_ignores_the_interrupt(
    kernels: Kernels, server: JupyterServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes all the same and says what helps; and that does help."""
    monkeypatch.setattr("jupyterhub_agentfarm.agents.jupyter.kernel_connection.INTERRUPT_SECONDS", 0.5)
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    ended, _ = await run(kernels, server, code, "deaf", seconds=2)
    assert ended.status == "timeout"
    assert ended.detail.endswith("restart the kernel")
    await kernels.act(server, "deaf", "restart")
    ended, _ = await run(kernels, server, "1", "deaf")
    assert ended.status == "ok"


async def test_who_goes_away_stops_the_code(kernels: Kernels, server: JupyterServer) -> None:
    """A cancelled call interrupts the kernel, and the next call need not wait."""
    connection = await kernels.connection(server, "left")
    outputs = Outputs(100)
    running = asyncio.ensure_future(connection.execute("print(1)\nimport time\ntime.sleep(60)", 100, outputs))
    await asyncio.wait_for(outputs.changed.wait(), 20)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    ended, _ = await run(kernels, server, "'free'", "left", seconds=10)
    assert ended.status == "ok"


async def test_a_kernel_that_dies_is_noticed(kernels: Kernels, server: JupyterServer) -> None:
    """The execution ends with what happened, long before its time is over, and the next one works."""
    ended, _ = await run(kernels, server, "import os\nos.kill(os.getpid(), 9)", "dies", seconds=50)
    assert ended.status == "kernel_died"
    assert "starts anew" in ended.detail

    async def works() -> bool:
        return (await run(kernels, server, "1", "dies"))[0].status == "ok"

    await eventually(works, "the kernel is back", timeout=20)


async def test_a_restart_ends_what_executes(kernels: Kernels, server: JupyterServer) -> None:
    """Whoever waits learns that variables are gone."""
    connection = await kernels.connection(server, "again")
    outputs = Outputs(100)
    running = asyncio.ensure_future(connection.execute("print(1)\nimport time\ntime.sleep(60)", 100, outputs))
    await asyncio.wait_for(outputs.changed.wait(), 20)
    await kernels.act(server, "again", "restart")
    ended = await asyncio.wait_for(running, 20)
    assert ended.status in ("kernel_restarted", "error")  # it is interrupted first, and may be quicker than its end


async def test_a_shutdown_ends_what_executes(kernels: Kernels, server: JupyterServer) -> None:
    """The execution ends, and the name can be used anew."""
    connection = await kernels.connection(server, "shut")
    outputs = Outputs(100)
    running = asyncio.ensure_future(connection.execute("print(1)\nimport time\ntime.sleep(60)", 100, outputs))
    await asyncio.wait_for(outputs.changed.wait(), 20)
    await kernels.act(server, "shut", "shutdown")
    assert (await asyncio.wait_for(running, 20)).status in ("kernel_died", "server_lost")
    assert await kernels.find(server, "shut") is None
    assert (await run(kernels, server, "1", "shut"))[0].status == "ok"


async def test_a_server_that_dies_is_noticed(kernels: Kernels, own_server: tuple[Server, JupyterServer]) -> None:
    """Within seconds, with what to do; and the next call says so too."""
    process, server = own_server
    connection = await kernels.connection(server, "main")
    outputs = Outputs(100)
    running = asyncio.ensure_future(connection.execute("print(1)\nimport time\ntime.sleep(60)", 100, outputs))
    await asyncio.wait_for(outputs.changed.wait(), 20)
    children = psutil.Process(process.process.pid).children(recursive=True)  # type: ignore[union-attr]
    process.process.kill()  # type: ignore[union-attr]
    ended = await asyncio.wait_for(running, 9)
    assert ended.status == "server_lost"
    assert "start it again" in ended.detail
    assert not connection.alive
    with pytest.raises(ServerUnreachable, match="the server 'own' does not answer"):
        await kernels.connection(server, "main")
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


async def test_a_server_that_hangs_for_a_moment_loses_nothing(
    kernels: Kernels, own_server: tuple[Server, JupyterServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is given up and made again, and what was printed meanwhile is there."""
    monkeypatch.setattr("jupyterhub_agentfarm.agents.jupyter.kernel_connection.HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr("jupyterhub_agentfarm.agents.jupyter.kernel_connection.RECONNECT_SECONDS", 20)
    process, server = own_server
    connection = await kernels.connection(server, "main")
    outputs = Outputs(10_000)
    code = "import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.1)"
    running = asyncio.ensure_future(connection.execute(code, 100, outputs))
    await asyncio.wait_for(outputs.changed.wait(), 20)
    socket = connection._socket
    pid = process.process.pid  # type: ignore[union-attr]
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: socket is not None and socket.closed, "the connection is given up", timeout=20)
    os.kill(pid, signal.SIGCONT)
    ended = await asyncio.wait_for(running, 40)
    assert ended.status in ("ok", "output_lost")
    if ended.status == "ok":
        assert outputs.transcript().endswith("39\n")


async def test_calls_of_one_kernel_wait_for_each_other(kernels: Kernels, server: JupyterServer) -> None:
    """Each is executed, in order; one that waits too long is told what is going on."""
    connection = await kernels.connection(server, "line")
    outputs = [Outputs(100) for _ in range(5)]
    code = "n = globals().get('n', 0) + 1; n"
    await asyncio.gather(*(connection.execute(code, 20, each) for each in outputs))
    assert [each.transcript() for each in outputs] == [f"{n}\n" for n in range(1, 6)]
    slow = asyncio.ensure_future(connection.execute("import time; time.sleep(60)", 2, Outputs(100)))
    await asyncio.sleep(0)
    with pytest.raises(KernelBusy, match=r"busy for 0\.2 s"):
        await connection.execute("1", 0.2, Outputs(100))
    assert (await slow).status == "timeout"


async def test_a_name_or_language_that_is_not_there(kernels: Kernels, server: JupyterServer) -> None:
    """Refused with what there is, and a kernel of another language is not taken for the one wanted."""
    with pytest.raises(InvalidField, match=r"language must be a kernel of this server: .*python3 \(python\)"):
        await kernels.connection(server, "none", "cobol")
    with pytest.raises(InvalidField, match="kernel must be 1-64 letters"):
        await kernels.connection(server, "../x")
    assert (await kernels.connection(server, "lang", "Python")).spec == "python3"
    with pytest.raises(ConflictError, match="'none' is a python3 kernel"):
        await _as_if_spec(kernels, server, "none")
    with pytest.raises(NotFoundError, match="has no kernel 'never'"):
        await kernels.act(server, "never", "interrupt")


async def _as_if_spec(kernels: Kernels, server: JupyterServer, name: str) -> None:
    """Ask for the same kernel by another specification, which resolves to itself."""
    await kernels.connection(server, name)

    class Two(Kernels):
        async def _resolve(self, server: JupyterServer, language: str) -> str:
            return language

    other = Two()
    await other.open()
    try:
        await other.connection(JupyterServer(other.session, server.url, "", TOKEN), name, "ir")
    finally:
        await other.aclose()


@pytest.mark.rkernel
async def test_another_language(kernels: Kernels, server: JupyterServer) -> None:
    """R's kernel is found by the language's name, keeps its state, and its errors are values too."""
    connection = await kernels.connection(server, "stats", "R")
    assert connection.spec == "ir"
    await connection.execute("x <- c(1, 2, 6)", 40, Outputs(1000))
    outputs = Outputs(1000)
    assert (await connection.execute("mean(x)", 20, outputs)).status == "ok"
    assert outputs.transcript().split() == ["[1]", "3"]
    outputs = Outputs(1000)
    assert (await connection.execute("stop('no such column')", 20, outputs)).status == "error"
    assert outputs.error is not None
    assert "no such column" in outputs.error.evalue + outputs.error.traceback


async def test_messages_that_make_no_sense_are_passed_over(kernels: Kernels, server: JupyterServer) -> None:
    """Whoever has the kernel may send anything; the connection goes on."""
    connection = await kernels.connection(server, "odd")
    outputs = Outputs(1000)
    code = "print('sense', flush=True)\nimport time\ntime.sleep(1)"
    running = asyncio.ensure_future(connection.execute(code, 30, outputs))
    await asyncio.wait_for(outputs.changed.wait(), 20)
    (identity,) = connection._executions
    for kind, content in (("stream", {}), ("display_data", {"data": "?"}), ("update_display_data", {"data": 7})):
        await connection._take_frame(frame_of(kind, content, identity))
    await connection._take_frame(b"\xff" * 40)
    assert (await running).status == "ok"
    assert connection.alive
    assert outputs.transcript() == "sense\n"


async def test_a_wrong_token_is_refused(kernels: Kernels, server: JupyterServer) -> None:
    """By the server itself."""
    with pytest.raises(ServerRefused) as refused:
        await kernels.connection(JupyterServer(kernels.session, server.url, "", "wrong"), "main")
    assert refused.value.status == 403


async def test_connections_are_bounded_and_reaped(server: JupyterServer) -> None:
    """The one not used for longest gives way, and those not used at all are closed in time."""
    kernels = Kernels(config=Config({"Kernels": {"max_connections_per_caller": 2, "idle_timeout": 0.3}}))
    await kernels.open()
    mine = JupyterServer(kernels.session, server.url, "", TOKEN)
    first = await kernels.connection(mine, "a")
    await kernels.connection(mine, "b")
    await kernels.connection(mine, "c")
    assert not first.alive
    assert kernels.warm(TOKEN, "", "a") is None
    await eventually(lambda: kernels.warm(TOKEN, "", "b") is None, "b is closed", timeout=10)
    await eventually(lambda: kernels.warm(TOKEN, "", "c") is None, "c is closed", timeout=10)
    await kernels.aclose()
    await kernels.aclose()
