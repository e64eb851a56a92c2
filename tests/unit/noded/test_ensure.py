"""`--ensure`: one noded, in the background, whoever asks and how many ask."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from noded_process import connect
from waiting import eventually

from jupyterhub_agentfarm.errors import ConflictError
from jupyterhub_agentfarm.noded import ending, procfs
from jupyterhub_agentfarm.noded import ensure as ensure_module
from jupyterhub_agentfarm.noded.app import NodedApp
from jupyterhub_agentfarm.protocol import PROTOCOL_VERSION


@pytest.fixture
async def state_dir() -> AsyncIterator[Path]:
    """A state directory; the noded that runs in it is ended afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="af"))
    yield folder
    with_daemon = folder / "noded.sock"
    if with_daemon.exists():
        client = await connect(with_daemon, hello=False, subscribe=False)
        pid = (await client.call("hello", {"protocol": 1}))["pid"]
        await client.close()
        os.kill(pid, signal.SIGTERM)
        await eventually(lambda: (found := procfs.read(pid)) is None or found.zombie, "noded ends")
    shutil.rmtree(folder)


async def ensure(state_dir: Path, **options: object) -> tuple[int, str, str]:
    """Run `--ensure`; see :func:`noded`."""
    return await noded("--ensure", state_dir, **options)


