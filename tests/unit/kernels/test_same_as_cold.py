"""Whatever a user can see of a kernel is the same, whether it was started cold or forked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernel_ways import COLD, MODULES, SEEN, WARM, Kernel, alive, kernel, warm_kernels
from waiting import eventually

from jupyterhub_agentfarm.kernels.warm import WarmKernels

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the account a home with a startup script, and a directory for notebooks."""
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "first.py").write_text("STARTED = 'from the profile'\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    (tmp_path / "notebooks").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def zygotes() -> Iterator[WarmKernels]:
    """Zygotes for the tests of this file."""
    with warm_kernels() as made:
        yield made


@pytest.fixture
def warm(zygotes: WarmKernels) -> WarmKernels:
    """The same, with nothing counted."""
    zygotes.starts.clear()
    return zygotes


@pytest.fixture(params=[COLD, WARM], ids=["cold", "warm"])
async def any_kernel(request: pytest.FixtureRequest, warm: WarmKernels) -> AsyncIterator[Kernel]:
    """A kernel of either way."""
    async with kernel(request.param) as made:
        yield made
    assert set(warm.starts) == ({("warm", "")} if request.param == WARM else set())


async def test_what_a_kernel_sees_of_itself(home: Path, warm: WarmKernels) -> None:
    """Everything in the list is the same, with the directory and variables that were asked for."""
    seen: dict[str, dict[str, Any]] = {}
    for way in (COLD, WARM):
        environment = {**os.environ, "MINE": "a value with = and \n and ä", "AGENTFARM_LEASE_ID": "lease-1"}
        async with kernel(way, cwd=str(home / "notebooks"), env=environment) as started:
            await started.output("import " + ", ".join(MODULES.split()))
            seen[way] = {name: await _seen(started, expression) for name, expression in SEEN.items()}
    assert warm.starts == {("warm", ""): 1}
    assert seen[COLD]["startup script"] == "from the profile"
    assert seen[COLD]["directory"] == str(home / "notebooks")
    assert seen[COLD]["environment"]["MINE"] == "a value with = and \n and ä"
    assert seen[COLD]["time zone"] == ["+0545", "+0545"]
    for name in SEEN:
        assert seen[WARM][name] == seen[COLD][name], name


async def _seen(started: Kernel, expression: str) -> Any:
    text = await started.output(f"print(json.dumps({expression}))")
    try:
        return json.loads(text)
    except ValueError as exc:
        raise AssertionError(f"{expression}: {text}") from exc


async def test_an_interrupt_stops_the_cell_and_what_it_started(any_kernel: Kernel) -> None:
    """The cell raises KeyboardInterrupt, a program that it started gets SIGINT, and the kernel goes on."""
    code = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    executing = asyncio.create_task(any_kernel.output(code))

    async def sleeping() -> bool:
        return any(_command(pid) == ["sleep", "60"] for pid in _children(any_kernel.pid))

    await eventually(sleeping, "the program runs", timeout=30)
    (program,) = _children(any_kernel.pid)
    await any_kernel.manager.interrupt_kernel()
    assert await executing == "begun\nKeyboardInterrupt"
    assert not alive(program)
    assert await any_kernel.output("print(1 + 1)") == "2\n"


async def test_a_restart_begins_anew_in_the_same_way(any_kernel: Kernel) -> None:
    """Another process, without the names of the first; its connection stays."""
    first = any_kernel.pid
    await any_kernel.output("import os; kept = 1; os.environ['SET'] = 'by the first'")
    assert await any_kernel.output("%env SET") == ""
    await any_kernel.manager.restart_kernel()
    await any_kernel.client.wait_for_ready(timeout=60)
    assert any_kernel.pid != first
    assert not alive(first)
    assert await any_kernel.value("['kept' in globals(), __import__('os').environ.get('SET')]") == [False, None]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os; os._exit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -11),
        ("quit()", 0),
    ],
)
async def test_how_a_kernel_ended(any_kernel: Kernel, code: str, status: int) -> None:
    """The exit status is that of the process, negative for a signal."""
    any_kernel.client.execute(code)
    assert await any_kernel.ended() == status


async def test_asked_to_end_it_ends(any_kernel: Kernel) -> None:
    """SIGTERM ends it, and is its exit status."""
    await any_kernel.manager.signal_kernel(signal.SIGTERM)
    assert await any_kernel.ended() == -15


