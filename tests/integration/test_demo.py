"""``agentfarm demo``: from nothing to a report, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from waiting import eventually

from jupyterhub_agentfarm.demo.layout import Layout
from jupyterhub_agentfarm.demo.processes import find

pytestmark = pytest.mark.hub

CLI = [sys.executable, "-m", "jupyterhub_agentfarm.cli", "demo"]
DEADLINE_SECONDS = 280


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a short path: the nodes' unix sockets are below it."""
    path = Path(tempfile.mkdtemp(prefix="af"))
    yield path / "demo"
    left = find(Layout(path / "demo"))
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)
    shutil.rmtree(path)


async def _start(directory: Path, *options: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *CLI, "--dir", str(directory), *options, env=os.environ | environment,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def _end(demo: asyncio.subprocess.Process) -> tuple[str, str]:
    out, err = await asyncio.wait_for(demo.communicate(), DEADLINE_SECONDS)
    return out.decode(), err.decode()


def _left(directory: Path) -> list[str]:
    """Return the command lines of the demo's processes."""
    return [" ".join(process.cmdline()) for process in find(Layout(directory))]


def _runs(directory: Path, program: str) -> bool:
    return any(program in line for line in _left(directory))


async def test_once(directory: Path) -> None:
    """With --once the demo measures all three nodes, writes the report, ends with status 0 and leaves no process."""
    demo = await _start(directory, "--once")
    out, err = await _end(demo)
    assert demo.returncode == 0, err
    assert out == f"Report: {directory}/report.html\n"
    for node in ("micro-1", "micro-2", "gpu-1"):
        assert f"{node}: " in err
        assert node in (directory / "report.html").read_text()
    assert _left(directory) == []
    assert not (directory / "state").exists()
    assert "an agent:         scout, whose token is in " in err
    assert not (directory / "agent.token").exists()
    assert "Traceback" not in err


async def test_a_signal_ends_it(directory: Path) -> None:
    """SIGTERM while servers run ends everything: Hub, proxy, services, SSH server, noded, servers, kernels."""
    demo = await _start(directory, "--once")
    assert demo.stderr is not None
    said = ""
    while "cell" not in said:  # a notebook is under way
        line = await asyncio.wait_for(demo.stderr.readline(), DEADLINE_SECONDS)
        assert line, said
        said += line.decode()
    await eventually(lambda: _runs(directory, "ipykernel"), "a kernel runs", 60)
    assert _runs(directory, "jupyterhub_agentfarm.noded")
    demo.send_signal(signal.SIGTERM)
    _, err = await _end(demo)
    assert demo.returncode == 130
    assert err.splitlines()[-1] == "agentfarm: interrupted"
    assert _left(directory) == []


async def test_a_proxy_that_does_not_start(directory: Path) -> None:
    """A broken part ends the demo with status 1, the last lines of its log and one sentence."""
    demo = await _start(directory, "--once", AGENTFARM_PROXY_COMMAND=json.dumps([sys.executable, "-c", "exit(3)"]))
    out, err = await _end(demo)
    last = err.splitlines()[-1]
    assert (demo.returncode, out) == (1, "")
    assert last.startswith("agentfarm: the Hub ended with status 1: see ")
    assert last.endswith("/logs/hub.log")
    assert "  | " in err
    assert _left(directory) == []


async def test_a_killed_demo_is_cleared_away(directory: Path) -> None:
    """What a demo that was killed left behind is ended by the next one in that directory."""
    demo = await _start(directory)
    await eventually((directory / "state" / "nodes.json").exists, "the nodes' SSH server runs", 60)
    demo.kill()
    await demo.communicate()
    await eventually(lambda: _left(directory), "the SSH server outlives the demo")
    broken = json.dumps([sys.executable, "-c", "exit(3)"])
    again = await _start(directory, "--once", AGENTFARM_PROXY_COMMAND=broken)
    _, err = await _end(again)
    assert "processes that an earlier demo" in err.splitlines()[0]
    assert _left(directory) == []


def _contents(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.fixture
def strange(directory: Path) -> Path:
    """Give a file in the directory."""
    directory.mkdir()
    (directory / "thesis.tex").write_text("x")
    return directory / "thesis.tex"


async def test_directories_of_others(directory: Path, strange: Path) -> None:
    """A directory with something else in it is left alone."""
    demo = await _start(directory, "--once")
    out, err = await _end(demo)
    assert (demo.returncode, out) == (1, "")
    assert err == f"agentfarm: {directory} holds something else: name an empty directory, or a new one, with --dir\n"
    assert _contents(directory) == ["thesis.tex"]


async def test_one_demo_in_a_directory(directory: Path) -> None:
    """A second demo in the same directory is refused and does not touch the first."""
    layout = Layout(directory)
    layout.claim()
    demo = await _start(directory, "--once")
    _, err = await _end(demo)
    assert (demo.returncode, err) == (
        1,
        f"agentfarm: a demo runs in {directory} already: stop it, or name another directory with --dir\n",
    )
    layout.release()