async def noded(flag: str, state_dir: Path, **options: object) -> tuple[int, str, str]:
    """Run noded in a session of its own; return status and output, which ends when all holders closed it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyterhub_agentfarm.noded", flag, f"--state-dir={state_dir}"),
        *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_it_starts_one_that_survives_and_finds_it_again(state_dir: Path) -> None:
    """The line names socket and process; the daemon has its own session, and the second call starts nothing."""
    status, out, err = await ensure(state_dir, simulated_gpus=3)
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert answer["socket"] == str(state_dir / "noded.sock")
    process = procfs.read(answer["pid"])
    assert process
    assert process.session == answer["pid"]
    client = await connect(state_dir / "noded.sock")
    assert len([g for g in (await client.call("telemetry"))["gpus"] if g["simulated"]]) == 3
    await client.close()
    assert json.loads((await ensure(state_dir))[1]) == answer
    assert stat.S_IMODE((state_dir / "noded.log").stat().st_mode) == 0o600


async def test_stop_ends_the_one_that_runs(state_dir: Path) -> None:
    """`--stop` names the process, which is gone then; where none runs it says so."""
    pid = json.loads((await ensure(state_dir))[1])["pid"]
    process = procfs.read(pid)
    assert process
    assert json.loads((await noded("--stop", state_dir))[1]) == {"pid": pid}
    now = procfs.read(pid)
    assert now is None or now.zombie or now.start_ticks != process.start_ticks
    status, out, err = await noded("--stop", state_dir)
    assert (status, json.loads(out), err) == (0, {"pid": None}, "")


async def test_stop_ends_one_that_hangs(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A noded on which SIGTERM has no effect is killed, so that another one can take its place."""
    monkeypatch.setattr(ending, "_PATIENCE_SECONDS", 0.2)
    pid = json.loads((await ensure(state_dir))[1])["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert await asyncio.to_thread(ending.end_running, state_dir / "noded.sock") == pid
    assert json.loads((await ensure(state_dir))[1])["pid"] != pid


def test_filesystems_that_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default those of the root, the home and the state directory are, each once, also before they are made."""
    monkeypatch.setenv("HOME", "/")
    assert NodedApp(state_dir="/proc/none/yet").mountpoints == ["/", "/proc"]
    monkeypatch.setenv("HOME", "/proc/self")
    assert NodedApp(state_dir="/").mountpoints == ["/", "/proc"]


async def test_several_at_once_start_one(state_dir: Path) -> None:
    """Of five at the same moment all succeed and name the same process."""
    results = await asyncio.gather(*(ensure(state_dir) for _ in range(5)))
    assert [status for status, _, _ in results] == [0] * 5, results
    assert len({out for _, out, _ in results}) == 1


async def test_a_stale_socket_is_replaced(state_dir: Path) -> None:
    """The socket of a noded that was killed does not stand in the way."""
    first = json.loads((await ensure(state_dir))[1])
    os.kill(first["pid"], signal.SIGKILL)
    await eventually(lambda: (found := procfs.read(first["pid"])) is None or found.zombie, "noded is dead")
    assert (state_dir / "noded.sock").exists()
    second = json.loads((await ensure(state_dir))[1])
    assert second["pid"] != first["pid"]


async def test_a_failure_is_one_sentence(state_dir: Path) -> None:
    """A path that no socket can have ends with status 1 and says what to do."""
    status, out, err = await ensure(state_dir / ("x" * 120))
    assert (status, out) == (1, "")
    assert "shorter --state-dir" in err
    assert len(err.splitlines()) == 1


async def test_a_noded_that_hangs_is_said_so(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that holds the directory and does not answer cannot be replaced; the failure tells what to do."""
    monkeypatch.setattr(ensure_module, "_DEADLINE_SECONDS", 8)
    monkeypatch.setattr(ensure_module, "_ANSWER_SECONDS", 0.2)
    pid = json.loads((await ensure(state_dir))[1])["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ConflictError, match="hangs or is stopped"):
            await asyncio.to_thread(
                ensure_module.ensure, state_dir / "noded.sock", [f"--state-dir={state_dir}", "--log-level=WARN"]
            )
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_noded_of_another_protocol_is_left_alone(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses our version of the protocol, also one that we just started, is neither killed nor doubled."""
    monkeypatch.setattr(ensure_module, "PROTOCOL_VERSION", PROTOCOL_VERSION + 1)
    arguments = [f"--state-dir={state_dir}"]
    assert await asyncio.to_thread(ensure_module.ensure, state_dir / "noded.sock", arguments) == 0
    client = await connect(state_dir / "noded.sock")
    pid = (await client.call("hello", {"protocol": PROTOCOL_VERSION}))["pid"]
    await client.close()
    assert await asyncio.to_thread(ensure_module.ensure, state_dir / "noded.sock", arguments) == 0
    process = procfs.read(pid)
    assert process
    assert not process.zombie


async def test_a_second_daemon_gives_up(state_dir: Path) -> None:
    """The lock is held for the daemon's life: another one with the same directory ends at once."""
    await ensure(state_dir)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyterhub_agentfarm.noded", f"--state-dir={state_dir}"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    assert process.returncode == 75
    assert b"another noded runs" in err


MANAGED_UNIT = Path(__file__).parents[3] / "share" / "systemd" / "agentfarm-noded.service"


async def managed(state_dir: Path) -> asyncio.subprocess.Process:
    """Start noded as a service manager does."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyterhub_agentfarm.noded", "--managed", f"--state-dir={state_dir}"),
        stderr=asyncio.subprocess.DEVNULL,
    )


async def answers(state_dir: Path) -> int | None:
    """Return the pid of the noded that answers."""
    return await asyncio.to_thread(ensure_module.running, state_dir / "noded.sock")


async def test_the_place_of_a_managed_noded_is_kept(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the end of a service manager's noded `--ensure` starts none and finds the one that comes next."""
    monkeypatch.setattr(ensure_module, "MANAGED_SECONDS", 40)
    first = await managed(state_dir)
    await eventually(lambda: answers(state_dir), "the service manager's noded answers")
    first.terminate()
    await first.wait()
    asked, started, real = [], [], ensure_module.running
    monkeypatch.setattr(ensure_module, "running", lambda path: asked.append(path) or real(path))
    monkeypatch.setattr(ensure_module, "_start", lambda *_: started.append(1))
    ensuring = asyncio.create_task(
        asyncio.to_thread(ensure_module.ensure, state_dir / "noded.sock", [f"--state-dir={state_dir}"])
    )
    await eventually(lambda: len(asked) > 3 or ensuring.done(), "--ensure looks for a noded again and again")
    assert started == []
    second = await managed(state_dir)
    async with asyncio.timeout(30):
        assert await ensuring == second.pid
    assert started == []
    second.terminate()
    await second.wait()


async def test_without_its_service_manager_a_noded_is_started_after_all(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the service manager's noded does not come, `--ensure` starts one."""
    monkeypatch.setattr(ensure_module, "MANAGED_SECONDS", 0.2)
    ensure_module.mark_managed(state_dir)
    pid = await asyncio.to_thread(ensure_module.ensure, state_dir / "noded.sock", [f"--state-dir={state_dir}"])
    assert pid == await answers(state_dir)


async def test_a_managed_noded_that_finds_its_place_taken_leaves_the_mark(state_dir: Path) -> None:
    """A service manager that comes later than `--ensure` is waited for once the other noded ends."""
    await ensure(state_dir)
    mark = state_dir / "noded.managed"
    assert not mark.exists()
    assert await (await managed(state_dir)).wait() == ensure_module.ALREADY_RUNS
    assert stat.S_IMODE(mark.stat().st_mode) == 0o600


def test_our_unit_is_waited_for() -> None:
    """The unit leaves the mark, and comes again well within the time that `--ensure` waits."""
    unit = MANAGED_UNIT.read_text("utf-8")
    assert re.search(r"^ExecStart=.* --managed ", unit, re.MULTILINE)
    (seconds,) = re.findall(r"^RestartSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) + 5 < ensure_module.MANAGED_SECONDS