async def test_a_shutdown_is_no_race(warm: WarmKernels, tmp_path: Path) -> None:
    """The control thread says that all is done while somebody still sends what it says, however late it is.

    Of ipykernel's own processes some stop the sender at that moment, and wait then until they are killed.
    """
    late = f"""
        import time, pathlib
        kernel = get_ipython().kernel
        say, sender = kernel._publish_status_and_flush, kernel.iopub_thread
        def say_late(state, channel, *more):
            time.sleep(0.3)
            pathlib.Path({str(tmp_path)!r}, channel).write_text(str(sender._stopped))
            say(state, channel, *more)
        kernel._publish_status_and_flush = say_late
    """
    async with kernel(WARM) as made:
        await made.output(textwrap.dedent(late))
        made.client.shutdown()
        assert await made.ended() == 0
        assert warm.starts[("warm", "")] == 1
    assert (tmp_path / "control").read_text() == "False"


async def test_processes_of_a_kernel(any_kernel: Kernel) -> None:
    """Pools that fork and that spawn work, and threads too."""
    code = """
        import concurrent.futures, multiprocessing, operator
        for way in ("fork", "spawn"):
            with multiprocessing.get_context(way).Pool(2) as pool:
                print(pool.map(abs, [-1, -2]))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            print(list(pool.map(abs, [-3])))
    """
    assert await any_kernel.output(textwrap.dedent(code)) == "[1, 2]\n[1, 2]\n[3]\n"


async def test_magics_shell_and_output(any_kernel: Kernel) -> None:
    """Variables set by %env reach programs; a program's output and a long one arrive whole."""
    assert "env: FOO=bar" in await any_kernel.output("%env FOO=bar")
    assert await any_kernel.output("!echo $FOO $$ > /dev/null; echo $FOO") in ("bar\n", "bar\r\n")
    assert len(await any_kernel.output("print('x' * 3_000_000)")) == 3_000_001


async def test_questions_of_the_control_channel(any_kernel: Kernel) -> None:
    """Resource usage and the debugger answer."""
    usage = await _asked(any_kernel, "usage_request", {})
    assert usage["pid"] == any_kernel.pid
    assert 0 < usage["kernel_memory"] < 2**30
    debug = {"type": "request", "seq": 1, "command": "debugInfo", "arguments": {}}
    assert (await _asked(any_kernel, "debug_request", debug))["success"]
    initialize = {"clientID": "t", "adapterID": "", "linesStartAt1": True, "columnsStartAt1": True}
    debug = {"type": "request", "seq": 2, "command": "initialize", "arguments": initialize}
    answer = await _asked(any_kernel, "debug_request", debug)
    assert answer["success"], answer
    assert answer["body"]["supportsSetVariable"]


async def _asked(started: Kernel, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    message = started.client.session.msg(kind, content)
    started.client.control_channel.send(message)
    async with asyncio.timeout(60):
        while True:
            answer = await started.client.control_channel.get_msg()
            if answer["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return answer["content"]


async def test_numbers_at_random_differ(warm: WarmKernels) -> None:
    """Three kernels of one zygote, two of them at once, draw different numbers from every generator."""
    drawn = []
    for _ in range(2):
        async with kernel(WARM) as one, kernel(WARM) as other:
            for each in (one, other):
                await each.output("import random, numpy, uuid, secrets, tempfile")
                generators = "random.random(), numpy.random.rand(), secrets.token_hex(4), str(uuid.uuid4())"
                drawn.append(await each.value(f"[{generators}, numpy.random.default_rng().random()]"))
    assert warm.starts == {("warm", ""): 4}
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == 4, values


async def test_a_kernel_ends_with_its_server(tmp_path: Path) -> None:
    """When the server is killed, its warm kernels and their zygote end; nothing is left."""
    program = textwrap.dedent(f"""
        import asyncio, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from kernel_ways import WARM, kernel, warm_kernels, zygote_pid
        async def main():
            with warm_kernels():
                async with kernel(WARM) as one, kernel(WARM) as other:
                    print(one.pid, other.pid, zygote_pid(one.pid), flush=True)
                    await asyncio.Event().wait()
        asyncio.run(main())
    """)
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert server.stdout is not None
    pids = [int(pid) for pid in (await server.stdout.readline()).split()]
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    server.kill()
    await server.wait()
    await eventually(lambda: not any(alive(pid) for pid in pids), "all have ended", timeout=20)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    return []
